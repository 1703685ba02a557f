"""The residual and the dense network of the weight map paper."""

import math

import keras
import numpy as np
import pytest

from keras_robust import models
from keras_robust.layers import WeightMap

pytestmark = pytest.mark.usefixtures("numpy_weights")
MNIST, CIFAR10, IWILDCAM = (28, 28, 1), (32, 32, 3), (23, 32, 1)


def spatial(model):
    """Kinds of the 3 x 3 layers, in order."""
    return [
        "map" if isinstance(layer, WeightMap) else "conv"
        for layer in model.layers
        if isinstance(layer, WeightMap) or (isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3))
    ]


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "shape", "conv", "alternating", "all_maps"),
    [
        ("wm_resnet", MNIST, 407_234, 1_152_298, 2_013_322),
        ("wm_resnet", CIFAR10, 407_394, 1_364_618, 2_502_042),
        ("wm_resnet", IWILDCAM, 407_234, 1_064_682, 1_848_970),
        ("wm_densenet", MNIST, 288_090, 631_042, 1_082_698),
        ("wm_densenet", CIFAR10, 288_378, 828_930, 1_548_810),
        ("wm_densenet", IWILDCAM, 288_090, 573_922, 958_474),
    ],
)
def test_networks_have_the_parameters_of_our_reading(name, shape, conv, alternating, all_maps):
    options = {"conv": {"layer": "conv"}, "alternating": {"alternate": True}, "all": {}}
    counts = []
    for option in options.values():
        model = models.build(name, 10, shape, **option)
        counts.append(sum(math.prod(variable.shape) for variable in model.trainable_variables))
    assert counts == [conv, alternating, all_maps]


@pytest.mark.once
@pytest.mark.parametrize(("name", "layers"), [("wm_resnet", 34), ("wm_densenet", 31)])
def test_every_second_layer_alternates_and_the_first_stays_a_convolution(name, layers):
    model = models.build(name, 10, (8, 8, 1), layer="unsharp", alternate=True)
    assert spatial(model) == (["conv", "map"] * layers)[:layers]
    assert spatial(models.build(name, 10, (8, 8, 1), layer="unsharp")) == ["map"] * layers
    assert spatial(models.build(name, 10, (8, 8, 1), layer="conv")) == ["conv"] * layers


@pytest.mark.once
def test_resnet_halves_rectangular_images_three_times_with_rounding_up():
    model = models.build("wm_resnet", 10, IWILDCAM)
    sizes = [model.get_layer(f"group{group}_block1_relu2").output.shape[1:] for group in (1, 2, 3, 4)]
    assert sizes == [(23, 32, 8), (12, 16, 16), (6, 8, 32), (3, 4, 64)]


@pytest.mark.once
def test_densenet_grows_by_8_channels_a_layer():
    model = models.build("wm_densenet", 10, CIFAR10)
    last = [model.get_layer(f"group{n}_layer{count}_concatenate") for n, count in enumerate((2, 4, 8, 16), 1)]
    assert [layer.output.shape[-1] for layer in last] == [32, 64, 128, 256]
    assert [layer.output.shape[1] for layer in last] == [32, 16, 8, 4]


@pytest.mark.once
@pytest.mark.parametrize("name", ["wm_resnet", "wm_densenet"])
@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"layer": "blur"}, MNIST, "`layer` must be one of 'conv', 'smoothing', 'unsharp'"),
        ({"layer": "conv", "alternate": True}, MNIST, "Use layer='smoothing' or layer='unsharp'"),
    ],
)
def test_wrong_options_of_the_networks_are_errors(name, options, shape, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, 10, shape, **options)


@pytest.mark.once
def test_image_too_small_for_the_densenet_is_an_error():
    with pytest.raises(ValueError, match="at least 8 x 8"):
        models.build("wm_densenet", 10, (7, 8, 1))


@pytest.mark.parametrize("name", ["wm_resnet", "wm_densenet"])
def test_network_of_weight_maps_returns_logits_and_survives_saving(name, tmp_path, rng):
    x = rng.uniform(size=(3, 9, 8, 1)).astype("float32")
    model = models.build(name, 10, (9, 8, 1), layer="unsharp", alternate=True)
    logits = model.predict(x, verbose=0)
    assert logits.shape == (3, 10)
    assert np.isfinite(logits).all()
    assert logits.std() > 0
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    for weight, before in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, before)
