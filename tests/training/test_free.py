"""Free adversarial training against the algorithm written out in NumPy."""

import numpy as np
import pytest
from keras import ops

from keras_robust.training import Batches, FreeAdversarial, ReplayedBatches, RobustTrainer
from tests.training import nets

EPSILON, RATE = 0.1, 0.5


def descend(model, x, y, batches, epsilon=EPSILON, step=EPSILON):
    """Weights of a linear model after free training, in float64."""
    weights = [np.asarray(weight, "float64") for weight in model.get_weights()]
    delta = np.zeros_like(x[batches[0]], "float64")
    for rows in batches:
        x_adv, labels = np.clip(x[rows] + delta, 0, 1), y[rows]
        slopes = nets.gradient(lambda each, x_adv=x_adv, y=labels: nets.cross_entropy(each, x_adv, y), weights)
        direction = np.where(labels == 0, 1, -1)[:, None] * np.sign(weights[0][:, 1] - weights[0][:, 0])
        delta = np.clip(delta + step * direction, -epsilon, epsilon)
        weights = [weight - RATE * slope for weight, slope in zip(weights, slopes, strict=True)]
    return weights, delta


@pytest.mark.parametrize("step_size", [None, 0.03])
def test_replays_follow_the_algorithm_and_the_perturbation_outlives_its_batch(step_size):
    model, (x, y) = nets.linear(), nets.vectors()
    first, second = np.arange(8), np.arange(8, 16)
    order = [first, first, first, second, second, second]
    expected, delta = descend(model, x, y, order, step=step_size or EPSILON)
    part = FreeAdversarial((8, 6), epsilon=EPSILON, step_size=step_size)
    rows = np.concatenate(order)
    nets.fit(nets.compiled(RobustTrainer(model, perturbations=[part]), RATE), x[rows], y[rows], batch_size=8)
    for new, value in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(new, value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(part.delta.value), delta, atol=1e-6)


def test_the_perturbation_of_a_clipped_pixel_moves_too():
    model, (x, y) = nets.linear(), nets.vectors(8)
    x[:, 0], x[:, 1] = 0.0, 1.0
    part = FreeAdversarial((8, 6), epsilon=EPSILON, step_size=EPSILON / 2)
    for label in (0, 1):
        before = ops.convert_to_numpy(part.delta.value).copy()
        found = part(model, ops.convert_to_tensor(x), ops.convert_to_tensor(np.full_like(y, label)), None)
        np.testing.assert_allclose(ops.convert_to_numpy(found), np.clip(x + before, 0, 1), atol=1e-6)
    clipped = (x + before < 0) | (x + before > 1)
    assert clipped.any()
    assert (ops.convert_to_numpy(part.delta.value) != before)[clipped].all()


def test_a_smaller_batch_moves_its_own_rows_only_and_a_larger_one_is_refused():
    model, (x, y) = nets.linear(), nets.vectors()
    part = FreeAdversarial((8, 6), epsilon=EPSILON)
    trainer = nets.compiled(RobustTrainer(model, perturbations=[part]))
    nets.fit(trainer, x[:5], y[:5])
    delta = ops.convert_to_numpy(part.delta.value)
    assert np.abs(delta[:5]).min() == pytest.approx(EPSILON)
    assert np.abs(delta[5:]).max() == 0
    with pytest.raises(ValueError, match="at most the 8 images"):
        part(model, ops.convert_to_tensor(x), ops.convert_to_tensor(y), None)


@pytest.mark.once
def test_replayed_batches_hand_out_each_batch_several_times_in_a_row():
    pixels, labels = np.arange(12, dtype="uint8").reshape(6, 2, 1, 1), np.arange(6)
    batches = Batches(pixels, labels, maximum=255, batch_size=2, seed=3)
    replayed = ReplayedBatches(batches, 3)
    assert len(replayed) == 9
    for index in range(9):
        np.testing.assert_array_equal(replayed[index][1], batches[index // 3][1])
    replayed.follow_epochs().on_epoch_begin(5, None)
    assert batches.epoch == 5
    with pytest.raises(ValueError, match="`replays`"):
        ReplayedBatches(batches, 0)


def test_an_argument_out_of_range_is_named():
    with pytest.raises(ValueError, match="8 / 255"):
        FreeAdversarial((8, 6), epsilon=8)
    with pytest.raises(ValueError, match="`step_size`"):
        FreeAdversarial((8, 6), step_size=0.0)
