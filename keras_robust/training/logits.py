"""Logits, and images, in the precision that losses are computed in."""

import keras
from keras import ops

from keras_robust.checks import Tensor


def at_least_float32(logits: Tensor) -> Tensor:
    """Returns logits in float32 where they are in half precision, as they are otherwise.

    Args:
        logits: Logits of a model, shape `(batch, classes)`.

    Returns:
        Logits, float32 or float64.
    """
    half = keras.backend.standardize_dtype(logits.dtype) in ("bfloat16", "float16")
    return ops.cast(logits, "float32") if half else logits


def at_most_float32(images: Tensor) -> Tensor:
    """Returns images in float32 where they are in double precision, as they are otherwise.

    Args:
        images: Floating images, shape `(batch, height, width, channels)`.

    Returns:
        Images, float32 or in half precision.
    """
    return ops.cast(images, "float32") if keras.backend.standardize_dtype(images.dtype) == "float64" else images
