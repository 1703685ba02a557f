import keras
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


def test_maps_of_a_nested_model_are_those_of_its_last_layer(model, rng):
    x = rng.random((3, 8, 8, 1), dtype="float32")
    backbone = keras.Model(model.inputs, model.get_layer("conv2").output, name="backbone")
    nested = keras.Sequential([keras.Input((8, 8, 1)), backbone, keras.layers.ReLU(), keras.layers.Flatten()])
    (found,) = kernel_maps(nested, x).items()
    assert found[0] == "backbone"
    np.testing.assert_allclose(found[1], kernel_maps(model, x, layers=["conv2"])["conv2"], atol=1e-5)


def test_maps_of_layers_that_another_model_used_first_are_those_of_this_model(model, rng):
    x, inputs = rng.random((3, 8, 8, 1), dtype="float32"), keras.Input((8, 8, 1))
    conv = model.get_layer("conv1")
    halved = keras.Model(inputs, conv(keras.layers.ZeroPadding2D(1)(keras.layers.Rescaling(0.5)(inputs))))
    expected = kernel_maps(model, 0.5 * x, layers=["conv1"])["conv1"]
    np.testing.assert_allclose(kernel_maps(halved, x)["conv1"], expected, atol=1e-5)


@pytest.mark.once
def test_figure_has_a_block_for_each_model(rng, tmp_path):
    pytest.importorskip("matplotlib")
    maps = {"conv1": rng.random((2, 4, 4)), "conv2": rng.random((2, 2, 2))}
    figure = kernel_maps_figure({"plain": maps, "kap": maps}, ("clean", "noise"))
    assert len(figure.axes) == 8
    figure.savefig(tmp_path / "maps.png")
