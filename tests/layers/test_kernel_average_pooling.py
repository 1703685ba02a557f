import itertools
import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_robust import backend
from keras_robust.layers import KAP, KMP, average_over_grid, channel_grid
from tests.layers.precision import float64

# Sums of at most 125 numbers of order 1 in float64.
ROUNDING = 1e-12
# A 3 x 3 convolution over 5 channels in float32, summed in another order.
FLOAT32_ROUNDING = 1e-5
CHANNELS = (*range(1, 65), 127, 128, 512)


def windows(size, pool_size, strides, padding):
    """Kernels of each window along one axis, as the definition says it."""
    if padding == "valid":
        return [range(start, start + pool_size) for start in range(0, size - pool_size + 1, strides)]
    before, after = (pool_size - 1) // 2, pool_size // 2
    return [
        [index for index in range(centre - before, centre + after + 1) if 0 <= index < size]
        for centre in range(0, size, strides)
    ]


def brute_force(x, grid, pool_size, strides, padding):
    """Mean over each window, one window at a time."""
    means = []
    for sides in itertools.product(*(windows(size, pool_size, strides, padding) for size in grid)):
        members = [np.ravel_multi_index(place, grid) for place in itertools.product(*sides)]
        means.append(x[..., members].mean(-1))
    return np.stack(means, -1)


@pytest.mark.parametrize("pool_size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("padding", ["centered", "valid"])
def test_kap_equals_brute_force_average(pool_size, padding, rng):
    fitting = 0
    with float64():
        for channels, strides in itertools.product(CHANNELS, range(1, pool_size + 1)):
            grid = channel_grid(channels)
            layer = KAP(pool_size, strides, padding, dtype="float64")
            x = rng.normal(size=(2, channels))
            if padding == "valid" and min(grid) < pool_size:
                with pytest.raises(ValueError, match="a whole window of side pool_size"):
                    layer.build(x.shape)
                continue
            fitting += 1
            expected = brute_force(x, grid, pool_size, strides, padding)
            np.testing.assert_allclose(
                ops.convert_to_numpy(layer(x)), expected, atol=ROUNDING, err_msg=f"{channels}, {strides}"
            )
    assert fitting >= 18 * pool_size


@pytest.mark.parametrize("padding", ["centered", "valid"])
@pytest.mark.parametrize("grid", [(7,), (64,), (3, 4), (8, 2), (2, 3, 4), (4, 4, 8)])
def test_kap_averages_over_grids_of_any_dimension(grid, padding, rng):
    with float64():
        x = rng.normal(size=(2, 3, math.prod(grid)))
        for pool_size, strides in ((1, 2), (2, 1), (2, 2), (2, 3)):
            layer = KAP(pool_size, strides, padding, dims=len(grid), grid=grid, dtype="float64")
            expected = brute_force(x, grid, pool_size, strides, padding)
            np.testing.assert_allclose(ops.convert_to_numpy(layer(x)), expected, atol=ROUNDING)


@pytest.mark.parametrize(("channels", "grid"), [(64, (8, 8)), (128, (8, 16)), (529, (23, 23)), (127, (1, 127))])
def test_default_grid_is_that_of_the_paper(channels, grid):
    assert channel_grid(channels) == grid


@pytest.mark.parametrize(
    ("channels", "grid"), [(64, (4, 4, 4)), (128, (4, 4, 8)), (512, (8, 8, 8)), (7, (1, 1, 7))]
)
def test_default_3d_grid_is_nearly_cubic(channels, grid):
    assert channel_grid(channels, dims=3) == grid


def test_corner_edge_and_interior_average_4_6_and_9_kernels():
    x = np.zeros((64, 64), "float32")
    np.fill_diagonal(x, 1.0)
    counts = (ops.convert_to_numpy(KAP()(x)) > 0).sum(0).reshape(8, 8)
    assert counts[0, 0] == 4
    assert counts[0, 1] == counts[1, 0] == 6
    assert counts[1, 1] == 9


def test_centered_disjoint_windows_leave_out_the_last_row_and_column():
    used = np.asarray(ops.convert_to_numpy(KAP(3, 3)(np.eye(576, dtype="float32")))) > 0
    times_read = used.sum(1).reshape(24, 24)
    assert used.shape[1] == 64
    assert not times_read[23].any()
    assert not times_read[:, 23].any()
    assert (times_read[:23, :23] == 1).all()


def test_valid_disjoint_windows_read_every_kernel_once():
    used = np.asarray(ops.convert_to_numpy(KAP(3, 3, "valid")(np.eye(576, dtype="float32")))) > 0
    assert used.shape[1] == 64
    assert (used.sum(1) == 1).all()
    assert (used.sum(0) == 9).all()


def test_kap_after_a_convolution_equals_the_convolution_with_averaged_kernels(rng):
    x = rng.normal(size=(2, 6, 6, 5)).astype("float32")
    kernel = ops.convert_to_tensor(rng.normal(size=(3, 3, 5, 24)).astype("float32"))
    after = KAP(3, 2)(ops.conv(x, kernel, padding="same", data_format="channels_last"))
    averaged = average_over_grid(kernel, channel_grid(24), pool_size=3, strides=2)
    folded = ops.conv(x, averaged, padding="same", data_format="channels_last")
    np.testing.assert_allclose(
        ops.convert_to_numpy(after),
        ops.convert_to_numpy(folded),
        atol=FLOAT32_ROUNDING,
        rtol=FLOAT32_ROUNDING,
    )


@pytest.mark.parametrize(
    ("pool_size", "strides", "padding"), [(3, 1, "centered"), (2, 1, "centered"), (3, 2, "valid")]
)
def test_kap_gradient_spreads_each_output_over_its_window(pool_size, strides, padding, rng):
    with float64():
        layer = KAP(pool_size, strides, padding, dtype="float64")
        x, grid = rng.normal(size=(2, 3, 20)), channel_grid(20)
        weights = rng.normal(size=layer.compute_output_shape(x.shape))
        layer.build(x.shape)
        _, gradient = backend.value_and_grad(
            lambda inputs: ops.sum(layer(inputs) * ops.convert_to_tensor(weights)), ops.convert_to_tensor(x)
        )
        # The layer is linear: its matrix is its value at the unit vectors.
        matrix = brute_force(np.eye(20), grid, pool_size, strides, padding)
        np.testing.assert_allclose(ops.convert_to_numpy(gradient), weights @ matrix.T, atol=ROUNDING)


def test_kap_keeps_a_constant_at_the_border():
    outputs = ops.convert_to_numpy(KAP(5)(np.ones((1, 4, 4, 144), "float32")))
    np.testing.assert_allclose(outputs, 1.0, atol=1e-6)  # 25 times a rounded 1 / 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pool_size": 0}, "`pool_size` must be an integer of at least 1"),
        ({"strides": 1.5}, "`strides` must be an integer of at least 1"),
        ({"padding": "same"}, "`padding` must be one of 'centered', 'valid'"),
        ({"dims": 4}, "`dims` must be one of 1, 2, 3"),
        ({"grid": (8,)}, "one size for each axis"),
    ],
)
def test_wrong_arguments_of_kap_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        KAP(**arguments)


def test_grid_that_does_not_hold_the_channels_is_an_error():
    with pytest.raises(ValueError, match=r"56 places, for 64 channels.*\(8, 8\)"):
        KAP(grid=(7, 8))(np.zeros((1, 4, 4, 64), "float32"))


@pytest.mark.parametrize("layer", [KAP, KMP])
@pytest.mark.parametrize(
    ("data_format", "first", "second"),
    [("channels_last", (2, 3, 16), (2, 3, 64)), ("channels_first", (16, 2, 3), (64, 2, 3))],
)
def test_a_pooling_layer_of_two_numbers_of_channels_is_an_error(layer, data_format, first, second):
    pooling = layer(data_format=data_format)
    pooling(np.ones((1, *first), "float32"))
    with pytest.raises(ValueError, match=r"to have value 16, but received input with shape \(1, .*64"):
        pooling(np.ones((1, *second), "float32"))
    with pytest.raises(ValueError, match=r"to have value 16, but received input with shape \(None, .*64"):
        pooling(keras.Input(second))
    pooling(np.ones((1, 16), "float32"))  # another rank is fine


def test_unknown_number_of_channels_is_an_error():
    with pytest.raises(ValueError, match="number of channels must be known"):
        KAP()(keras.Input((4, 4, None)))


def test_tensor_without_a_channel_axis_is_an_error():
    with pytest.raises(ValueError, match="a tensor of rank 1"):
        KAP()(np.zeros(64, "float32"))
