"""Kernel average pooling, and the averaging over a grid of channels that it is made of."""

import functools
import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_robust.checks import Tensor, check_choice, check_positive_integer

PADDINGS = ("centered", "valid")
_DENSE_CHANNELS = 64  # up to here one product with a dense matrix is faster than one for each axis


def channel_grid(channels: int, dims: int = 2) -> tuple[int, ...]:
    """Chooses the grid that channels are laid out on, row-major and as close to a square or a cube as it can be.

    In 2D the rows are the largest divisor of `channels` up to its square root (128 gives 8 x 16, a prime 1 x C).
    In 3D the first side is the largest divisor up to the cube root and the rest is laid out as in 2D (128 gives
    4 x 4 x 8).

    Args:
        channels: Number of channels.
        dims: Axes of the grid, 1, 2 or 3.

    Returns:
        Size of each axis; their product is `channels`.
    """
    sides = []
    for axes in range(dims, 1, -1):
        side = max(n for n in range(1, channels + 1) if channels % n == 0 and n**axes <= channels)
        sides.append(side)
        channels //= side
    return (*sides, channels)


def pooled_grid(grid: Sequence[int], pool_size: int, strides: int, padding: str) -> tuple[int, ...]:
    """Computes the grid that averaging leaves.

    Args:
        grid: Size of each axis of the channel grid.
        pool_size: Side of the window.
        strides: Step of the window along each axis.
        padding: `"centered"` or `"valid"`.

    Returns:
        Size of each axis of the output's grid.

    Raises:
        ValueError: If no whole window fits and `padding` is `"valid"`.
    """
    if padding == "centered":
        return tuple(-(-n // strides) for n in grid)
    if min(grid) < pool_size:
        raise ValueError(
            f"With padding='valid' a whole window of side pool_size={pool_size} must fit into the channel grid. "
            f"Received: grid={tuple(grid)}. Use a smaller pool_size, padding='centered', or another grid."
        )
    return tuple((n - pool_size) // strides + 1 for n in grid)


@functools.lru_cache(maxsize=256)
def _axis_matrix(size: int, pool_size: int, strides: int, padding: str, dtype: str) -> np.ndarray:
    """Averages along one axis of the grid, shape `(size, windows)`; a column is a window and sums to 1."""
    (windows,) = pooled_grid((size,), pool_size, strides, padding)
    before = (pool_size - 1) // 2 if padding == "centered" else 0
    first = strides * np.arange(windows) - before
    index = np.arange(size)[:, None]
    inside = (index >= first) & (index < first + pool_size)
    return (inside / inside.sum(0)).astype(dtype)


@functools.lru_cache(maxsize=256)
def _grid_matrices(
    grid: tuple[int, ...], pool_size: int, strides: int, padding: str, dtype: str
) -> tuple[np.ndarray, ...]:
    """Averages over the grid, one matrix an axis; or one for all axes at once where the grid is small."""
    # The count of real kernels in a window is a product over the axes, so the average is separable.
    sides = [_axis_matrix(n, pool_size, strides, padding, dtype) for n in grid]
    if math.prod(grid) <= _DENSE_CHANNELS:
        return (functools.reduce(np.kron, sides),)
    return tuple(sides)


def average_over_grid(
    x: Tensor, grid: Sequence[int], pool_size: int = 3, strides: int = 1, padding: str = "centered"
) -> Tensor:
    """Averages the last axis of a tensor over windows of the grid that it is laid out on.

    The last axis may hold activations' channels, or the filters of a convolution's kernel: the average of the
    outputs of a convolution is the output of the averaged kernel.

    Args:
        x: Floating tensor, shape `(..., channels)`.
        grid: Size of each axis of the grid, row-major; the product is `channels`.
        pool_size: Side of the window.
        strides: Step of the window along each axis.
        padding: `"centered"` or `"valid"`, see `KAP`.

    Returns:
        Averages, shape `(..., output channels)`.

    Raises:
        ValueError: If no whole window fits and `padding` is `"valid"`.
    """
    if pool_size == 1 and strides == 1:
        return x
    dtype = keras.backend.standardize_dtype(x.dtype)
    numpy_dtype = "float64" if dtype == "float64" else "float32"
    matrices = _grid_matrices(tuple(grid), pool_size, strides, padding, numpy_dtype)
    leading = ops.shape(x)[:-1]
    below = math.prod(len(matrix) for matrix in matrices)
    for matrix in matrices[:-1]:
        below //= len(matrix)
        # From the left, so that no axis moves. The operator and not `ops.matmul`, which computes float64 in
        # float32 on PyTorch.
        x = ops.convert_to_tensor(matrix.T, dtype=dtype) @ ops.reshape(x, (-1, len(matrix), below))
    x = ops.reshape(x, (-1, len(matrices[-1]))) @ ops.convert_to_tensor(matrices[-1], dtype=dtype)
    return ops.reshape(x, (*leading, math.prod(pooled_grid(grid, pool_size, strides, padding))))


def check_grid(grid: Sequence[int] | None, dims: int) -> None:
    """Raises `ValueError` unless `grid` is None or has one positive size for each of `dims` axes."""
    check_choice("dims", dims, (1, 2, 3))
    if grid is None:
        return
    if len(grid) != dims:
        raise ValueError(
            f"`grid` must have one size for each axis. Received: grid={tuple(grid)}, dims={dims}. "
            f"Give {dims} sizes, or set dims={len(grid)}."
        )
    for size in grid:
        check_positive_integer("grid", size)


def resolve_grid(grid: Sequence[int] | None, channels: int | None, dims: int) -> tuple[int, ...]:
    """Returns the grid of a layer's channels; raises `ValueError` unless it holds all of them."""
    if channels is None:
        raise ValueError(
            "The number of channels must be known when the layer is built. Received: None. "
            "Give the input a static number of channels."
        )
    if grid is None:
        return channel_grid(channels, dims)
    if math.prod(grid) != channels:
        raise ValueError(
            f"`grid` must hold all channels of the input. Received: grid={tuple(grid)}, that is "
            f"{math.prod(grid)} places, for {channels} channels. "
            f"Leave out `grid` for the default, {channel_grid(channels, dims)}."
        )
    return tuple(grid)


def channel_axis(data_format: str, rank: int) -> int:
    """Returns the axis of the channels in a tensor of that rank."""
    if rank < 2:
        raise ValueError(f"The input must have shape (batch, ..., channels). Received: a tensor of rank {rank}.")
    return 1 if data_format == "channels_first" else rank - 1


def fixed_channels(data_format: str, channels: int) -> keras.layers.InputSpec:
    """Returns what Keras holds the inputs of every call to: this number of channels, at any rank of at least 2."""
    # From the end: the layer may be built for a tensor of another rank than it is called on.
    return keras.layers.InputSpec(min_ndim=2, axes={1 if data_format == "channels_first" else -1: channels})


@keras.saving.register_keras_serializable(package="keras_robust")
class KAP(keras.layers.Layer):
    """Averages neighbouring kernels: each output channel is the mean over a window of the channel grid.

    Channels are laid out row-major on a grid; a window of side `pool_size` slides over it, separately at each
    position of the image. At the border only real kernels are averaged. With `padding="centered"` window r covers
    the kernels `[strides * r - (pool_size - 1) // 2, strides * r + pool_size // 2]` of an axis of n, cut to the
    grid, and the axis keeps `ceil(n / strides)` of them; with `"valid"` only whole windows count.

    After a convolution or a dense layer, the same average of the layer's kernel costs next to nothing: give the
    KAP to `keras_robust.layers.Conv2D` or `Dense` as `averaging`, as our builders do.

    Differs from the code: an even `pool_size` keeps the size of the grid (the code's grid shrinks by one), and the
    grid is never padded back after strides.

    Args:
        pool_size: Side of the window on the grid.
        strides: Step of the window; `strides=pool_size` makes disjoint ensembles.
        padding: `"centered"`, or `"valid"` for whole windows only.
        dims: Axes of the grid, 1, 2 or 3.
        grid: Size of each axis of the grid. None takes the most nearly square or cubic one: in 2D the rows are the
            largest divisor of the channels up to their square root, in 3D the first side is the largest divisor
            up to their cube root and the rest is laid out as in 2D.
        data_format: `"channels_last"` or `"channels_first"`; None takes the one in Keras's configuration.

    Call arguments:
        inputs: Activations, shape `(batch, ..., channels)`, any rank of at least 2.

    Returns:
        Averages, the shape of `inputs` but for the number of channels, the product of the pooled grid.

    Raises:
        ValueError: If the grid does not hold the channels, no whole window fits, or the layer is used for two
            numbers of channels.

    Reference:
        Bashivan et al., 2022, https://arxiv.org/abs/2210.00062 (section 3.2, algorithm 1)
    """

    def __init__(
        self,
        pool_size: int = 3,
        strides: int = 1,
        padding: str = "centered",
        dims: int = 2,
        grid: Sequence[int] | None = None,
        *,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive_integer("pool_size", pool_size)
        check_positive_integer("strides", strides)
        check_choice("padding", padding, PADDINGS)
        check_grid(grid, dims)
        self.pool_size = pool_size
        self.strides = strides
        self.padding = padding
        self.dims = dims
        self.grid = None if grid is None else tuple(grid)
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        check_choice("data_format", self.data_format, ("channels_last", "channels_first"))
        self.supports_masking = True
        self._built_grid: tuple[int, ...] = ()

    def build(self, input_shape):
        """Checks that the grid holds the channels and that a window fits."""
        self.compute_output_shape(input_shape)
        grid = self._grid(input_shape)
        if self._built_grid not in ((), grid):
            raise ValueError(
                f"'{self.name}' must average the same number of channels wherever it is used. Received: a grid of "
                f"{grid} after one of {self._built_grid}. Make a layer of its own for each."
            )
        self._built_grid = grid
        self.input_spec = fixed_channels(self.data_format, math.prod(grid))

    def call(self, inputs):
        """Averages the channels."""
        axis = channel_axis(self.data_format, len(inputs.shape))
        last = axis == len(inputs.shape) - 1
        x = self.average(inputs if last else ops.moveaxis(inputs, axis, -1))
        return x if last else ops.moveaxis(x, -1, axis)

    def average(self, x: Tensor) -> Tensor:
        """Averages the last axis of any tensor, such as the filters of a kernel, as the built layer does channels.

        Args:
            x: Floating tensor, shape `(..., channels)`.

        Returns:
            Averages, shape `(..., output channels)`.
        """
        return average_over_grid(x, self._built_grid, self.pool_size, self.strides, self.padding)

    def compute_output_shape(self, input_shape):
        """Returns the input's shape with the number of pooled channels."""
        axis = channel_axis(self.data_format, len(input_shape))
        grid = pooled_grid(self._grid(input_shape), self.pool_size, self.strides, self.padding)
        return (*input_shape[:axis], math.prod(grid), *input_shape[axis + 1 :])

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "strides": self.strides,
            "padding": self.padding,
            "dims": self.dims,
            "grid": self.grid,
            "data_format": self.data_format,
        }

    def _grid(self, input_shape) -> tuple[int, ...]:
        channels = input_shape[channel_axis(self.data_format, len(input_shape))]
        return resolve_grid(self.grid, channels, self.dims)
