import keras
import pytest
from keras import layers

from keras_robust import models
from keras_robust.layers import KAP, Conv2D, WeightMap

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("numpy_weights")]


@pytest.mark.parametrize(
    ("options", "gflops"),
    [
        ({"layer": "conv", "filters": (200, 500, 8)}, "1.07"),
        ({"layer": "conv"}, "0.014"),
        ({"layer": "conv", "batch_normalization": True}, "0.014"),
        # The paper prints 0.125: cut off, not rounded.
        ({"layer": "conv", "kernel_size": 9}, "0.126"),
        ({"layer": "conv", "input_scale": True}, "0.014"),
        ({"layer": "smoothing"}, "0.013"),
        ({"layer": "smoothing", "batch_normalization": True}, "0.013"),
        ({"layer": "smoothing", "kernel_size": 9}, "0.119"),
        ({"layer": "unsharp"}, "0.020"),
    ],
    ids=str,
)
def test_flops_are_those_of_table_4(options, gflops):
    count = models.flops(models.build("wm_cnn", 10, (28, 28, 1), **options))
    decimals = len(gflops.split(".")[1])
    assert f"{count.paper / 1e9:.{decimals}f}" == gflops


@pytest.mark.parametrize(("name", "gflops"), [("resnext50_32x4d", "4.23"), ("mobilenet_v2", "0.30")])
def test_multiplications_of_grouped_and_depthwise_networks_are_those_that_torchvision_states(name, gflops):
    count = models.flops(models.build(name, 1000, (224, 224, 3), stem="imagenet"))
    assert f"{(count.convolutions + count.dense_layers) / 2e9:.2f}" == gflops


def test_weight_map_of_4_channels_is_counted_by_hand():
    inputs = keras.Input((5, 6, 2))
    for mode, elementwise, unsharp in (("smoothing", 0, 0), ("unsharp", 5 * 6 * 2 * 4, 2 * 5 * 6 * 4)):
        model = keras.Model(inputs, WeightMap(4, 3, mode=mode, padding="same")(inputs))
        count = models.flops(model)
        assert count.paper == 2 * 9 * 2 * 4 * 5 * 6 + elementwise
        # Two additions for each of the rows, 8 columns wide with the padding, then two for each column.
        assert count.factored == 2 * 2 * 4 * 5 * 6 + 2 * 5 * 8 * 4 + 2 * 5 * 6 * 4 + unsharp


def test_convolutions_and_dense_layers_count_two_operations_a_product():
    inputs = keras.Input((8, 8, 4))
    twice = layers.Conv2D(4, 3, padding="same")
    x = twice(twice(inputs))
    x = layers.Conv2D(6, 3, strides=2, groups=2)(x)
    x = Conv2D(16, 1, averaging=KAP(2, 2))(x)
    model = keras.Model(inputs, layers.Dense(5)(layers.Flatten()(x)))
    count = models.flops(model)
    assert count.convolutions == 2 * (2 * 64 * 9 * 4 * 4) + 2 * 9 * 9 * 2 * 6 + 2 * 9 * 6 * 4
    assert count.dense_layers == 2 * 9 * 4 * 5
    assert count.weight_maps == count.weight_maps_factored == 0


def test_a_nested_model_counts_each_time_that_it_is_called():
    part = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(4, 3, padding="same")])
    inner = keras.Input((8, 8, 4))
    inner = keras.Model(inner, part(part(inner)))
    inputs = keras.Input((8, 8, 4))
    assert models.flops(keras.Model(inputs, inner(inner(inputs)))).convolutions == 4 * (2 * 64 * 9 * 4 * 4)


def test_unknown_image_size_is_an_error():
    inputs = keras.Input((None, 8, 3))
    with pytest.raises(ValueError, match=r"known image size.*layer 'conv'"):
        models.flops(keras.Model(inputs, layers.Conv2D(2, 3, name="conv")(inputs)))
