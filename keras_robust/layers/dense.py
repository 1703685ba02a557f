"""Dense layer whose kernel may be averaged over the channel grid."""

import keras
from keras import ops

from keras_robust.layers import averaging as kernels
from keras_robust.layers.kernel_average_pooling import KAP


@keras.saving.register_keras_serializable(package="keras_robust")
class Dense(keras.layers.Dense):
    """Multiplies as Keras's layer of that name does, with an averaged kernel where `averaging` is given.

    It equals `Dense` followed by `KAP`, without a pooling of the activations; see `keras_robust.layers.Conv2D`.

    Args:
        units: Units, before the averaging; strides of `averaging` leave fewer outputs.
        averaging: Kernel average pooling to apply, such as `KAP(3)`; None is the plain layer.
        **kwargs: Options of `keras.layers.Dense`; an `activation` follows the averaging.

    Call arguments:
        inputs: Activations, shape `(batch, ..., channels)`.

    Returns:
        Activations, shape `(batch, ..., output channels)`.

    Raises:
        ValueError: If `averaging` is not a KAP, or its grid does not hold the units.

    Reference:
        Bashivan et al., 2022, https://arxiv.org/abs/2210.00062 (equation 3)
    """

    def __init__(self, units: int, *, averaging: KAP | None = None, **kwargs):
        super().__init__(units, **kwargs)
        kernels.check_averaging(averaging)
        self.averaging = averaging

    def build(self, input_shape):
        """Creates the weights of a plain dense layer, and checks that the grid holds the units."""
        if self.averaging is not None:
            self.averaging.build((None, self.units))
        super().build(input_shape)

    def call(self, inputs, training=None):
        """Multiplies by the averaged kernel."""
        if self.averaging is None:
            return super().call(inputs, training=training)
        outputs = ops.matmul(inputs, kernels.average(self.averaging, self.kernel))
        if self.use_bias:
            outputs = ops.add(outputs, kernels.average(self.averaging, self.bias))
        return outputs if self.activation is None else self.activation(outputs)

    def compute_output_shape(self, input_shape):
        """Returns the shape of the input with the channels that the averaging leaves."""
        return (*input_shape[:-1], kernels.averaged_channels(self.averaging, self.units))

    def get_config(self):
        """Returns the constructor's arguments."""
        return kernels.with_averaging(super().get_config(), self.averaging)

    @classmethod
    def from_config(cls, config):
        """Rebuilds the layer, its KAP included."""
        return super().from_config(kernels.read_averaging(config))
