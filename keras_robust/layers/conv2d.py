"""Convolution whose kernel may be averaged over the channel grid."""

import keras
from keras import ops

from keras_robust.layers import averaging as kernels
from keras_robust.layers.kernel_average_pooling import KAP


@keras.saving.register_keras_serializable(package="keras_robust")
class Conv2D(keras.layers.Conv2D):
    """Convolves as Keras's layer of that name does, with an averaged kernel where `averaging` is given.

    Averaging the outputs over the channel grid is the same as averaging the kernel and the bias, so this equals
    `Conv2D` followed by `KAP`, in training too, at a cost that depends neither on the batch nor on the image. The
    weights have the shapes, the names and the place in files that those of the plain convolution have. `fold_kap`
    turns the layer into a plain one for inference.

    Args:
        filters: Kernels, before the averaging; strides of `averaging` leave fewer output channels.
        kernel_size: Side of the kernel, or both sides.
        averaging: Kernel average pooling to apply, such as `KAP(3)`; None convolves only.
        **kwargs: Options of `keras.layers.Conv2D`; an `activation` follows the averaging.

    Call arguments:
        inputs: Activations, shape `(batch, height, width, channels)`.

    Returns:
        Activations, shape `(batch, output height, output width, output channels)`.

    Raises:
        ValueError: If `averaging` is not a KAP, its grid does not hold the filters, or the convolution has groups.

    Reference:
        Bashivan et al., 2022, https://arxiv.org/abs/2210.00062 (equation 3)
    """

    def __init__(
        self, filters: int, kernel_size: int | tuple[int, int], *, averaging: KAP | None = None, **kwargs
    ):
        super().__init__(filters, kernel_size, **kwargs)
        kernels.check_averaging(averaging)
        if averaging is not None and self.groups != 1:
            raise ValueError(
                "Kernels are averaged over all filters, so the convolution must have groups=1. "
                f"Received: groups={self.groups}. Put a KAP layer after the convolution."
            )
        self.averaging = averaging

    def build(self, input_shape):
        """Creates the weights of a plain convolution, and checks that the grid holds the filters."""
        if self.averaging is not None:
            self.averaging.build((None, self.filters))
        super().build(input_shape)

    def call(self, inputs):
        """Convolves with the averaged kernel."""
        if self.averaging is None:
            return super().call(inputs)
        outputs = self.convolution_op(inputs, kernels.average(self.averaging, self.kernel))
        if self.use_bias:
            bias = kernels.average(self.averaging, self.bias)
            shape = (1, -1, 1, 1) if self.data_format == "channels_first" else (1, 1, 1, -1)
            outputs = ops.add(outputs, ops.reshape(bias, shape))
        return outputs if self.activation is None else self.activation(outputs)

    def compute_output_shape(self, input_shape):
        """Returns the shape of the convolution's output, with the channels that the averaging leaves."""
        shape = list(super().compute_output_shape(input_shape))
        channel = 1 if self.data_format == "channels_first" else -1
        shape[channel] = kernels.averaged_channels(self.averaging, self.filters)
        return tuple(shape)

    def get_config(self):
        """Returns the constructor's arguments."""
        return kernels.with_averaging(super().get_config(), self.averaging)

    @classmethod
    def from_config(cls, config):
        """Rebuilds the layer, its KAP included."""
        return super().from_config(kernels.read_averaging(config))
