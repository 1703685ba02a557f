import numpy as np
import pytest

from keras_robust.evaluation.noise import Gaussian, Uniform

pytestmark = pytest.mark.once


@pytest.fixture
def x(rng):
    return rng.random((8, 16, 16, 3), dtype="float32")


def test_gaussian_noise_has_the_stated_standard_deviation_and_no_mean(x):
    difference = Gaussian(0.1)(x, seed=3) - x
    # 6144 draws: the standard error of mean and deviation is 0.1 / sqrt(6144) = 0.0013; four of them
    assert abs(difference.mean()) < 0.0052
    assert abs(difference.std() - 0.1) < 0.0052


def test_uniform_noise_divided_by_its_range_is_the_papers_formula(x):
    noisy = Uniform(0.5)(x, seed=3)
    noise = noisy * 1.5 - x
    assert noise.min() > -1e-6
    assert noise.max() < 0.5 + 1e-6
    assert abs(noise.mean() - 0.25) < 0.01
    assert noisy.min() >= 0
    assert noisy.max() <= 1


def test_uniform_noise_min_max_fills_the_unit_interval_of_each_image(x):
    noisy = Uniform(0.5, rescale="min_max")(x)
    np.testing.assert_allclose(noisy.min((1, 2, 3)), 0.0, atol=1e-6)
    np.testing.assert_allclose(noisy.max((1, 2, 3)), 1.0, atol=1e-6)


def test_uniform_noise_of_width_zero_changes_nothing_when_dividing_or_clipping(x):
    for rescale in ("divide", "clip"):
        np.testing.assert_array_equal(Uniform(0.0, rescale=rescale)(x), x)


@pytest.mark.parametrize("noise", [Gaussian(0.2), Uniform(0.2)])
def test_noise_of_an_image_does_not_depend_on_its_neighbours(x, noise):
    np.testing.assert_array_equal(noise(x, seed=5)[3:5], noise(x[3:5], seed=5, indices=[3, 4]))
    assert not np.array_equal(noise(x, seed=5), noise(x, seed=6))


def test_a_sweep_scales_one_draw(x):
    small, large = Gaussian(0.1)(x) - x, Gaussian(0.3)(x) - x
    np.testing.assert_allclose(3 * small, large, atol=1e-6)


def test_clipped_gaussian_noise_stays_in_the_box(x):
    noisy = Gaussian(0.5, clip=True)(x)
    assert noisy.min() >= 0
    assert noisy.max() <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(-0.1), "sigma"),
        (lambda: Gaussian(25), "25 / 255"),
        (lambda: Uniform("a lot"), "width"),
        (lambda: Uniform(0.1, rescale="norm"), "rescale"),
    ],
)
def test_a_wrong_option_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
