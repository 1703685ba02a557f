import numpy as np
import pytest

from keras_robust import models
from keras_robust.analysis import kernel_maps, kernel_maps_figure


@pytest.fixture
def model():
    return models.build("kap_cnn", 10, (8, 8, 1), depth=2, pooling="kap", seed=0)


def test_maps_are_one_channel_of_each_convolution(model, rng):
    x = rng.random((3, 8, 8, 1), dtype="float32")
    maps = kernel_maps(model, x)
    assert {name: each.shape for name, each in maps.items()} == {"conv1": (3, 4, 4), "conv2": (3, 2, 2)}
    again = kernel_maps(model, x[1:2])
    np.testing.assert_allclose(again["conv2"][0], maps["conv2"][1], atol=1e-5)  # rounding of another batch size
    with pytest.raises(ValueError, match="must name layers"):
        kernel_maps(model, x, layers=["conv9"])


@pytest.mark.once
def test_figure_has_a_block_for_each_model(rng, tmp_path):
    pytest.importorskip("matplotlib")
    maps = {"conv1": rng.random((2, 4, 4)), "conv2": rng.random((2, 2, 2))}
    figure = kernel_maps_figure({"plain": maps, "kap": maps}, ("clean", "noise"))
    assert len(figure.axes) == 8
    figure.savefig(tmp_path / "maps.png")
