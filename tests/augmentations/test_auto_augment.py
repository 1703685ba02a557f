"""AutoAugment: the policies of the paper, drawn as they should be."""

import numpy as np
import pytest

from keras_robust.augmentations import AutoAugment
from keras_robust.augmentations.auto_augment import POLICIES, amount_of

pytestmark = pytest.mark.once

X = np.random.default_rng(1).integers(0, 256, (100, 8, 8, 3), dtype="uint8")


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_a_policy_is_25_pairs_of_operations_with_probabilities_and_magnitudes(name):
    policy = POLICIES[name]
    assert len(policy) == 25
    for pair in policy:
        assert len(pair) == 2
        for _, probability, magnitude in pair:
            assert 0 <= probability <= 1
            assert 0 <= magnitude <= 9


def test_magnitudes_span_the_ranges_of_the_paper():
    spans = {
        name: (amount_of(name, 0, 331), amount_of(name, 9, 331)) for name in ("shear_x", "rotate", "posterize")
    }
    assert spans == {"shear_x": (0.0, 0.3), "rotate": (0.0, 30.0), "posterize": (8, 4)}
    assert amount_of("translate_y", 9, 331) == 150
    assert [amount_of("solarize", each, 0) for each in (0, 9)] == [256, 0]
    assert amount_of("color", 9, 0) == pytest.approx(0.9)


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_the_same_generator_gives_the_same_images_and_another_others(name):
    one, again, other = (AutoAugment(name)(X, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, again)
    assert (one != other).any((1, 2, 3)).mean() > 0.5


def test_an_image_that_nothing_was_drawn_for_stays_and_others_change():
    x = np.tile(np.random.default_rng(1).integers(40, 180, (1, 32, 32, 3), dtype="uint8"), (1000, 1, 1, 1))
    found = AutoAugment()(x, np.random.default_rng(0))
    kept = (found == x).all((1, 2, 3)).mean()
    chances = [(1 - one[1]) * (1 - two[1]) for one, two in POLICIES["cifar10"]]
    # Four standard errors; an operation that is drawn may change nothing too, as a solarization of bright values.
    assert abs(kept - np.mean(chances)) < 0.05


def test_images_of_another_maximum_come_back_in_its_range():
    found = AutoAugment(maximum=16)((X // 16)[..., :1], np.random.default_rng(0))
    assert found.dtype == np.float32
    assert 0 <= found.min() < found.max() <= 16


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="`policy` must be one of 'cifar10', 'imagenet'"):
        AutoAugment("svhn")
