import keras
import numpy as np
import pytest

from keras_robust.training.weights_file import store_kernels_as


@pytest.fixture
def net():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


def test_half_precision_file_loads_with_rounded_kernels_and_whole_vectors(net, tmp_path):
    net.layers[1].moving_variance.assign([1e-9, 1.0, 2.0, 3.0])
    before = net.get_weights()
    net.save_weights(tmp_path / "a.weights.h5")
    smaller = store_kernels_as("float16", tmp_path / "a.weights.h5", tmp_path / "b.weights.h5")
    net.set_weights([np.zeros_like(each) for each in before])
    net.load_weights(smaller)
    for old, new in zip(before, net.get_weights(), strict=True):
        assert new.dtype == "float32"
        expected = old.astype("float16").astype("float32") if old.ndim > 1 else old
        np.testing.assert_array_equal(new, expected)


@pytest.mark.once
def test_weight_out_of_range_is_an_error(net, tmp_path):
    net.layers[-1].kernel.assign(np.full(net.layers[-1].kernel.shape, 1e6))
    net.save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match="range"):
        store_kernels_as("float16", tmp_path / "a.weights.h5", tmp_path / "b.weights.h5")
