import dataclasses

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_robust import models
from keras_robust.analysis import variance_amplification
from keras_robust.analysis.variance import squared
from keras_robust.layers import WeightMap

# 4,000 uncorrelated images: the ratio of two variances, each a mean over some hundred elements, is within 5 %.
SAMPLING = 0.05
# Variances of float32 activations of order 1, computed from kernels that were averaged in another order.
ROUNDING = 1e-4


def net(first):
    inputs = keras.Input((6, 5, 2))
    x = layers.Activation("relu")(first(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def numbers(record):
    return dataclasses.astuple(record)[1:]


@pytest.mark.once
@pytest.mark.parametrize(
    "layer",
    [
        WeightMap(3),
        WeightMap(3, 5, padding=2, normalize=True),
        WeightMap(3, mode="unsharp"),
        WeightMap(3, mode="unsharp", normalize=True, strides=2),
        WeightMap(3, 2, strides=2, padding="same"),
        layers.Conv2D(3, 3, strides=2),
    ],
    ids=lambda layer: getattr(layer, "mode", "conv"),
)
def test_squared_layer_is_the_sum_of_its_squared_coefficients(layer, rng):
    variance = rng.uniform(size=(6, 5, 2))
    layer.build((None, 6, 5, 2))
    bias = ops.convert_to_numpy(layer(np.zeros((1, 6, 5, 2), "float32")))[0]
    units = np.eye(60, dtype="float32").reshape(60, 6, 5, 2)
    coefficients = ops.convert_to_numpy(layer(units)) - bias
    expected = np.einsum("n,nhwo->hwo", variance.ravel(), np.square(coefficients))
    np.testing.assert_allclose(squared(layer, variance), expected, rtol=1e-4)


@pytest.mark.parametrize("first", [WeightMap(3, mode="unsharp"), layers.Conv2D(3, 3)], ids=["map", "conv"])
def test_uncorrelated_images_and_noise_are_amplified_as_the_equation_says(first, rng):
    x = rng.uniform(size=(4000, 6, 5, 2)).astype("float32")
    noisy = x + 0.1 * rng.normal(size=x.shape).astype("float32")
    (found,) = variance_amplification(net(first), x, rng.integers(3, size=4000), noisy, batch_size=1000)
    assert found.amplification == pytest.approx(found.predicted, rel=SAMPLING)
    assert found.noise_amplification == pytest.approx(found.noise_predicted, rel=SAMPLING)


def test_importance_is_one_where_the_map_decides_it(rng):
    maps = WeightMap(1, 1, use_bias=False)
    inputs = keras.Input((6, 5, 1))
    model = keras.Model(inputs, layers.Dense(2, use_bias=False)(layers.Flatten()(maps(inputs))))
    maps.set_weights([rng.uniform(0.1, 1, size=(6, 5, 1, 1))])
    model.layers[-1].set_weights([np.ones((30, 2))])
    x = np.ones((4, 6, 5, 1), "float32")
    noisy = x + rng.normal(size=x.shape).astype("float32")
    x[0] = 0.5
    (found,) = variance_amplification(model, x, [0, 1, 1, 0], noisy)
    assert found.importance == pytest.approx(1.0)


def test_convolutions_that_average_their_kernel_have_the_variances_of_the_folded_ones(rng):
    model = models.build("kap_cnn", 10, (8, 8, 3), depth=2, pooling="kap", kap_layers=[2], seed=0)
    x = rng.uniform(size=(20, 8, 8, 3)).astype("float32")
    noisy, y = x + 0.1 * rng.normal(size=x.shape), rng.integers(10, size=20)
    found, folded = (variance_amplification(each, x, y, noisy) for each in (model, models.fold_kap(model)))
    assert [each.layer for each in found] == ["conv1", "conv2"]
    for each, expected in zip(found, folded, strict=True):
        assert numbers(each) == pytest.approx(numbers(expected), rel=ROUNDING)


def test_variances_of_layers_that_another_model_used_first_are_those_of_this_model(rng):
    conv, dense = layers.Conv2D(3, 3, name="conv"), layers.Dense(3)
    inputs, doubled = keras.Input((6, 5, 2)), keras.Input((6, 5, 2))
    first, second = (dense(layers.Flatten()(conv(each))) for each in (inputs, layers.Rescaling(2.0)(doubled)))
    x = rng.uniform(0.1, 0.5, size=(20, 6, 5, 2)).astype("float32")
    noisy, y = x + 0.1 * rng.normal(size=x.shape), rng.integers(3, size=20)
    (expected,) = variance_amplification(keras.Model(inputs, first), 2 * x, y, 2 * noisy)
    (found,) = variance_amplification(keras.Model(doubled, second), x, y, noisy)
    assert numbers(found) == pytest.approx(numbers(expected), rel=ROUNDING)


@pytest.mark.once
def test_wrong_arguments_of_the_variances_are_errors(rng):
    x = rng.uniform(size=(4, 6, 5, 2)).astype("float32")
    with pytest.raises(ValueError, match="must be the images of `x`"):
        variance_amplification(net(WeightMap(3)), x, [0, 1, 2, 0], x[:2])
    with pytest.raises(ValueError, match="without an activation of their own"):
        variance_amplification(net(layers.Conv2D(3, 3, activation="relu")), x, [0, 1, 2, 0], x)
