"""Checks of what a user hands in; every message says what, expected, received and how to fix it."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

Tensor: TypeAlias = Any
"""A tensor of the backend that Keras runs on, or a NumPy array."""


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raises `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {listed}. Received: {name}={value!r}.")


def check_positive_integer(name: str, value: Any, minimum: int = 1) -> None:
    """Raises `ValueError` unless `value` is an integer of at least `minimum`."""
    integral = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not integral or value < minimum:
        raise ValueError(f"`{name}` must be an integer of at least {minimum}. Received: {name}={value!r}.")


def check_images(x: Any, name: str = "x") -> np.ndarray:
    """Returns images as a float32 array.

    Args:
        x: Images, shape `(batch, height, width, channels)` or `(batch, features)`, pixels in [0, 1].
        name: Name of the argument, for the message.

    Returns:
        The images as a NumPy array of type float32.

    Raises:
        ValueError: If there is no batch axis, no image, a NaN, or a pixel outside [0, 1].
    """
    x = keras.ops.convert_to_numpy(x)
    if x.ndim < 2:
        raise ValueError(
            f"`{name}` must be a batch of images, shape (batch, height, width, channels). "
            f"Received: shape={x.shape}. For one image, add a batch axis: {name}[None]."
        )
    if len(x) == 0:
        raise ValueError(f"`{name}` must hold at least one image. Received: shape={x.shape}.")
    x = np.asarray(x)
    low, high = float(x.min()), float(x.max())
    if not (low >= 0.0 and high <= 1.0):
        hint = f"Did you mean {name} / 255?" if high > 2.0 and low >= 0.0 else "Scale or clip it to [0, 1]."
        raise ValueError(
            f"Pixels of `{name}` must lie in [0, 1]: models standardise inside. "
            f"Received: minimum {low:.4g}, maximum {high:.4g}. {hint}"
        )
    return x.astype("float32", copy=False)


def check_labels(y: Any, count: int, num_classes: int | None = None, name: str = "y") -> np.ndarray:
    """Returns labels as an int32 array.

    Args:
        y: Integer labels, shape `(batch,)`.
        count: Number of images that the labels belong to.
        num_classes: Number of logits of the model, or None where it is unknown.
        name: Name of the argument, for the message.

    Returns:
        The labels as a NumPy array of type int32.

    Raises:
        ValueError: If the shape, the type or the range is wrong.
    """
    y = np.asarray(keras.ops.convert_to_numpy(y))
    if y.shape != (count,):
        hint = "Give one label for each image."
        if y.shape == (count, 1):
            hint = f"Use {name}[:, 0]."
        elif y.ndim == 2 and y.shape[1] > 1:
            hint = f"For one-hot labels use {name}.argmax(-1)."
        raise ValueError(
            f"`{name}` must hold integer labels of shape ({count},), one an image. "
            f"Received: shape={y.shape}. {hint}"
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"`{name}` must hold integers. Received: dtype={y.dtype}. Use {name}.astype('int32').")
    check_classes(y, num_classes)
    return y.astype("int32", copy=False)


def check_classes(y: np.ndarray, num_classes: int | None = None) -> None:
    """Raises `ValueError` unless labels lie in `[0, num_classes)`, or from 0 where the number is not known."""
    # Without a number of classes the type of the result is the bound: a label beyond it would become another.
    if y.size and (y.min() < 0 or y.max() >= (2**31 if num_classes is None else num_classes)):
        upper = "classes - 1" if num_classes is None else num_classes - 1
        raise ValueError(
            f"Labels must lie in [0, {upper}]. Received: minimum {y.min()}, maximum {y.max()}. "
            "Check that the labels belong to this model's data set."
        )


def check_epsilon(epsilon: Any, norm: str, optional: bool = False) -> None:
    """Raises `ValueError` unless `epsilon` is a positive radius in pixel units of the norm."""
    if epsilon is None and optional:
        return
    number = isinstance(epsilon, int | float | np.number) and not isinstance(epsilon, bool)
    if not number or not np.isfinite(epsilon) or epsilon <= 0:
        raise ValueError(f"`epsilon` must be a positive number, in pixel units. Received: epsilon={epsilon!r}.")
    if norm == "Linf" and epsilon > 1:
        raise ValueError(
            "`epsilon` of an Linf ball must lie in (0, 1]: pixels are in [0, 1]. "
            f"Received: epsilon={epsilon!r}. Did you mean {epsilon:g} / 255?"
        )


def check_indices(indices: Any, count: int) -> np.ndarray:
    """Returns the index of each image in the evaluated set, on which its random numbers depend.

    Args:
        indices: Integers of at least 0, shape `(count,)`; None for `range(count)`.
        count: Number of images.

    Returns:
        The indices as a NumPy array of type int64.

    Raises:
        ValueError: If the shape, the type or the range is wrong.
    """
    if indices is None:
        return np.arange(count, dtype="int64")
    indices = np.asarray(indices)
    if indices.shape != (count,):
        raise ValueError(f"`indices` must have shape ({count},). Received: shape={indices.shape}.")
    if not np.issubdtype(indices.dtype, np.integer) or indices.min() < 0:
        raise ValueError(
            "`indices` must hold integers of at least 0, such as `np.flatnonzero(mask)`. "
            f"Received: dtype={indices.dtype}, minimum {indices.min()}."
        )
    return indices.astype("int64")


def check_logits(logits: Any, y: np.ndarray | None = None) -> np.ndarray:
    """Returns a model's outputs as an array, after making sure that they can be logits.

    Args:
        logits: Output of a model, shape `(batch, classes)`.
        y: Labels of the same rows, to check their range; None skips that.

    Returns:
        The logits as a NumPy array of type float32.

    Raises:
        ValueError: If the outputs are not finite, not a matrix, or look like the output of a softmax.
    """
    logits = np.asarray(keras.ops.convert_to_numpy(logits)).astype("float32", copy=False)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            "The model must return logits of shape (batch, classes) with at least two classes. "
            f"Received: shape={logits.shape}."
        )
    if not np.isfinite(logits).all():
        rows = int((~np.isfinite(logits)).any(axis=1).sum())
        raise ValueError(
            f"The model must return finite logits. Received: NaN or infinity in {rows} of {len(logits)} rows. "
            "Check the weights and the range of the pixels."
        )
    if looks_like_softmax(logits):
        raise ValueError(
            "The model must return logits. Received: probabilities (each row lies in [0, 1] and sums to 1), "
            "which hide gradients from attacks. Remove the softmax, for instance with "
            "model.layers[-1].activation = keras.activations.linear on a fresh copy of the model."
        )
    if y is not None and y.max() >= logits.shape[1]:
        raise ValueError(
            f"Labels must lie in [0, {logits.shape[1] - 1}]: the model returns {logits.shape[1]} logits. "
            f"Received: maximum {y.max()}."
        )
    return logits


def check_finite(logits: Any) -> None:
    """Raises `ValueError` where a logit is NaN or infinite: that is an error, not a class or a robust image."""
    if not np.isfinite(keras.ops.convert_to_numpy(logits)).all():
        raise ValueError(
            "The model must return finite logits on every image in [0, 1]. Received: NaN or infinity. "
            "Check its weights, and for overflow in mixed precision."
        )


def looks_like_softmax(logits: np.ndarray) -> bool:
    """Tells whether every row lies in [0, 1] and sums to 1, to the tolerance of the reference AutoAttack.

    Where all outputs are numbers of half precision, the tolerance of the sum is what rounding to it leaves.
    """
    inside = logits.max() < 1 + 1e-5 and logits.min() > -1e-5
    return bool(inside and np.abs(logits.sum(axis=1) - 1).max() < _rounding_of_sums(logits))


def _rounding_of_sums(probabilities: np.ndarray) -> float:
    # Three backends, up to 1,000 classes: below 0.0055 in bfloat16, below 0.002 in float16.
    values = probabilities.astype("float32")
    if not (values.view("uint32") & 0xFFFF).any():
        return 2.0**-7
    return 2.0**-8 if np.array_equal(values, values.astype("float16")) else 1e-5
