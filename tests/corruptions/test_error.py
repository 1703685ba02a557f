import numpy as np
import pytest

from keras_robust.corruptions import (
    CORRUPTIONS,
    PERTURBATIONS,
    alexnet_mean_corruption_error,
    flip_probability,
    mean_corruption_error,
    mean_flip_rate,
    top5_distance,
)
from keras_robust.corruptions.error import ALEXNET_ERRORS, ALEXNET_FLIP_PROBABILITIES

pytestmark = pytest.mark.once


def test_plain_mean_weighs_all_seventy_five_cells_alike():
    values = np.random.default_rng(0).random((15, 5))
    assert mean_corruption_error(dict(zip(CORRUPTIONS, values, strict=True))) == pytest.approx(values.mean())


def test_alexnet_has_a_normalised_error_of_one():
    assert alexnet_mean_corruption_error({n: [ALEXNET_ERRORS[n]] * 5 for n in CORRUPTIONS}) == pytest.approx(1)
    assert mean_flip_rate(ALEXNET_FLIP_PROBABILITIES) == pytest.approx(1)
    assert tuple(ALEXNET_FLIP_PROBABILITIES) == PERTURBATIONS


def test_a_missing_corruption_is_an_error_not_another_mean():
    with pytest.raises(ValueError, match="missing \\['fog'\\]"):
        mean_corruption_error({n: [0.1] * 5 for n in CORRUPTIONS if n != "fog"})
    with pytest.raises(ValueError, match="Divide by 100"):
        mean_corruption_error({n: [10.0] * 5 for n in CORRUPTIONS})


def test_noise_frames_are_compared_with_the_first_others_with_the_last():
    frames = [[1, 2, 2, 1, 1]]
    assert flip_probability(frames, noise=True) == pytest.approx(2 / 4)
    assert flip_probability(frames, noise=False) == pytest.approx(2 / 4)
    frames = [[1, 2, 2, 2], [3, 3, 3, 3]]
    assert flip_probability(frames, noise=True) == pytest.approx(0.5)
    assert flip_probability(frames, noise=False) == pytest.approx(1 / 6)


def test_top5_distance_counts_the_ranks_that_the_best_five_move():
    order = np.array([[9.0, 8, 7, 6, 5, 4, 3], [9, 8, 7, 6, 4, 5, 3], [8, 9, 7, 6, 5, 4, 3]])
    assert top5_distance(order[None, :2], noise=True) == 1  # the fifth leaves the best five: rank 5 at most
    assert top5_distance(order[None, [0, 2]], noise=True) == 2  # two places swapped
    assert top5_distance(order[None, [0, 0]], noise=False) == 0
    reverse = np.stack([np.arange(20.0), -np.arange(20.0)])
    assert top5_distance(reverse[None], noise=False) == 15
    # The first three leave the best five, and the last two come before them: no ranking is further away.
    furthest = np.array([[8.0, 7, 6, 5, 4, 3, 2, 1], [0, 1, 2, 7, 8, 6, 5, 4]])
    assert top5_distance(furthest[None], noise=False) == 18


def test_no_sequence_or_too_few_classes_are_errors_not_a_number():
    for rate, given in ((flip_probability, "predictions"), (top5_distance, "logits")):
        with pytest.raises(ValueError, match=f"`{given}` must hold at least one sequence"):
            rate([], noise=True)
    for classes in (1, 4):
        with pytest.raises(ValueError, match=f"at least 5 logits. Received: {classes}"):
            top5_distance(np.zeros((1, 2, classes)), noise=True)
