"""Batch normalization that PyTorch computes in one operation while training."""

import keras
from keras import ops

from keras_robust import backend


class BatchNormalization(keras.layers.BatchNormalization):
    """Normalizes as Keras's layer of that name does, faster in training on PyTorch.

    Keras composes the layer of a dozen operations on the whole batch, in float32 under mixed precision. A compiler
    can fuse them; PyTorch runs one after another. There it is one operation here, which reads bfloat16 as it is.
    The weights have the shapes, the names and the place in files that those of Keras's layer have, and inference
    is Keras's own. A saved model names Keras's layer, so that Keras reads it without this package.

    Args:
        **kwargs: Options of `keras.layers.BatchNormalization`.

    Call arguments:
        inputs: Activations, shape `(batch, ..., channels)`, or as `axis` says.
        training: Whether to normalize by the statistics of this batch and to follow them.
        mask: Which steps count; Keras's own computation is used where it is given.

    Returns:
        Activations of the same shape.

    Reference:
        Ioffe and Szegedy, 2015, https://arxiv.org/abs/1502.03167 (algorithm 1)
    """

    # What Keras writes into configurations: they are those of its own layer.
    __module__ = "keras.layers"

    def call(self, inputs, training=None, mask=None):
        """Normalizes the batch."""
        if not (training and self.trainable) or not self._fused(inputs, mask):
            return super().call(inputs, training=training, mask=mask)
        gamma, beta = (ops.convert_to_tensor(weight) for weight in (self.gamma, self.beta))
        outputs, mean, variance = backend.batch_norm(inputs, gamma, beta, self.epsilon)
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(average * self.momentum + ops.cast(value, average.dtype) * (1.0 - self.momentum))
        return ops.cast(outputs, self.compute_dtype)

    def _fused(self, inputs, mask) -> bool:
        """Whether the backend has an operation for what this layer is to do."""
        plain = self.scale and self.center and not self.renorm and not self.synchronized
        last = self.axis in (-1, len(inputs.shape) - 1)
        return backend.batch_norm is not None and mask is None and plain and last
