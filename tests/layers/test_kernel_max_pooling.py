import numpy as np
import pytest
from keras import ops

from keras_robust.layers import KMP, channel_grid


@pytest.mark.parametrize("pool_size", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 7, 12, 64, 128])
def test_kmp_equals_brute_force_maximum(channels, pool_size, rng):
    x = rng.normal(size=(2, 3, channels)).astype("float32")
    rows, columns = channel_grid(channels)
    layout = x.reshape(2, 3, rows, columns)
    before, after = (pool_size - 1) // 2, pool_size // 2
    expected = np.empty_like(layout)
    for r in range(rows):
        for c in range(columns):
            window = layout[:, :, max(r - before, 0) : r + after + 1, max(c - before, 0) : c + after + 1]
            expected[:, :, r, c] = window.max((2, 3))
    np.testing.assert_array_equal(ops.convert_to_numpy(KMP(pool_size)(x)), expected.reshape(x.shape))


def test_kmp_of_negative_activations_does_not_see_the_padding():
    assert (ops.convert_to_numpy(KMP(3)(-np.ones((1, 2, 2, 16), "float32"))) == -1.0).all()


def test_grid_that_does_not_hold_the_channels_is_an_error():
    with pytest.raises(ValueError, match="15 places, for 16 channels"):
        KMP(grid=(3, 5))(np.zeros((1, 4, 4, 16), "float32"))
