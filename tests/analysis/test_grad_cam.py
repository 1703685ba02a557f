import keras
import numpy as np
import pytest
from keras import layers

from keras_robust import models
from keras_robust.analysis import grad_cam, grad_cam_figure

# Float32 against NumPy's float64.
ROUNDING = 1e-5


def pooled_net():
    inputs = keras.Input((6, 5, 2))
    x = layers.Conv2D(4, 1, name="conv")(inputs)
    x = layers.Activation("tanh", name="maps")(x)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("classes", [None, [0, 2, 1, 2]])
def test_maps_of_a_pooled_net_are_its_maps_weighted_by_the_class(classes, rng):
    model = pooled_net()
    x = rng.uniform(size=(4, 6, 5, 2)).astype("float32")
    (kernel, bias), (weights, _) = model.get_layer("conv").get_weights(), model.layers[-1].get_weights()
    chosen = model.predict(x, verbose=0).argmax(-1) if classes is None else classes
    heat = np.maximum((np.tanh(x @ kernel[0, 0] + bias) * weights[:, chosen].T[:, None, None]).sum(-1), 0)
    highest = heat.max((1, 2), keepdims=True)
    expected = heat / np.where(highest > 0, highest, 1)
    np.testing.assert_allclose(grad_cam(model, x, classes, batch_size=3), expected, atol=ROUNDING)


def test_a_layer_of_one_pixel_is_not_the_last_one_with_a_map(rng):
    inputs = keras.Input((6, 5, 2))
    x = layers.Conv2D(4, 3, activation="tanh", name="maps")(inputs)
    x = layers.Conv2D(3, 1, name="pixel")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    model = keras.Model(inputs, layers.Flatten()(x))
    x = rng.uniform(size=(4, 6, 5, 2)).astype("float32")
    found = grad_cam(model, x)
    assert np.ptp(found, axis=(1, 2)).max() > 0.1
    np.testing.assert_array_equal(found, grad_cam(model, x, layer="maps"))


def test_maps_of_a_nested_model_are_those_of_its_layers_in_one_model(rng):
    model = pooled_net()
    backbone = keras.Model(model.inputs, model.get_layer("maps").output, name="backbone")
    nested = keras.Sequential(
        [keras.Input((6, 5, 2)), backbone, layers.GlobalAveragePooling2D(), model.layers[-1]]
    )
    x = rng.uniform(size=(4, 6, 5, 2)).astype("float32")
    expected = grad_cam(model, x)
    np.testing.assert_allclose(grad_cam(nested, x), expected, atol=ROUNDING)
    np.testing.assert_allclose(grad_cam(nested, x, layer="backbone"), expected, atol=ROUNDING)


def test_maps_of_layers_that_another_model_used_first_are_those_of_this_model(rng):
    model, inputs = pooled_net(), keras.Input((6, 5, 2))
    x = model.get_layer("maps")(model.get_layer("conv")(layers.Rescaling(0.5)(inputs)))
    halved = keras.Model(inputs, model.layers[-1](layers.GlobalAveragePooling2D()(x)))
    x = rng.uniform(size=(4, 6, 5, 2)).astype("float32")
    np.testing.assert_allclose(grad_cam(halved, x), grad_cam(model, 0.5 * x), atol=ROUNDING)


def test_maps_have_the_size_of_the_image(rng):
    x = rng.uniform(size=(2, 16, 12, 1)).astype("float32")
    maps = grad_cam(models.build("kap_cnn", 10, (16, 12, 1), depth=2, pooling="kap", seed=0), x)
    assert maps.shape == (2, 16, 12)
    assert 0 <= maps.min() <= maps.max() <= 1 + ROUNDING


@pytest.mark.once
def test_wrong_layers_are_errors(rng):
    inputs = keras.Input((6, 6, 1))
    x = layers.Conv2D(1, 1, name="inside")(inputs)
    x = layers.Add(name="sum")([x, inputs])
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    images = rng.uniform(size=(1, 6, 6, 1)).astype("float32")
    with pytest.raises(ValueError, match=r"layer='inside', which a shortcut passes by.*'sum'"):
        grad_cam(model, images, layer="inside")
    with pytest.raises(ValueError, match=r"inside, sum. Received: layer='dense'"):
        grad_cam(model, images, layer="dense")
    with pytest.raises(ValueError, match=r"Labels must lie in \[0, 1\]"):
        grad_cam(model, images, [2])


@pytest.mark.once
def test_figure_shows_each_image_beside_the_maps_of_each_model(rng):
    pytest.importorskip("matplotlib")
    x, maps = rng.uniform(size=(2, 4, 4, 1)), rng.uniform(size=(2, 4, 4))
    figure = grad_cam_figure(x, {"conv": maps, "smoothing": maps, "unsharp": maps}, ["3", "5"])
    assert len(figure.axes) == 8
    assert [axes.get_title() for axes in figure.axes[:4]] == ["image", "conv", "smoothing", "unsharp"]
