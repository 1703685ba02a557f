"""What the layers share that average their kernel over the channel grid."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robust.checks import Tensor
from keras_robust.layers.kernel_average_pooling import KAP


def check_averaging(averaging: Any) -> None:
    """Raises `ValueError` unless `averaging` is None or a KAP."""
    if averaging is not None and not isinstance(averaging, KAP):
        raise ValueError(
            "`averaging` must be a KAP, whose window the kernel is averaged over, or None. "
            f"Received: averaging={averaging!r}. Did you mean averaging=KAP(3)?"
        )


def averaged_channels(averaging: KAP | None, channels: int) -> int:
    """Returns the number of output channels of a layer of `channels` filters."""
    return channels if averaging is None else averaging.compute_output_shape((None, channels))[1]


def average(averaging: KAP | None, weight: Any) -> Tensor:
    """Returns a kernel or a bias, filters last, as the layer applies it."""
    weight = ops.convert_to_tensor(weight)
    return weight if averaging is None else averaging.average(weight)


def averaged_weights(layer: Any) -> list[np.ndarray]:
    """Returns kernel and bias as a layer applies them: the weights of the plain layer that equals it.

    Args:
        layer: Built `Conv2D` or `Dense` of this package.

    Returns:
        The kernel, and the bias where there is one.
    """
    weights = [layer.kernel, *([layer.bias] if layer.use_bias else [])]
    return [np.asarray(ops.convert_to_numpy(average(layer.averaging, weight))) for weight in weights]


def with_averaging(config: dict[str, Any], averaging: KAP | None) -> dict[str, Any]:
    """Returns a layer's configuration with its KAP written out."""
    written = None if averaging is None else keras.saving.serialize_keras_object(averaging)
    return {**config, "averaging": written}


def read_averaging(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a layer's configuration with its KAP made from what was written."""
    written = config.get("averaging")
    return {**config, "averaging": keras.saving.deserialize_keras_object(written)} if written else config
