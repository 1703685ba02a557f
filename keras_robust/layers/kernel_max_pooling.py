"""Kernel max pooling, the control of kernel average pooling."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_robust.checks import Tensor, check_choice, check_positive_integer
from keras_robust.layers.kernel_average_pooling import channel_axis, check_grid, fixed_channels, resolve_grid


def _maximum_along(x: Tensor, axis: int, pool_size: int) -> Tensor:
    """Slides a maximum along one axis; the padding is minus infinity and the size is kept."""
    size = x.shape[axis]
    pads = [(0, 0)] * len(x.shape)
    pads[axis] = ((pool_size - 1) // 2, pool_size // 2)
    padded = ops.pad(x, pads, constant_values=-np.inf)
    before = (slice(None),) * axis
    result = padded[(*before, slice(0, size))]
    for shift in range(1, pool_size):
        result = ops.maximum(result, padded[(*before, slice(shift, shift + size))])
    return result


@keras.saving.register_keras_serializable(package="keras_robust")
class KMP(keras.layers.Layer):
    """Takes the maximum of neighbouring kernels on the channel grid; the number of channels is kept.

    The grid and the centred windows are those of `KAP` with strides of 1.

    Args:
        pool_size: Side of the window on the grid.
        dims: Axes of the grid, 1, 2 or 3.
        grid: Size of each axis of the grid; None takes `KAP`'s default.
        data_format: `"channels_last"` or `"channels_first"`; None takes the one in Keras's configuration.

    Call arguments:
        inputs: Activations, shape `(batch, ..., channels)`, any rank of at least 2.

    Returns:
        Maxima, shape of `inputs`.

    Raises:
        ValueError: If the grid does not hold the channels, or the layer is used for two numbers of channels.

    Reference:
        Bashivan et al., 2022, https://arxiv.org/abs/2210.00062 (figure 5)
    """

    def __init__(
        self,
        pool_size: int = 3,
        dims: int = 2,
        grid: Sequence[int] | None = None,
        *,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive_integer("pool_size", pool_size)
        check_grid(grid, dims)
        self.pool_size = pool_size
        self.dims = dims
        self.grid = None if grid is None else tuple(grid)
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        check_choice("data_format", self.data_format, ("channels_last", "channels_first"))
        self.supports_masking = True

    def build(self, input_shape):
        """Checks that the grid holds the channels."""
        channels = input_shape[channel_axis(self.data_format, len(input_shape))]
        self._built_grid = resolve_grid(self.grid, channels, self.dims)
        self.input_spec = fixed_channels(self.data_format, channels)

    def call(self, inputs):
        """Takes the maximum over the channels."""
        if self.pool_size == 1:
            return inputs
        axis = channel_axis(self.data_format, len(inputs.shape))
        shape = ops.shape(inputs)
        x = ops.reshape(inputs, (*shape[:axis], *self._built_grid, *shape[axis + 1 :]))
        for grid_axis in range(axis, axis + self.dims):
            x = _maximum_along(x, grid_axis, self.pool_size)
        return ops.reshape(x, shape)

    def compute_output_shape(self, input_shape):
        """Returns the input's shape."""
        return input_shape

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "dims": self.dims,
            "grid": self.grid,
            "data_format": self.data_format,
        }
