import keras
import numpy as np
import pytest

from keras_robust import models
from keras_robust.analysis import first_kernels, topography, topography_figure

pytestmark = pytest.mark.once


def smooth_sheet(rng, grid=(6, 8)):
    """Kernels whose neighbours share most of their values."""
    white = rng.normal(size=(3, 3, 3, grid[0] + 2, grid[1] + 2))
    smooth = sum(white[..., r : r + grid[0], c : c + grid[1]] for r in range(3) for c in range(3))
    return smooth.reshape(3, 3, 3, -1)


def test_correlations_are_those_of_numpy(rng):
    kernels = rng.normal(size=(3, 3, 2, 6))
    found = topography(kernels, (2, 3))
    table = np.corrcoef(kernels.reshape(-1, 6).T)
    touching = [(0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5)]
    assert found.neighbours == pytest.approx(np.mean([table[pair] for pair in touching]))
    assert found.all_pairs == pytest.approx(table[np.triu_indices(6, 1)].mean())
    assert found.pairs == len(touching)


def test_smooth_sheet_has_a_topography(rng):
    found = topography(smooth_sheet(rng), (6, 8))
    assert found.neighbours > 0.5  # neighbours share 6 of 9 terms
    assert abs(found.all_pairs) < 0.2
    assert found.p_value == 0.001


def test_shuffled_sheet_has_none(rng):
    kernels = smooth_sheet(rng)[..., rng.permutation(48)]
    assert topography(kernels, (6, 8)).p_value > 0.01


def test_topography_follows_the_grid_of_one_or_three_axes(rng):
    line = np.cumsum(rng.normal(size=(27, 24)), axis=1)
    assert topography(line, (24,)).pairs == 23
    assert topography(line, (2, 3, 4)).pairs == 12 + 16 + 18
    assert topography(line, (24,)).neighbours > topography(line, (2, 3, 4)).neighbours


@pytest.mark.parametrize("options", [{"pooling": "kap"}, {"pooling": "kmp"}, {}])
def test_first_kernels_are_those_of_the_first_convolution_before_averaging(options):
    model = models.build("kap_cnn", 10, (8, 8, 3), depth=1, **options)
    kernels, grid = first_kernels(model)
    np.testing.assert_array_equal(kernels, model.get_layer("conv1").get_weights()[0])
    assert grid == (8, 8)


def test_a_pooling_behind_a_later_convolution_says_nothing_of_the_first_grid():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(64, 3, name="first")(inputs)
    model = keras.Model(inputs, keras.layers.Conv2D(32, 3, name="second")(x))
    for where, grid in (("second", (8, 8)), ("first", (4, 16))):
        size = (4, 8) if where == "second" else (4, 16)
        assert first_kernels(models.insert_kap(model, where=[where], grid=size))[1] == grid


def test_wrong_sheets_are_errors(rng):
    with pytest.raises(ValueError, match=r"grid=\(2, 3\) for 8 kernels"):
        topography(rng.normal(size=(3, 8)), (2, 3))
    with pytest.raises(ValueError, match="1 constant kernels, the first at 0"):
        topography(np.concatenate([np.ones((9, 1)), rng.normal(size=(9, 3))], axis=1))
    with pytest.raises(ValueError, match="must have a Conv2D"):
        first_kernels(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
    with pytest.raises(ValueError, match="two axes"):
        topography_figure({"line": (rng.normal(size=(3, 3, 1, 8)), (8,))})


def test_figure_has_a_panel_a_model_with_every_kernel_in_its_place(rng):
    pytest.importorskip("matplotlib")
    kernels = rng.uniform(0.1, 1, size=(2, 2, 3, 6)) * np.arange(1, 7)
    figure = topography_figure({"kap": (kernels, (2, 3)), "plain": (kernels[:, :, :1], (2, 3))})
    picture = figure.axes[0].images[0].get_array()
    assert picture.shape == (5, 8, 3)
    np.testing.assert_allclose(picture[3:5, 3:5], 0.5 + kernels[..., 4] / (2 * kernels.max()))
    assert (picture[2] == 1).all()
    assert "neighbours" in figure.axes[1].get_title()
