"""The Weak Subnets term: what it is worth, where its gradient goes, and what it leaves alone."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_robust import backend, models
from keras_robust.layers import GaussianNoise, SubnetGate, SubnetSpace, subnet
from keras_robust.training import (
    SGD,
    ControllerSearch,
    JensenShannon,
    L1Search,
    Perturbation,
    RandomSearch,
    RobustTrainer,
    SubnetSearch,
    WeakSubnets,
)
from tests.training import nets

IMAGES, BATCH, CLASSES, FEATURES = 32, 16, 3, 6
FLOAT32 = 1e-5  # float32 sums of a few layers in another order


class Fixed(SubnetSearch):
    """Always the same subnet; keeps the accuracy that it measured last."""

    def __init__(self, space, masks):
        super().__init__(space)
        self.masks = masks
        self.accuracy = keras.Variable(-1.0, trainable=False, name="accuracy")
        self.variables = (self.accuracy,)

    def learn(self, accuracy, seed):
        self.accuracy.assign(accuracy(self.masks))

    def propose(self, seed):
        return self.masks


def unit(x, width, name, path, *, ends_path=False, relu=True):
    """Dense layer, batch normalisation, ReLU and gate."""
    start = keras.initializers.GlorotUniform(seed=width)
    x = layers.Dense(width, use_bias=False, kernel_initializer=start, name=name)(x)
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
    x = layers.ReLU(name=f"{name}_relu")(x) if relu else x
    return SubnetGate(name[:6], path, layer=name, ends_path=ends_path, name=f"{name}_gate")(x)


def make_model(sigma=None):
    """Two residual blocks of dense layers, the second with a projection: a residual network that compiles fast."""
    inputs = x = keras.Input((FEATURES,))
    if sigma is not None:
        x = GaussianNoise(sigma, role="input", seed=1)(x)
    residual = unit(x, 8, "block1_first", 0)
    residual = unit(residual, FEATURES, "block1_second", 0, ends_path=True, relu=False)
    skip = SubnetGate("block1", 1, ends_path=True, name="block1_skip_gate")(x)
    x = layers.ReLU()(layers.Add()([residual, skip]))
    residual = unit(x, 9, "block2_first", 0)
    residual = unit(residual, 10, "block2_second", 0, ends_path=True, relu=False)
    skip = unit(x, 10, "block2_shortcut", 1, ends_path=True, relu=False)
    x = layers.ReLU()(layers.Add()([residual, skip]))
    start = keras.initializers.GlorotUniform(seed=0)
    return keras.Model(inputs, layers.Dense(CLASSES, kernel_initializer=start, name="logits")(x))


def make_data():
    rng = np.random.default_rng(0)
    return rng.uniform(size=(IMAGES, FEATURES)).astype("float32"), rng.integers(0, CLASSES, IMAGES).astype("int32")


def random_masks(space, seed=0):
    return space.highest(np.random.default_rng(seed).random(space.size))


def ones(space):
    return {name: ops.ones((gate.channels,)) for name, gate in space.gates.items()}


def compiled(model, learning_rate=0.0, **parts):
    trainer = RobustTrainer(model, **parts)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(optimizer=SGD(learning_rate), loss=loss)
    return trainer


def fit(trainer, x, y, **options):
    return trainer.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, **options).history["loss"]


def numpy(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def training_logits(model, x, masks):
    variables = (model.trainable_variables, model.non_trainable_variables)
    values = [[ops.convert_to_tensor(variable) for variable in each] for each in variables]
    with subnet(model, masks):
        return numpy(model.stateless_call(*values, ops.convert_to_tensor(x), training=True)[0])


def log_softmax(logits):
    logits = logits.astype("float64")
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def divergence(p, q):
    p, q = log_softmax(p), log_softmax(q)
    return (np.exp(p) * (p - q)).sum(-1).mean()


def term_of(model, masks, **options):
    """A prepared term, on the first batch."""
    space = SubnetSpace(model)
    x, y = (ops.convert_to_tensor(part[:BATCH]) for part in make_data())
    term = WeakSubnets(Fixed(space, masks(space)), **options)
    term.prepare(model, x, y)
    return term, x, y


def test_a_subnet_has_other_logits_than_the_network():
    model = make_model()
    x, _ = make_data()
    with subnet(model, random_masks(SubnetSpace(model))):
        cut = numpy(model(x))
    assert np.abs(cut - numpy(model(x))).max() > 0.01


def test_all_ones_give_the_network_exactly():
    model = make_model()
    x, _ = make_data()
    whole = numpy(model(x))
    with subnet(model, ones(SubnetSpace(model))):
        np.testing.assert_array_equal(numpy(model(x)), whole)


def test_the_term_is_the_divergence_of_the_subnet_from_the_network():
    model = make_model()
    space = SubnetSpace(model)
    x, y = make_data()
    masks = random_masks(space)
    teacher, student = training_logits(model, x[:BATCH], {}), training_logits(model, x[:BATCH], masks)
    forward, backward = divergence(teacher, student), divergence(student, teacher)
    assert forward > 1e-3
    chance = -log_softmax(student)[np.arange(BATCH), y[:BATCH]].mean()
    for options, expected in (
        ({}, forward),
        ({"distillation_weight": 2.5}, 2.5 * forward),
        ({"loss": "reverse_kl"}, backward),
        ({"loss": "cross_entropy"}, chance),
        ({"reduction": "element_mean"}, forward / CLASSES),
        ({"distillation_weight": 0.0, "clean_weight": 3.0}, 3 * forward),
        ({"clean_weight": 1.0}, 2 * forward),
    ):
        term, images, labels = term_of(model, lambda space: random_masks(space), **options)
        value = term(model, images, labels, ops.convert_to_tensor(teacher), images)
        assert float(value) == pytest.approx(expected, rel=1e-4), options


def test_masks_of_ones_have_no_divergence():
    model = make_model()
    term, x, y = term_of(model, ones)
    teacher = ops.convert_to_tensor(training_logits(model, numpy(x), {}))
    assert float(term(model, x, y, teacher, x)) == pytest.approx(0.0, abs=FLOAT32)


def test_the_gradient_goes_through_the_subnet_only():
    model = make_model()
    term, x, y = term_of(model, random_masks)
    teacher = ops.convert_to_tensor(training_logits(model, numpy(x), {}))
    _, to_teacher = backend.value_and_grad(lambda y_pred: term(model, x, y, y_pred, x), teacher)
    np.testing.assert_array_equal(numpy(to_teacher), np.zeros((BATCH, CLASSES)))
    attached, _, _ = term_of(model, random_masks, detach_teacher=False)
    _, to_teacher = backend.value_and_grad(lambda y_pred: attached(model, x, y, y_pred, x), teacher)
    assert np.abs(numpy(to_teacher)).max() > 1e-4


def test_a_step_moves_the_weights_by_the_subnets_gradient():
    """With a loss of zero beside it, a dropped channel of the last stage gets no gradient, a kept one does."""
    model = make_model()
    space = SubnetSpace(model)
    masks = random_masks(space)
    trainer = compiled(
        model,
        1.0,
        objective=lambda model, x, y, y_pred, x_clean: 0.0 * ops.mean(y_pred),
        terms=[WeakSubnets(Fixed(space, masks))],
    )
    x, y = make_data()
    before = numpy(model.get_layer("block2_second").kernel.value)
    fit(trainer, x[:BATCH], y[:BATCH])
    moved = np.abs(numpy(model.get_layer("block2_second").kernel.value) - before)
    inputs = numpy(masks["block2_first_gate"]).astype(bool)
    outputs = numpy(masks["block2_second_gate"]).astype(bool)
    assert 0 < inputs.sum() < len(inputs)
    assert 0 < outputs.sum() < len(outputs)
    assert moved[~inputs].max() == moved[:, ~outputs].max() == 0
    assert moved[inputs][:, outputs].max() > 1e-6


def test_the_moving_averages_are_those_of_training_without_the_term():
    x, y = make_data()
    plain, enhanced = make_model(), make_model()
    fit(compiled(plain), x, y)
    search = ControllerSearch(SubnetSpace(enhanced), hidden=4, interval=1)
    fit(compiled(enhanced, terms=[WeakSubnets(search, clean_weight=1.0)]), x, y)
    averages = [variable for variable in plain.non_trainable_variables if "moving" in variable.path]
    assert len(averages) == 10
    for one, other in zip(plain.non_trainable_variables, enhanced.non_trainable_variables, strict=True):
        np.testing.assert_allclose(numpy(one), numpy(other), atol=1e-6, err_msg=one.path)
    for variable in averages:
        assert np.abs(numpy(variable) - (1 if "variance" in variable.path else 0)).max() > 1e-3


def grouped_model():
    """A grouped, then a depthwise convolution, with gates after each and a skip."""
    inputs = keras.Input((6,))
    x = skip = layers.Reshape((3, 1, 2))(inputs)
    for name, layer in (
        ("grouped", layers.Conv2D(8, (3, 1), padding="same", groups=2, use_bias=False, name="grouped")),
        ("depthwise", layers.DepthwiseConv2D((3, 1), padding="same", use_bias=False, name="depthwise")),
    ):
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layer(x)))
        x = SubnetGate("block", 0, layer=name, name=f"{name}_gate")(x)
    x = layers.Conv2D(2, 1, name="project")(x)
    x = SubnetGate("block", 0, layer="project", ends_path=True, name="residual_gate")(x)
    skip = SubnetGate("block", 1, ends_path=True, name="skip_gate")(skip)
    x = layers.Flatten()(layers.Add()([x, skip]))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def test_grouped_and_depthwise_convolutions_are_cut_too_and_averages_stay_with_the_network():
    x, y = make_data()
    model = grouped_model()
    space = SubnetSpace(model, rho=0.5)
    masks = random_masks(space)
    teacher, student = training_logits(model, x, {}), training_logits(model, x, masks)
    assert divergence(teacher, student) > 1e-5
    np.testing.assert_array_equal(training_logits(model, x, ones(space)), teacher)
    kernel = np.abs(numpy(model.get_layer("depthwise").kernel.value)).sum((0, 1))[:, 0]
    lowest = numpy(L1Search(space).propose(None)["depthwise_gate"]).astype(bool)
    assert lowest.sum() == 4
    assert kernel[lowest].max() < kernel[~lowest].min()
    start = model.get_weights()
    states = []
    for terms in ([], [WeakSubnets(Fixed(space, masks))]):
        model.set_weights(start)
        fit(compiled(model, terms=terms), x, y)
        states.append(model.get_weights())
    for one, other in zip(*states, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


class Shift(Perturbation):
    """Moves the images by an amount that changes at each step."""

    def __init__(self):
        self.amount = keras.Variable(0.0, trainable=False, name="amount")
        self.variables = (self.amount,)

    def __call__(self, model, x, y, seed):
        self.amount.assign(self.amount + 1.0)
        return x + self.amount


def bright_or_not():
    """Tells images with a mean above 1.5 from others, and has a gate."""
    inputs = keras.Input((FEATURES,))
    start = keras.initializers.Constant(1 / (4 * FEATURES))
    x = layers.Dense(4, use_bias=False, kernel_initializer=start, name="mean")(inputs)
    x = SubnetGate("block", 0, layer="mean", ends_path=True, name="gate")(x)
    model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
    model.get_layer("logits").set_weights([np.array([[-1.0, 1.0]] * 4) / 2, np.array([0.75, -0.75])])
    return model


def test_the_reward_is_the_accuracy_on_the_perturbed_batch_of_the_step():
    """Step 1 gives images of 1.2, below the threshold; step 2 gives images of 2.2."""
    model = bright_or_not()
    space = SubnetSpace(model, rho=0.5)
    search = Fixed(space, {"gate": ops.ones((4,))})
    trainer = compiled(model, perturbations=[Shift()], terms=[WeakSubnets(search)])
    x = np.full((BATCH, FEATURES), 0.2, "float32")
    y = np.ones(BATCH, "int32")
    accuracies = []
    for _ in range(2):
        fit(trainer, x, y)
        accuracies.append(float(numpy(search.accuracy)))
    assert accuracies == [0.0, 1.0]


def test_with_three_views_the_reward_is_the_accuracy_on_the_first():
    model = bright_or_not()
    search = Fixed(SubnetSpace(model, rho=0.5), {"gate": ops.ones((4,))})
    x = np.repeat(np.array([2.0, 1.0, 1.0], "float32"), 4)[:, None] * np.ones((1, FEATURES), "float32")
    x[0] = 1.0
    trainer = compiled(model, objective=JensenShannon(), terms=[WeakSubnets(search, views=3)])
    fit(trainer, x, np.ones(12, "int32"))
    assert float(numpy(search.accuracy)) == 0.75


def test_weak_subnets_train_on_three_views_of_each_image():
    x, _ = make_data()
    y = (x.mean(1) > np.median(x.mean(1))).astype("int32")
    views = np.concatenate([x, x + 0.05, x - 0.05])
    model = make_model()
    search = ControllerSearch(SubnetSpace(model), hidden=4, interval=2)
    trainer = compiled(model, 0.05, objective=JensenShannon(), terms=[WeakSubnets(search, views=3)])
    history = trainer.fit(views, np.tile(y, 3), batch_size=96, shuffle=False, verbose=0, epochs=12).history["loss"]
    assert np.isfinite(history).all()
    assert np.mean(history[-3:]) < np.mean(history[:3])


@pytest.mark.slow
def test_a_residual_network_trains_with_weak_subnets_under_noise(rng):
    x = rng.uniform(size=(BATCH, 8, 8, 3)).astype("float32")
    y = (x.mean((1, 2, 3)) > np.median(x.mean((1, 2, 3)))).astype("int32")
    model = models.build("resnet8", 2, (8, 8, 3), planes=(4, 4, 4), sigma=0.01, seed=0)
    search = ControllerSearch(SubnetSpace(model), hidden=4, interval=2)
    history = fit(compiled(model, 0.1, terms=[WeakSubnets(search)]), x, y, epochs=12)
    assert np.isfinite(history).all()
    assert np.mean(history[-3:]) < np.mean(history[:3])


@pytest.mark.parametrize("kind", [ControllerSearch, RandomSearch, L1Search])
def test_a_training_with_noise_and_weak_subnets_learns_and_its_model_stays_plain(kind, tmp_path):
    x, _ = make_data()
    y = (x.mean(1) > np.median(x.mean(1))).astype("int32")
    model = make_model(sigma=0.01)
    search = kind(SubnetSpace(model), **({"hidden": 4, "interval": 2} if kind is ControllerSearch else {}))
    history = fit(compiled(model, 0.1, terms=[WeakSubnets(search)]), x, y, epochs=8)
    assert np.isfinite(history).all()
    assert np.mean(history[-2:]) < np.mean(history[:2])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), atol=FLOAT32)


def test_noise_of_the_subnets_pass_is_not_drawn_again_in_the_next_step():
    model = make_model(sigma=0.1)
    layer = next(layer for layer in model.layers if isinstance(layer, GaussianNoise))
    x, y = make_data()
    steps = []
    for terms in ([], [WeakSubnets(RandomSearch(SubnetSpace(model)))]):
        before = numpy(layer.seed_generator.state).astype("int64")
        fit(compiled(model, terms=terms), x[:BATCH], y[:BATCH])
        steps.append((numpy(layer.seed_generator.state).astype("int64") - before).sum())
    assert steps == [1, 2]


class Plain(keras.Model):
    """A model whose `call` has no argument `training`."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.built = True

    def call(self, inputs):
        return self.model(inputs)


def test_models_whose_call_lacks_training_have_weak_subnets_too():
    model, (x, y) = Plain(nets.dense()), nets.images()
    trainer = RobustTrainer(model, terms=[WeakSubnets(RandomSearch(SubnetSpace(model)))])
    assert np.isfinite(nets.fit(nets.compiled(trainer, 0.1), x, y)).all()


def test_one_hot_labels_are_refused():
    model, (x, y) = nets.dense(), nets.images()
    term = WeakSubnets(RandomSearch(SubnetSpace(model)))
    with pytest.raises(ValueError, match=r"integer labels.*argmax"):
        term.prepare(model, ops.convert_to_tensor(x), ops.convert_to_tensor(np.eye(3, dtype="float32")[y]))


@pytest.mark.once
def test_wrong_options_are_refused():
    search = RandomSearch(SubnetSpace(make_model()))
    with pytest.raises(ValueError, match=r"`search` must be a SubnetSearch.*Received: search=0\.7"):
        WeakSubnets(0.7)
    with pytest.raises(ValueError, match="`distillation_weight` must be a factor of at least 0"):
        WeakSubnets(search, distillation_weight=-1.0)
    with pytest.raises(ValueError, match="`loss` must be one of 'kl', 'reverse_kl', 'cross_entropy'"):
        WeakSubnets(search, loss="mse")
    with pytest.raises(ValueError, match="`prepare"):
        WeakSubnets(search)(None, None, None, None, None)
