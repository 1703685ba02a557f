import keras
import ml_dtypes
import numpy as np
import pytest

from keras_robust.training.weights_file import store_weights


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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_file_loads_with_rounded_kernels_and_whole_vectors(net, tmp_path, dtype):
    net.layers[1].moving_variance.assign([1e-9, 1.0, 2.0, 3.0])
    before = net.get_weights()
    net.save_weights(tmp_path / "a.weights.h5")
    smaller = store_weights(tmp_path / "a.weights.h5", tmp_path / "b.weights.h5", kernels=dtype)
    net.set_weights([np.zeros_like(each) for each in before])
    net.load_weights(smaller)
    rounded = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
    for old, new in zip(before, net.get_weights(), strict=True):
        assert new.dtype == "float32"
        expected = old.astype(rounded).astype("float32") if old.ndim > 1 else old
        np.testing.assert_array_equal(new, expected)


def test_compressed_file_loads_with_the_same_bits_and_is_smaller(tmp_path):
    net = keras.Sequential([keras.Input((64,)), keras.layers.Dense(512), keras.layers.Dense(512)])
    before = net.get_weights()
    net.save_weights(tmp_path / "a.weights.h5")
    sizes = [(tmp_path / "a.weights.h5").stat().st_size]
    for dtype in (None, "float16", "bfloat16"):
        store_weights(tmp_path / "a.weights.h5", tmp_path / f"{dtype}.weights.h5", kernels=dtype)
        sizes.append((tmp_path / f"{dtype}.weights.h5").stat().st_size)
    net.set_weights([np.zeros_like(each) for each in before])
    net.load_weights(tmp_path / "None.weights.h5")
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[3] < 0.45 * sizes[0]


@pytest.mark.once
def test_contents_of_many_small_layers_take_little_room(tmp_path):
    net = keras.Sequential([keras.Input((32,)), *[keras.layers.Dense(32, use_bias=False) for _ in range(40)]])
    net.save_weights(tmp_path / "a.weights.h5")
    size = store_weights(tmp_path / "a.weights.h5", tmp_path / "b.weights.h5").stat().st_size
    assert size < 40 * (32 * 32 * 4 + 1_000)


@pytest.mark.once
def test_weight_out_of_range_is_an_error(net, tmp_path):
    net.layers[-1].kernel.assign(np.full(net.layers[-1].kernel.shape, 1e6))
    net.save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match="range"):
        store_weights(tmp_path / "a.weights.h5", tmp_path / "b.weights.h5", kernels="float16")
