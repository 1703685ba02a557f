"""Adversarial examples inside the compiled step: against linear models, and without a trace in the model."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_robust import norms
from keras_robust.training import Adversarial, RobustTrainer
from tests.training import nets

EPSILON = 0.1
# 16 * 6 pixels of a share of 0.625: five standard errors.
FIVE_STANDARD_ERRORS = 5 * np.sqrt(0.625 * 0.375 / 96)


def perturb(part, model, x, y, seed=0):
    return ops.convert_to_numpy(
        part(model, ops.convert_to_tensor(x), ops.convert_to_tensor(y), keras.random.SeedGenerator(seed))
    )


def gains(model, x, x_adv, y):
    """How much the other class has gained on the true one, for each row."""
    weights = model.get_weights()[0]
    direction = np.where(y == 0, 1, -1)[:, None] * (weights[:, 1] - weights[:, 0])
    return ((x_adv - x) * direction).sum(1), direction


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_linf_examples_of_a_linear_model_are_the_corners_known_in_closed_form(loss):
    model, (x, y) = nets.linear(), nets.vectors()
    found = perturb(Adversarial(epsilon=EPSILON, loss=loss), model, x, y)
    np.testing.assert_allclose(found, nets.worst_linear(model.get_weights(), x, y, EPSILON), atol=1e-6)


def test_l2_examples_of_a_linear_model_gain_what_the_closed_form_says():
    model, (x, y) = nets.linear(), nets.vectors()
    # Each step of a whole radius at least halves the angle to the optimum.
    found = perturb(Adversarial(norm="L2", epsilon=EPSILON, step_size=EPSILON, steps=20), model, x, y)
    gain, direction = gains(model, x, found, y)
    np.testing.assert_allclose(gain, EPSILON * np.linalg.norm(direction, axis=1), rtol=1e-5)


def test_one_training_step_equals_gradient_descent_on_the_closed_form():
    model, (x, y) = nets.linear(), nets.vectors()
    before = model.get_weights()
    trainer = RobustTrainer(model, perturbations=[Adversarial(epsilon=EPSILON)])
    loss = nets.fit(nets.compiled(trainer, 0.5), x, y)
    x_adv = nets.worst_linear(before, x, y, EPSILON)

    def expected_loss(weights):
        return nets.cross_entropy(weights, x_adv, y)

    np.testing.assert_allclose(loss, [expected_loss(before)], rtol=1e-5)
    slopes = nets.gradient(expected_loss, before)
    for new, old, slope in zip(model.get_weights(), before, slopes, strict=True):
        np.testing.assert_allclose(new, old - 0.5 * slope, **nets.CLOSE)


def test_kl_examples_of_a_linear_model_lie_at_one_of_the_two_ends():
    model, (x, y) = nets.linear(), nets.vectors()
    found = perturb(Adversarial(epsilon=EPSILON, loss="kl"), model, x, y)
    weights = model.get_weights()
    ends = [nets.worst_linear(weights, x, np.full_like(y, side), EPSILON) for side in (0, 1)]
    distance = np.min([np.abs(found - end).max(1) for end in ends], axis=0)
    assert distance.max() < 1e-6
    assert len({int(np.abs(row - ends[0][i]).max() < 1e-6) for i, row in enumerate(found)}) == 2


@pytest.mark.parametrize(
    ("norm", "options"),
    [
        ("Linf", {}),
        ("Linf", {"random_start": False}),
        ("L2", {"model_mode": "train"}),
        ("L2", {"loss": "kl"}),
        ("L1", {}),
    ],
)
def test_examples_lie_in_the_ball_and_in_the_box(norm, options):
    model, (x, y) = nets.dense(dropout=0.5), nets.images(8)
    found = perturb(Adversarial(norm=norm, epsilon=0.5, steps=2, **options), model, x, y)
    assert found.shape == x.shape
    assert found.min() >= 0
    assert found.max() <= 1
    length = ops.convert_to_numpy(norms.get(norm).length(ops.convert_to_tensor(found - x)))
    assert length.max() <= 0.5 * (1 + 1e-5)
    assert length.min() > 0.01


def test_the_step_of_fast_at_goes_from_a_random_start_by_a_quarter_beyond_epsilon():
    model, (x, y) = nets.linear(), nets.vectors()
    found = perturb(Adversarial.fast(epsilon=EPSILON), model, x, y)
    corner = nets.worst_linear(model.get_weights(), x, y, EPSILON)
    # start + 1.25 epsilon, cut to epsilon: at least a quarter of the way, and the corner for 5 starts of 8.
    share = (found - x) / (corner - x)
    assert share.min() >= 0.25 - 1e-4
    assert abs((share > 1 - 1e-4).mean() - 0.625) < FIVE_STANDARD_ERRORS


@pytest.mark.parametrize("model_mode", ["eval", "train"])
def test_the_search_changes_no_variable_of_the_model(model_mode):
    model, (x, y) = nets.convolutional(dropout=0.5), nets.images(8)
    before = [ops.convert_to_numpy(variable.value).copy() for variable in model.variables]
    perturb(Adversarial(model_mode=model_mode), model, x, y)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable.value), value)


@pytest.mark.parametrize("model_mode", ["eval", "train"])
def test_a_ball_of_no_size_gives_plain_training_averages_and_dropout_included(model_mode):
    x, y = nets.images()
    results = []
    for parts in ([], [Adversarial(epsilon=1e-9, steps=2, model_mode=model_mode)]):
        model = nets.convolutional(dropout=0.5)
        nets.fit(nets.compiled(RobustTrainer(model, perturbations=parts), 0.1), x, y, batch_size=16, epochs=2)
        results.append(model.get_weights())
    for plain, adversarial in zip(*results, strict=True):
        np.testing.assert_allclose(adversarial, plain, atol=1e-5)


def test_train_mode_searches_on_the_statistics_of_the_batch():
    model, (x, y) = nets.convolutional(), nets.images(8)
    variables = [[variable.value for variable in group] for group in (
        model.trainable_variables, model.non_trainable_variables
    )]  # fmt: skip
    losses = {}
    for mode in ("eval", "train"):
        found = perturb(Adversarial(epsilon=EPSILON, model_mode=mode), model, x, y)
        logits, _ = model.stateless_call(*variables, ops.convert_to_tensor(found), training=True)
        rows = np.log(nets.softmax(ops.convert_to_numpy(logits).astype("float64")))[np.arange(8), y]
        losses[mode] = -rows.mean()
    assert losses["train"] > losses["eval"]


def test_train_mode_draws_dropout_anew_for_each_step():
    # With one unit kept of two, the gradient of one draw is that of the other unit for half of the images.
    model = keras.Sequential([keras.Input((2,)), layers.Dropout(0.5, seed=0), layers.Dense(2, use_bias=False)])
    model.set_weights([np.array([[1.0, -1.0], [1.0, -1.0]], "float32")])
    x, y = np.full((200, 2), 0.5, "float32"), np.zeros(200, "int32")
    part = Adversarial(epsilon=EPSILON, step_size=EPSILON, steps=8, random_start=False, model_mode="train")
    found = perturb(part, model, x, y)
    # A pixel stays where it was only if all 8 draws have dropped it.
    assert (found == 0.5).mean() < 0.05


def test_a_callback_that_sets_epsilon_changes_the_compiled_step():
    x, y = nets.images()
    part = Adversarial(epsilon=0.1, steps=2)
    trainer = RobustTrainer(
        nets.convolutional(),
        perturbations=[part],
        objective=lambda model, x, y, y_pred, x_clean: ops.max(ops.abs(x - x_clean)) + 0 * ops.mean(y_pred),
    )
    change = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: part.epsilon.assign((0.0, 0.05, 0.2)[epoch])
    )
    found = nets.fit(nets.compiled(trainer), x, y, epochs=3, callbacks=[change])
    np.testing.assert_allclose(found, [0.0, 0.05, 0.2], rtol=1e-4, atol=1e-7)


def test_the_same_seed_gives_the_same_training_and_another_seed_another():
    x, y = nets.images()
    runs = []
    for seed in (0, 0, 1):
        trainer = RobustTrainer(nets.convolutional(), perturbations=[Adversarial(epsilon=0.2, steps=1)], seed=seed)
        runs.append(nets.fit(nets.compiled(trainer), x, y, epochs=2))
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"epsilon": 8}, "8 / 255"),
        ({"norm": "linf"}, "`norm`"),
        ({"steps": 0}, "`steps`"),
        ({"step_size": -1.0}, "`step_size`"),
        ({"loss": "nll"}, "`loss`"),
        ({"model_mode": "training"}, "`model_mode`"),
        ({"loss": "kl", "random_start": False}, "no gradient"),
    ],
)
def test_an_argument_out_of_range_is_named(options, named):
    with pytest.raises(ValueError, match=named):
        Adversarial(**options)


def test_one_hot_labels_are_refused():
    x, y = nets.images(8)
    with pytest.raises(ValueError, match=r"integer labels.*\(8, 3\)"):
        perturb(Adversarial(), nets.convolutional(), x, np.eye(3, dtype="float32")[y])


def test_the_ratio_of_logits_asks_for_three_classes():
    model, (x, y) = nets.linear(classes=2), nets.vectors()
    trainer = nets.compiled(RobustTrainer(model, perturbations=[Adversarial(steps=1, loss="dlr")]))
    with pytest.raises(ValueError, match=r"`loss='dlr'` needs a model of at least 3 classes.*2 logits"):
        nets.fit(trainer, x, y)
