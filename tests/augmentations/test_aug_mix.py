"""AugMix: convex mixtures of chains, as far as its severity says."""

import numpy as np
import pytest

from keras_robust.augmentations import AugMix
from keras_robust.augmentations import aug_mix as module
from keras_robust.training import Batches

pytestmark = pytest.mark.once

X = np.random.default_rng(1).integers(0, 256, (20, 9, 8, 3), dtype="uint8")


def mixed(x=X, seed=0, **options):
    return AugMix(**options)(x, np.random.default_rng(seed))


def test_mixtures_stay_in_the_range_of_the_images_and_have_their_shape():
    for maximum in (255, 16):
        found = mixed(X // (256 // (maximum + 1)), maximum=maximum, severity=10)
        assert found.shape == X.shape
        assert found.dtype == np.float32
        assert found.min() >= 0
        assert found.max() <= maximum


def test_the_same_generator_gives_the_same_images_and_another_others():
    np.testing.assert_array_equal(mixed(), mixed())
    assert (mixed() != mixed(seed=1)).any((1, 2, 3)).all()


def test_operations_that_do_nothing_give_the_image_back(monkeypatch):
    monkeypatch.setattr(module, "operate", lambda x, *_, **__: x)
    np.testing.assert_allclose(mixed(), X, rtol=1e-6)  # weights sum up to 1 in float32


def test_an_image_is_mixed_with_chains_of_one_to_three_operations_or_of_the_depth_asked_for(monkeypatch):
    calls = []

    def count(x, name, amounts, *, bilinear):
        calls.extend([name] * len(x))
        return 0 * x

    monkeypatch.setattr(module, "operate", count)
    found = mixed(np.full((2000, 2, 2, 1), 200, "uint8"))
    # Chains end in black: what is left is 1 - m, evenly distributed; 6 = 3 chains of 2 on average.
    assert found.mean() / 200 == pytest.approx(0.5, abs=4 * 12**-0.5 / 2000**0.5)
    assert len(calls) / 2000 == pytest.approx(6, abs=4 * (3 * 2 / 3) ** 0.5 / 2000**0.5)
    assert set(calls) == set(module.OPERATIONS)
    calls.clear()
    mixed(width=2, depth=4)
    assert len(calls) == 20 * 2 * 4


def test_severity_bounds_the_amounts():
    def amounts(name):
        return module.amounts_of(name, np.array([0.1, 3, 10]), np.full(3, -1), 60, 30).tolist()

    assert amounts("rotate") == [0, -9, -30]
    assert amounts("posterize") == [4, 3, 0]
    assert amounts("solarize") == [254, 180, 0]
    assert amounts("translate_x") == [0, -3, -10]
    assert amounts("translate_y") == [0, -6, -20]
    np.testing.assert_allclose(amounts("shear_y"), [-0.003, -0.09, -0.3])


def test_batches_hold_the_clean_images_then_each_view_anew_in_each_epoch():
    batches = Batches(X, np.arange(20), maximum=255, batch_size=5, views=(AugMix(), AugMix()))
    x, y = batches[0]
    assert x.shape == (15, 9, 8, 3)
    np.testing.assert_array_equal(y, np.tile(y[:5], 3))
    np.testing.assert_allclose(x[:5], X[y[:5]] / np.float32(255))
    assert (np.abs(x[5:10] - x[10:]).max((1, 2, 3)) > 0.01).all()
    batches.epoch = 1
    later = batches[0][0]
    batches.epoch = 0
    np.testing.assert_array_equal(batches[0][0], x)
    assert (later[5:] != x[5:]).any((1, 2, 3)).all()


@pytest.mark.parametrize("options", [{"severity": 11}, {"severity": 0}, {"alpha": 0}, {"width": 0}, {"depth": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
        AugMix(**options)
