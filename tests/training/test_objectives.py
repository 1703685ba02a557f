"""Objectives against finite differences of their formulas in float64."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_robust.training import Adversarial, CrossEntropy, JensenShannon, Perturbation, RobustTrainer, Trades
from tests.training import nets


class Shift(Perturbation):
    """A fixed shift of every pixel but the first, by 0.1."""

    def __call__(self, model, x, y, seed):
        return x + ops.convert_to_tensor(0.1 * (np.arange(x.shape[-1]) > 0), x.dtype)


def shifted(x):
    return x + 0.1 * (np.arange(x.shape[-1]) > 0)


def check_one_step(objective, expected_loss, parts=(), count=16):
    """Compares the loss, and the step of gradient descent at a rate of 1, with the formula."""
    model, (x, y) = nets.linear(classes=3), nets.vectors(count, classes=3)
    before = model.get_weights()
    trainer = RobustTrainer(model, perturbations=parts, objective=objective)
    found = nets.fit(nets.compiled(trainer, 1.0), x, y)
    np.testing.assert_allclose(found, [expected_loss(before, x, y)], rtol=1e-5)
    slopes = nets.gradient(lambda weights: expected_loss(weights, x, y), before)
    for new, old, slope in zip(model.get_weights(), before, slopes, strict=True):
        np.testing.assert_allclose(old - new, slope, rtol=1e-3, atol=1e-5)


def test_trades_has_the_value_and_gradient_of_its_formula_through_both_predictions():
    objective = Trades(6.0)
    objective.perturbation = Shift()
    check_one_step(
        objective,
        lambda weights, x, y: nets.cross_entropy(weights, x, y) + 6.0 * nets.kl(weights, x, shifted(x)).mean(),
    )


def test_label_smoothing_has_the_value_and_gradient_of_smoothed_targets():
    check_one_step(
        CrossEntropy(label_smoothing=0.1),
        lambda weights, x, y: nets.cross_entropy(weights, shifted(x), y, 0.1),
        [Shift()],
    )


def test_label_smoothing_of_trades_acts_on_the_clean_images():
    objective = Trades(1.0, label_smoothing=0.2)
    objective.perturbation = Shift()
    check_one_step(
        objective,
        lambda weights, x, y: nets.cross_entropy(weights, x, y, 0.2) + nets.kl(weights, x, shifted(x)).mean(),
    )


def test_a_clean_weight_mixes_the_losses_of_clean_and_perturbed_images():
    check_one_step(
        CrossEntropy(clean_weight=0.3),
        lambda weights, x, y: (
            0.3 * nets.cross_entropy(weights, x, y) + 0.7 * nets.cross_entropy(weights, shifted(x), y)
        ),
        [Shift()],
    )


def divergence_of_views(weights, x):
    views = [nets.softmax(each.astype("float64") @ weights[0] + weights[1]) for each in np.split(x, 3)]
    mixture = sum(views) / 3
    return sum((each * np.log(each / mixture)).sum(-1).mean() for each in views) / 3


def test_three_views_add_their_divergence_to_the_cross_entropy_of_the_first():
    check_one_step(
        JensenShannon(),
        lambda weights, x, y: nets.cross_entropy(weights, x[:6], y[:6]) + 12.0 * divergence_of_views(weights, x),
        count=18,
    )


def test_equal_views_have_no_divergence_and_a_batch_without_three_is_refused():
    logits = ops.convert_to_tensor(np.random.default_rng(0).standard_normal((4, 3)).astype("float32"))
    y = np.array([0, 1, 2, 0])
    alone = CrossEntropy()(None, None, y, logits, None)
    found = JensenShannon()(None, None, np.tile(y, 3), ops.concatenate([logits] * 3), None)
    np.testing.assert_allclose(float(found), float(alone), rtol=1e-5)
    with pytest.raises(ValueError, match=r"batches of three views.*a batch of 4"):
        JensenShannon()(None, None, y, logits, None)


def test_label_smoothing_means_what_it_means_in_keras():
    logits = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    y = np.array([0, 1, 2, 3, 0])
    expected = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)(np.eye(4)[y], logits)
    found = CrossEntropy(label_smoothing=0.1)(None, None, y, ops.convert_to_tensor(logits), None)
    np.testing.assert_allclose(float(found), float(expected), rtol=1e-6)


def test_trades_makes_its_own_examples_at_the_ends_of_the_ball():
    model, (x, y) = nets.linear(), nets.vectors()
    weights = model.get_weights()
    trainer = RobustTrainer(model, objective=Trades(6.0, epsilon=0.1, step_size=0.02))
    (found,) = nets.fit(nets.compiled(trainer), x, y)
    ends = [nets.worst_linear(weights, x, np.full_like(y, side), 0.1) for side in (0, 1)]
    divergences = np.array([nets.kl(weights, x, end) for end in ends])
    # Which end the search climbs to depends on its start.
    divergence = (found - nets.cross_entropy(weights, x, y)) / 6.0
    assert divergences.min(0).mean() - 1e-5 <= divergence <= divergences.max(0).mean() + 1e-5


def test_the_search_of_trades_reaches_the_edge_of_its_ball():
    model, (x, y) = nets.linear(), nets.vectors()
    part = Trades(norm="L2", epsilon=0.2).perturbation
    found = part(model, ops.convert_to_tensor(x), ops.convert_to_tensor(y), keras.random.SeedGenerator(0))
    distance = np.linalg.norm(ops.convert_to_numpy(found) - x, axis=1)
    np.testing.assert_allclose(distance, 0.2, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "step_size"),
    [({}, 0.007), ({"epsilon": 0.1}, None), ({"steps": 2}, None), ({"norm": "L2"}, None), ({"step_size": 1}, 1)],
)
def test_the_step_of_trades_is_the_papers_in_its_setting_and_follows_epsilon_in_others(options, step_size):
    assert Trades(**options).perturbation.step_size == step_size


@pytest.mark.parametrize("make", [lambda: CrossEntropy(clean_weight=0.5), lambda: Trades(1.0)])
def test_clean_images_count_in_float32_under_mixed_precision(make):
    x, y = nets.images()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = nets.dense()
    finally:
        keras.config.set_dtype_policy("float32")
    logits = ops.cast(model(x, training=True), "float32")
    found = make()(model, x, y, logits, x)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    expected = CrossEntropy()(model, x, y, logits, x)  # Equal predictions have no divergence.
    np.testing.assert_allclose(
        float(ops.convert_to_numpy(found)), float(ops.convert_to_numpy(expected)), rtol=1e-6
    )


def test_trades_moves_the_running_averages_by_clean_and_perturbed_images_and_no_more():
    x, y = nets.images()
    model, reference = nets.convolutional(), nets.convolutional()
    objective = Trades(6.0)
    objective.perturbation = Shift2D()
    nets.fit(nets.compiled(RobustTrainer(model, objective=objective)), x, y)
    for batch in (x * 0.5, x):
        reference(batch, training=True)
    for found, expected in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


class Shift2D(Perturbation):
    def __call__(self, model, x, y, seed):
        return x * 0.5


def test_a_second_search_for_adversarial_examples_is_refused():
    with pytest.raises(ValueError, match="in one place"):
        RobustTrainer(nets.linear(), perturbations=[Adversarial()], objective=Trades())
    with pytest.raises(ValueError, match="in one place"):
        RobustTrainer(nets.linear(), perturbations=[Adversarial(), Adversarial()])


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Trades(0.0), "`beta`"),
        (lambda: JensenShannon(0.0), "`weight`"),
        (lambda: Trades(epsilon=8), "8 / 255"),
        (lambda: Trades(label_smoothing=1.0), "`label_smoothing`"),
        (lambda: CrossEntropy(label_smoothing=-0.1), "`label_smoothing`"),
        (lambda: CrossEntropy(clean_weight=1.0), "`clean_weight`"),
    ],
)
def test_an_argument_out_of_range_is_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()
