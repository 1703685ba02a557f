"""Conv2D and Dense with averaged kernels against the plain layer followed by KAP."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_robust import backend
from keras_robust.layers import KAP, Conv2D, Dense, averaged_weights
from tests.layers.precision import float64

# Sums of some hundred numbers of order 1 in float64.
ROUNDING = 1e-11
WINDOWS = {
    "3": {"pool_size": 3},
    "2_even": {"pool_size": 2},
    "3_strided": {"pool_size": 3, "strides": 2},
    "2_disjoint_valid": {"pool_size": 2, "strides": 2, "padding": "valid", "grid": (6, 12)},
    "1d": {"pool_size": 4, "dims": 1},
    "3d_strided": {"pool_size": 2, "strides": 2, "dims": 3},
}
CONVOLUTIONS = {
    "same": {"padding": "same"},
    "strided_without_bias": {"strides": 2, "use_bias": False},
    "activated": {"kernel_size": (1, 2), "activation": "tanh"},
}
FILTERS = 72  # more than the 64 channels up to which one dense matrix averages all axes at once


def plain_then_kap(layer, kap):
    """A function of (inputs, *weights) that pools the activations of the plain layer."""
    config = {name: value for name, value in layer.get_config().items() if name != "averaging"}
    activation = layer.activation
    plain = type(layer).__mro__[1].from_config({**config, "activation": None, "name": "plain"})

    def call(inputs, *weights):
        outputs, _ = plain.stateless_call(weights, [], inputs)
        return activation(kap(outputs))

    return plain, call


def check_equal(layer, kap, x, rng, tolerance=ROUNDING):
    """Outputs and the gradients of a weighted sum of them agree, weights and inputs alike."""
    plain, reference = plain_then_kap(layer, kap)
    layer.build(x.shape)
    plain.build(x.shape)
    assert [v.shape for v in layer.trainable_variables] == [v.shape for v in plain.trainable_variables]
    values = [rng.normal(size=v.shape) for v in layer.trainable_variables]
    tensors = [ops.convert_to_tensor(value) for value in (x, *values)]
    weights = ops.convert_to_tensor(rng.normal(size=layer.compute_output_shape(x.shape)))

    def total(call):
        def scalar(nest):
            outputs = call(*nest)
            return ops.sum(outputs * weights), outputs

        return backend.jit(lambda nest: backend.value_and_grad(scalar, nest, True))(tensors)

    (_, outputs), gradients = total(lambda inputs, *w: layer.stateless_call(w, [], inputs)[0])
    (_, expected), by_hand = total(reference)
    for found, wanted in zip([outputs, *gradients], [expected, *by_hand], strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(found), ops.convert_to_numpy(wanted), atol=tolerance)


@pytest.mark.parametrize(
    ("window", "convolution"),
    [*((window, "same") for window in WINDOWS), ("3", "strided_without_bias"), ("2_even", "activated")],
)
def test_averaged_convolution_equals_kap_after_it_gradients_included(window, convolution, rng):
    with float64():
        options = {"kernel_size": 3, **CONVOLUTIONS[convolution], "dtype": "float64"}
        layer = Conv2D(FILTERS, averaging=KAP(**WINDOWS[window]), **options)
        kap = KAP(**WINDOWS[window], dtype="float64")
        check_equal(layer, kap, rng.normal(size=(2, 6, 5, 4)), rng)


@pytest.mark.parametrize(("window", "use_bias"), [("3", True), ("3_strided", False), ("1d", True)])
def test_averaged_dense_layer_equals_kap_after_it_gradients_included(window, use_bias, rng):
    with float64():
        averaging = KAP(**WINDOWS[window])
        layer = Dense(FILTERS, use_bias=use_bias, averaging=averaging, activation="tanh", dtype="float64")
        kap = KAP(**WINDOWS[window], dtype="float64")
        # Keras multiplies float64 matrices in float32 on PyTorch.
        tolerance = 1e-4 if keras.backend.backend() == "torch" else ROUNDING
        check_equal(layer, kap, rng.normal(size=(3, 7, 5)), rng, tolerance)


def test_channels_first_convolution_averages_the_same_kernels(rng):
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no convolution with the channels first on a CPU")
    layers = [
        Conv2D(12, 3, averaging=KAP(3, 2), data_format=data_format)
        for data_format in ("channels_last", "channels_first")
    ]
    x = rng.normal(size=(2, 6, 5, 4)).astype("float32")
    layers[0].build(x.shape)
    layers[1].build((2, 4, 6, 5))
    layers[1].set_weights(layers[0].get_weights())
    expected = np.moveaxis(ops.convert_to_numpy(layers[0](x)), -1, 1)
    outputs = ops.convert_to_numpy(layers[1](np.moveaxis(x, -1, 1)))
    assert outputs.shape == layers[1].compute_output_shape((2, 4, 6, 5))
    np.testing.assert_allclose(outputs, expected, atol=1e-5)  # float32, some hundred terms


@pytest.mark.parametrize("make", [lambda kap: Conv2D(16, 3, averaging=kap), lambda kap: Dense(16, averaging=kap)])
def test_averaged_weights_make_the_plain_layer_that_equals_it(make, rng):
    layer = make(KAP(2, 2))
    x = rng.normal(size=(2, 6, 5, 4)).astype("float32")
    outputs = ops.convert_to_numpy(layer(x))
    base = type(layer).__mro__[1]
    plain = base(4, 3) if base is keras.layers.Conv2D else base(4)
    plain.build(x.shape)
    plain.set_weights(averaged_weights(layer))
    np.testing.assert_allclose(ops.convert_to_numpy(plain(x)), outputs, atol=1e-5)  # float32, some hundred terms


@pytest.mark.parametrize("base", [keras.layers.Conv2D, keras.layers.Dense])
def test_weights_of_the_plain_layer_followed_by_kap_load(base, tmp_path, rng):
    def network(averaged):
        options = {"kernel_size": 3, "padding": "same"} if base is keras.layers.Conv2D else {}
        ours = Conv2D if base is keras.layers.Conv2D else Dense
        inputs = x = keras.Input((6, 6, 3))
        for position in range(3):
            if averaged and position != 1:
                x = ours(16, averaging=KAP(), name=f"layer{position}", **options)(x)
            else:
                x = base(16, name=f"layer{position}", **options)(x)
                x = KAP()(x) if position != 1 else x
        return keras.Model(inputs, x)

    pooled, averaged = network(False), network(True)
    pooled.save_weights(tmp_path / "pooled.weights.h5")
    averaged.load_weights(tmp_path / "pooled.weights.h5")
    assert [v.path for v in averaged.trainable_variables] == [v.path for v in pooled.trainable_variables]
    x = rng.normal(size=(2, 6, 6, 3)).astype("float32")
    expected = pooled.predict(x, verbose=0)
    np.testing.assert_allclose(averaged.predict(x, verbose=0), expected, atol=1e-5)  # float32, three layers
    averaged.save_weights(tmp_path / "averaged.weights.h5")
    pooled.load_weights(tmp_path / "averaged.weights.h5")
    np.testing.assert_array_equal(pooled.predict(x, verbose=0), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv2D(8, 3, averaging=3), "Did you mean averaging=KAP"),
        (lambda: Dense(8, averaging="kap"), "`averaging` must be a KAP"),
        (lambda: Conv2D(8, 3, averaging=KAP(), groups=2), "must have groups=1.*Put a KAP layer"),
        (lambda: Conv2D(8, 3, averaging=KAP(grid=(3, 3))).build((None, 4, 4, 2)), "9 places, for 8 channels"),
        (lambda: Dense(8, averaging=KAP(3, padding="valid")).build((None, 2)), "a whole window"),
    ],
)
def test_wrong_averaging_is_an_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_averaging_for_kernels_of_another_number_of_filters_is_an_error():
    averaging = KAP(2)
    x = Conv2D(16, 3, averaging=averaging)(keras.Input((8, 8, 1)))
    Conv2D(16, 3, averaging=averaging)(x)
    with pytest.raises(ValueError, match=r"same number of channels.*\(6, 6\) after one of \(4, 4\)"):
        Conv2D(36, 3, averaging=averaging)(x)
