"""RobustTrainer through plain `fit`: each part against a loss that is known in closed form."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_robust.layers import GaussianNoise, noise_at_inference, subnet
from keras_robust.training import (
    AWP,
    SGD,
    Adversarial,
    Batches,
    CrossEntropy,
    GaussianNoiseInput,
    Perturbation,
    RobustTrainer,
    Trades,
)
from tests.training import nets

IMAGES, BATCH = 64, 16
# The mean of 64 * 75 squared normal draws has a relative standard error of 2 %; five of them.
FIVE_STANDARD_ERRORS = 0.10


def make_model(seed=0):
    return keras.Sequential(
        [
            keras.Input((5, 5, 3)),
            layers.Conv2D(4, 3, kernel_initializer=keras.initializers.GlorotUniform(seed)),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(seed + 1)),
        ]
    )


def make_linear():
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, use_bias=False, kernel_initializer="zeros")])


def make_data(shape=(5, 5, 3)):
    rng = np.random.default_rng(0)
    return rng.uniform(size=(IMAGES, *shape)).astype("float32"), rng.integers(0, 3, IMAGES).astype("int32")


def compiled(model, learning_rate=0.0, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=SGD(learning_rate, **options), loss=loss, metrics=["accuracy"])
    return model


def fit(trainer, x, y, **options):
    return trainer.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, **options).history


def squared_distance(model, x, y, y_pred, x_clean):
    return ops.mean(ops.square(x - x_clean)) + 0.0 * ops.mean(y_pred)


class Shift(Perturbation):
    def __call__(self, model, x, y, seed):
        return x + 1.0


class Double(Perturbation):
    def __call__(self, model, x, y, seed):
        return x * 2.0


def test_a_trainer_without_parts_trains_as_the_model_alone():
    x, y = make_data()
    plain, wrapped = make_model(), make_model()
    fit(compiled(plain, 0.1, momentum=0.9), x, y, epochs=2)
    fit(compiled(RobustTrainer(wrapped), 0.1, momentum=0.9), x, y, epochs=2)
    for one, other in zip(plain.get_weights(), wrapped.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_noise_has_the_sigma_that_its_variable_holds_also_after_a_callback_changed_it():
    x, y = make_data()
    noise = GaussianNoiseInput(0.1)
    change = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: noise.sigma.assign(0.1 if epoch == 0 else 0.3)
    )
    trainer = compiled(RobustTrainer(make_model(), perturbations=[noise], objective=squared_distance))
    history = fit(trainer, x, y, epochs=2, callbacks=[change])
    np.testing.assert_allclose(history["loss"], [0.01, 0.09], rtol=FIVE_STANDARD_ERRORS)


def test_each_step_draws_new_noise_and_the_same_seed_the_same():
    x, y = make_data()
    runs = []
    for seed in (0, 0, 1):
        noise = GaussianNoiseInput(0.1)
        trainer = RobustTrainer(make_model(), perturbations=[noise], objective=squared_distance, seed=seed)
        runs.append(fit(compiled(trainer), x, y, epochs=2)["loss"])
    assert runs[0] == runs[1] != runs[2]
    assert runs[0][0] != runs[0][1]


@pytest.mark.parametrize(("parts", "expected"), [((Shift(), Double()), 2.0), ((Double(), Shift()), 1.0)])
def test_perturbations_act_in_the_order_given(parts, expected):
    x, y = make_data()
    zeros = np.zeros_like(x)
    trainer = RobustTrainer(make_model(), perturbations=parts, objective=squared_distance)
    np.testing.assert_allclose(fit(compiled(trainer), zeros, y)["loss"], [expected**2], rtol=1e-6)


def test_terms_are_added_to_the_compiled_loss():
    x, y = make_data((4,))
    trainer = RobustTrainer(make_linear(), terms=[lambda model, x, y, y_pred, x_clean: 2.0 + 0 * ops.sum(y_pred)])
    np.testing.assert_allclose(fit(compiled(trainer), x, y)["loss"], [np.log(3) + 2.0], rtol=1e-5)


def test_a_term_may_call_the_model_again_without_moving_what_inference_sees():
    x, y = make_data()
    model = make_model()
    before = [value.copy() for value in model.get_weights()]

    def consistency(model, x, y, y_pred, x_clean):
        return ops.mean(ops.square(y_pred - model(x_clean, training=False)))

    trainer = RobustTrainer(model, perturbations=[GaussianNoiseInput(0.1)], terms=[consistency])
    history = fit(compiled(trainer), x, y)
    assert np.isfinite(history["loss"]).all()
    for variable, old, new in zip(model.weights, before, model.get_weights(), strict=True):
        if variable.trainable:  # a learning rate of zero
            np.testing.assert_allclose(new, old, atol=1e-7)


def test_evaluation_and_validation_see_clean_images_and_the_plain_loss():
    x, y = make_data()
    trainer = compiled(RobustTrainer(make_model(), perturbations=[Double()], objective=squared_distance))
    plain = compiled(make_model())
    history = fit(trainer, x, y, validation_data=(x, y), validation_batch_size=BATCH)
    plain.set_weights(trainer.model.get_weights())
    expected = plain.evaluate(x, y, batch_size=BATCH, verbose=0)
    np.testing.assert_allclose(trainer.evaluate(x, y, batch_size=BATCH, verbose=0), expected, rtol=1e-5)
    np.testing.assert_allclose(history["val_loss"], expected[:1], rtol=1e-5)


def noisy_loss(trainer, x, y):
    with noise_at_inference(trainer.model, inputs=True, activations=False):
        return trainer.evaluate(x, y, batch_size=BATCH, verbose=0)[0]


@pytest.mark.parametrize("evaluated_before", [True, False])
def test_evaluation_has_the_noise_that_is_switched_on_and_none_after_the_block(evaluated_before):
    x, y = make_data((4,))
    noise = GaussianNoise(100.0, role="input", seed=0)
    model = keras.Sequential([keras.Input((4,)), noise, layers.Dense(3)])
    trainer = compiled(RobustTrainer(model))
    clean = compiled(keras.Sequential([keras.Input((4,)), model.layers[1]])).evaluate(x, y, verbose=0)[0]
    if evaluated_before:
        trainer.evaluate(x, y, batch_size=BATCH, verbose=0)
        trainer.predict(x, verbose=0)
    assert noisy_loss(trainer, x, y) > 10 * clean
    np.testing.assert_allclose(trainer.evaluate(x, y, batch_size=BATCH, verbose=0)[0], clean, rtol=1e-5)
    with noise_at_inference(model, inputs=True, activations=False):
        noisy = trainer.predict(x, verbose=0)
    np.testing.assert_allclose(trainer.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5)
    assert np.abs(noisy - model.predict(x, verbose=0)).max() > 1.0


def test_evaluation_is_of_the_active_subnet():
    x, y = nets.images()
    trainer = nets.compiled(RobustTrainer(nets.dense()))
    whole = trainer.evaluate(x, y, verbose=0)
    with subnet(trainer.model, {"gate": np.zeros(16, "float32")}):
        cut = trainer.evaluate(x, y, verbose=0)
    assert cut != pytest.approx(whole, rel=1e-3)
    assert trainer.evaluate(x, y, verbose=0) == pytest.approx(whole, rel=1e-6)


def test_weight_offsets_are_on_in_the_step_and_off_after_it():
    x, y = make_data((4,))
    model = make_linear()
    trainer = RobustTrainer(
        model,
        objective=lambda model, x, y, y_pred, x_clean: ops.mean(y_pred),
        weight_perturbation=lambda model, x, y, loss: [ops.ones((4, 3))],
    )
    history = fit(compiled(trainer), x, y)
    np.testing.assert_allclose(history["loss"], [x.sum(axis=1).mean()], rtol=1e-5)
    np.testing.assert_array_equal(model.get_weights()[0], np.zeros((4, 3)))


def test_sample_weights_weigh_the_compiled_loss_of_perturbed_images():
    x, y = make_data()
    model = make_model()
    before = [ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    trainer = compiled(RobustTrainer(model, perturbations=[GaussianNoiseInput(0.1)]), 0.1)
    assert fit(trainer, x, y, sample_weight=np.zeros(IMAGES))["loss"] == [0.0]
    for variable, old in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), old)


@pytest.mark.parametrize(
    "parts", [lambda: {"objective": CrossEntropy()}, lambda: {"weight_perturbation": AWP(0.01)}]
)
@pytest.mark.parametrize(
    "weights", [{"sample_weight": np.zeros(IMAGES)}, {"class_weight": {0: 1.0, 1: 0.0, 2: 2.0}}]
)
def test_sample_weights_that_a_part_would_drop_are_refused(parts, weights):
    x, y = make_data()
    with pytest.raises(ValueError, match="`sample_weight` and `class_weight` weigh the compiled loss alone"):
        fit(compiled(RobustTrainer(make_model(), **parts())), x, y, **weights)


@pytest.mark.parametrize("parts", [{"perturbations": [GaussianNoiseInput(0.1)]}, {"objective": CrossEntropy()}])
@pytest.mark.parametrize("given", ["array", "batches"])
def test_integer_pixels_are_refused_where_a_part_would_compute_in_them(parts, given):
    x, y = make_data()
    pixels = (255 * x).astype("uint8")
    trainer = compiled(RobustTrainer(make_model(), **parts))
    with pytest.raises(ValueError, match=r"floating point, in \[0, 1\].*uint8.*255"):
        fit(trainer, pixels, y) if given == "array" else trainer.train_on_batch(pixels, y)


@pytest.mark.parametrize(("scale", "message"), [(255.0, "Did you mean x / 255"), (-1.0, "minimum -1")])
def test_pixels_of_another_scale_are_refused_where_perturbations_act(scale, message):
    x, y = make_data()
    x[0, 0, 0] = 1.0
    with pytest.raises(ValueError, match=message):
        fit(compiled(RobustTrainer(make_model(), perturbations=[Adversarial(steps=1)])), scale * x, y)
    with pytest.raises(ValueError, match=message):
        fit(compiled(RobustTrainer(make_model(), objective=Trades(steps=1))), scale * x, y)
    assert np.isfinite(fit(compiled(RobustTrainer(make_model())), scale * x, y)["loss"])


class Pairs(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // BATCH

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return self.x[rows], self.y[rows]


def tf_data(x, y):
    return pytest.importorskip("tensorflow").data.Dataset.from_tensor_slices((x, y)).batch(BATCH)


def loader(x, y):
    data = pytest.importorskip("torch").utils.data
    return data.DataLoader(list(zip(x, y, strict=True)), batch_size=BATCH)


@pytest.mark.parametrize("source", [Pairs, tf_data, loader])
def test_pixels_of_another_scale_are_refused_in_batches_too(source):
    x, y = make_data()
    trainer = compiled(RobustTrainer(make_model(), perturbations=[Adversarial(steps=1)]))
    with pytest.raises(ValueError, match="Did you mean x / 255"):
        trainer.fit(source(255 * x, y), verbose=0)
    assert np.isfinite(trainer.fit(source(x, y), verbose=0).history["loss"])


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_are_no_classes_are_refused_where_an_objective_would_pass_over_them(label):
    x, y = make_data()
    y[-1] = label
    with pytest.raises(ValueError, match=rf"Labels must lie in \[0, 2\].*{label}"):
        fit(compiled(RobustTrainer(make_model(), objective=CrossEntropy())), x, y)


def test_batches_of_doubles_train_as_floats_do():
    x, y = make_data()
    results = []
    for dtype in ("float32", "float64"):
        model = make_model()
        trainer = RobustTrainer(model, perturbations=[Adversarial(steps=2)], objective=CrossEntropy())
        compiled(trainer, 0.1).fit(Pairs(x.astype(dtype), y), shuffle=False, verbose=0)
        results.append(model.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float32"])
def test_the_trainer_has_the_policy_of_its_model_not_the_global_one(policy):
    x, _ = make_data()
    model = make_model()
    keras.config.set_dtype_policy(policy)
    try:
        trainer = RobustTrainer(model)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(trainer(x)), ops.convert_to_numpy(model(x)))


def test_losses_of_a_model_in_half_precision_are_scaled():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = make_model()
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(compiled(RobustTrainer(model)).optimizer, keras.optimizers.LossScaleOptimizer)


def test_a_later_fit_trains_the_subnet_that_is_active():
    x, y = nets.images()
    trainer = nets.compiled(RobustTrainer(nets.dense()), 0.1)
    fit(trainer, x, y)
    hidden = trainer.model.get_layer("hidden")
    before = hidden.get_weights()
    with subnet(trainer.model, {"gate": np.zeros(16, "float32")}):
        fit(trainer, x, y)
    for found, expected in zip(hidden.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    fit(trainer, x, y)
    assert np.abs(hidden.get_weights()[0] - before[0]).max() > 1e-4


def test_after_a_step_that_fails_weights_and_parts_are_as_they_were():
    x, y = make_data()
    awp, model = AWP(0.05), make_model()
    before = [ops.convert_to_numpy(variable.value).copy() for variable in model.trainable_variables]
    trainer = compiled(RobustTrainer(model, terms=[fail], weight_perturbation=awp), 0.1)
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(trainer, x, y)
    for variable, expected in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(variable.value), expected, rtol=1e-6, atol=1e-7)
    other = compiled(RobustTrainer(make_model(), weight_perturbation=awp), 0.1)
    assert np.isfinite(fit(other, x, y)["loss"])


def fail(model, x, y, y_pred, x_clean):
    raise RuntimeError("on purpose")


def test_the_trained_model_saves_and_loads_without_the_trainer(tmp_path):
    x, y = make_data()
    model = make_model()
    fit(compiled(RobustTrainer(model, perturbations=[GaussianNoiseInput(0.1)]), 0.1), x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)


def test_to_save_the_trainer_itself_is_refused_before_an_epoch_is_lost(tmp_path):
    x, y = make_data((4,))
    trainer = compiled(RobustTrainer(make_linear()))
    keep = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras")
    with pytest.raises(ValueError, match=r"trainer\.model\.save"):
        fit(trainer, x, y, callbacks=[keep])
    with pytest.raises(ValueError, match=r"trainer\.model\.save"):
        trainer.fit(x, y, BATCH, 1, 0, [keep])
    assert int(trainer.optimizer.iterations.numpy()) == 0
    with pytest.raises(NotImplementedError, match=r"trainer\.model\.save"):
        trainer.save(tmp_path / "trainer.keras")


def test_a_checkpoint_of_weights_is_read_by_a_trainer_of_the_same_parts(tmp_path):
    x, y = make_data((4,))
    model, other = make_linear(), make_linear()
    keep = keras.callbacks.ModelCheckpoint(tmp_path / "best.weights.h5", save_weights_only=True)
    fit(compiled(RobustTrainer(model), 0.1), x, y, callbacks=[keep])
    compiled(RobustTrainer(other), 0.1).load_weights(tmp_path / "best.weights.h5")
    np.testing.assert_array_equal(other.get_weights()[0], model.get_weights()[0])


def as_batches(x, y):
    return Batches(x, y, batch_size=BATCH), None


@pytest.mark.parametrize("source", [lambda x, y: (x, y), as_batches])
@pytest.mark.parametrize(
    "parts",
    [
        {"perturbations": [Adversarial(epsilon=0.1, steps=1)]},
        {"objective": Trades(epsilon=0.1, steps=1)},
        {"objective": CrossEntropy()},
    ],
)
def test_probabilities_are_refused_where_a_part_takes_them_for_logits(parts, source):
    x, y = make_data()
    outputs = keras.Sequential([make_model(), layers.Softmax()])
    with pytest.raises(ValueError, match="must return logits"):
        fit(compiled(RobustTrainer(outputs, **parts)), *source(x, y))


def test_probabilities_train_where_only_noise_is_added():
    x, y = make_data()
    outputs = keras.Sequential([make_model(), layers.Softmax()])
    trainer = RobustTrainer(outputs, perturbations=[GaussianNoiseInput(0.1)])
    trainer.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    assert np.isfinite(fit(trainer, x, y)["loss"]).all()


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        keras.losses.sparse_categorical_crossentropy,
        keras.losses.SparseCategoricalCrossentropy(),
    ],
)
def test_a_loss_of_probabilities_is_refused_beside_an_attack_on_logits(loss):
    x, y = make_data()
    trainer = RobustTrainer(make_model(), perturbations=[Adversarial(epsilon=0.1, steps=1)])
    trainer.compile(optimizer="sgd", loss=loss)
    with pytest.raises(ValueError, match=r"must take logits.*from_logits=True"):
        fit(trainer, x, y)


def test_a_model_of_two_outputs_trains_with_noise_and_is_refused_beside_an_attack():
    x, y = make_data()
    outputs = make_model()(inputs := keras.Input(x.shape[1:]))
    model = keras.Model(inputs, [outputs, layers.Dense(2)(outputs)])
    losses = [keras.losses.SparseCategoricalCrossentropy(from_logits=True)] * 2
    for attacks in ([], [Adversarial(epsilon=0.1, steps=1)]):
        trainer = RobustTrainer(model, perturbations=[*attacks, GaussianNoiseInput(0.1)])
        trainer.compile(optimizer="sgd", loss=losses)
        if attacks:
            with pytest.raises(ValueError, match=r"one output, its logits\. Received: 2 outputs"):
                trainer.fit(x, [y, y % 2], verbose=0)
        else:
            assert np.isfinite(trainer.fit(x, [y, y % 2], verbose=0).history["loss"]).all()


def test_a_batch_of_arrays_trains_alone():
    x, y = make_data()
    trainer = compiled(RobustTrainer(make_model(), perturbations=[Adversarial(epsilon=0.1, steps=1)]))
    assert np.isfinite(trainer.train_on_batch(x, y, return_dict=True)["loss"])


def test_what_is_not_a_model_or_not_callable_is_refused():
    with pytest.raises(ValueError, match=r"`model` must be a keras\.Model"):
        RobustTrainer("resnet18")
    with pytest.raises(ValueError, match="must be callable"):
        RobustTrainer(make_model(), perturbations=[0.1])
    with pytest.raises(ValueError, match="`sigma`"):
        GaussianNoiseInput(-0.1)


def test_a_model_whose_classes_are_not_known_yet_trains():
    x, y = make_data()
    model = keras.Sequential([layers.Flatten(), layers.Dense(3)])
    assert np.isfinite(fit(compiled(RobustTrainer(model, objective=CrossEntropy())), x, y)["loss"])
