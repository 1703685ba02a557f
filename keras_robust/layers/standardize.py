"""Standardisation of pixels inside the model."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_robust.checks import check_choice
from keras_robust.layers.kernel_average_pooling import channel_axis


@keras.saving.register_keras_serializable(package="keras_robust")
class Standardize(keras.layers.Layer):
    """Subtracts a mean and divides by a standard deviation, one of each a channel.

    Args:
        mean: Mean of each channel in pixel units, or one number for all.
        std: Standard deviation of each channel in pixel units, or one number for all.
        data_format: `"channels_last"` or `"channels_first"`; None takes the one in Keras's configuration.

    Call arguments:
        inputs: Images, shape `(batch, ..., channels)`, in [0, 1].

    Returns:
        Standardised images, shape of `inputs`.

    Raises:
        ValueError: If a standard deviation is not positive, or the numbers do not fit the channels.
    """

    def __init__(
        self,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        *,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.mean = np.asarray(mean, "float64").reshape(-1).tolist()
        self.std = np.asarray(std, "float64").reshape(-1).tolist()
        if not np.isfinite([*self.mean, *self.std]).all() or min(self.std) <= 0:
            raise ValueError(
                "`mean` must hold finite and `std` positive numbers, in pixel units of [0, 1]. "
                f"Received: mean={mean!r}, std={std!r}."
            )
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        check_choice("data_format", self.data_format, ("channels_last", "channels_first"))
        self.supports_masking = True

    def build(self, input_shape):
        """Checks that there is one mean and one standard deviation a channel."""
        channels = input_shape[channel_axis(self.data_format, len(input_shape))]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(
                    f"`{name}` must hold one number for each of the {channels} channels, or a single one. "
                    f"Received: {len(values)} numbers."
                )

    def call(self, inputs):
        """Standardises the images."""
        rank = len(inputs.shape)
        shape = [1] * rank
        shape[channel_axis(self.data_format, rank)] = -1
        mean = np.reshape(self.mean, shape)
        scale = np.reshape(1.0 / np.asarray(self.std), shape)
        return (inputs - ops.convert_to_tensor(mean, inputs.dtype)) * ops.convert_to_tensor(scale, inputs.dtype)

    def compute_output_shape(self, input_shape):
        """Returns the input's shape."""
        return input_shape

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "mean": self.mean, "std": self.std, "data_format": self.data_format}
