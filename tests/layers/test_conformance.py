import functools

import numpy as np
import pytest
from keras import ops

from keras_robust.layers import (
    KAP,
    KMP,
    BatchNormalization,
    Conv2D,
    Dense,
    GaussianNoise,
    Standardize,
    SubnetGate,
    WeightMap,
)
from tests.layers import conformance

SHAPE = (6, 5, 12)
CASES = {
    "kap": functools.partial(KAP),
    "kap_valid_strided": functools.partial(KAP, 2, 2, "valid", grid=(2, 6)),
    "kap_1d": functools.partial(KAP, 4, dims=1),
    "kap_3d": functools.partial(KAP, 2, dims=3),
    # A fresh KAP for each layer: it is part of the layer.
    "conv2d_averaged": lambda **options: Conv2D(8, 3, averaging=KAP(2, name="kap"), **options),
    "conv2d_plain": functools.partial(Conv2D, 4, 3, strides=2),
    "dense_averaged": lambda **options: Dense(12, averaging=KAP(3, 2, name="kap"), **options),
    "kmp": functools.partial(KMP),
    "kmp_3d": functools.partial(KMP, 2, dims=3),
    "weight_map_smoothing": functools.partial(WeightMap, 4),
    "weight_map_strided": functools.partial(WeightMap, 4, 5, 2, padding=2, normalize=True),
    "weight_map_unsharp": functools.partial(WeightMap, 4, mode="unsharp", use_bias=False),
    "batch_normalization": functools.partial(BatchNormalization, epsilon=1e-5),
    "gaussian_noise": functools.partial(GaussianNoise, 0.1, seed=3),
    "subnet_gate": functools.partial(SubnetGate, "block", 0, layer="convolution"),
    "standardize": functools.partial(Standardize, 0.4, [0.2] * 12),
}
# TensorFlow has no convolution with the channels first on a CPU.
WITHOUT_DATA_FORMAT = {
    "batch_normalization",
    "gaussian_noise",
    "subnet_gate",
    "conv2d_averaged",
    "conv2d_plain",
    "dense_averaged",
}


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", CASES)
def test_layer_conforms(name, check):
    check(CASES[name], SHAPE)


@pytest.mark.parametrize("name", CASES)
def test_saved_model_reloads_to_the_same_outputs(name, tmp_path):
    conformance.check_reload(CASES[name], SHAPE, tmp_path)


@pytest.mark.parametrize("name", [name for name in CASES if name not in WITHOUT_DATA_FORMAT])
def test_both_data_formats_agree(name):
    last, first = CASES[name](data_format="channels_last"), CASES[name](data_format="channels_first")
    x = np.random.default_rng(2).normal(size=(2, *SHAPE)).astype("float32")
    last.build(x.shape)
    first.build(np.moveaxis(x, -1, 1).shape)
    first.set_weights(last.get_weights())
    expected = np.moveaxis(ops.convert_to_numpy(last(x)), -1, 1)
    outputs = ops.convert_to_numpy(first(np.moveaxis(x, -1, 1)))
    assert outputs.shape == first.compute_output_shape((2, SHAPE[2], *SHAPE[:2]))
    np.testing.assert_allclose(outputs, expected, atol=conformance.COMPILED_TOLERANCE)


@pytest.mark.parametrize(
    "layer", [KAP, KMP, functools.partial(WeightMap, 4), functools.partial(Standardize, 0, 1)]
)
def test_unknown_data_format_is_an_error(layer):
    with pytest.raises(ValueError, match="`data_format` must be one of"):
        layer(data_format="NHWC")
