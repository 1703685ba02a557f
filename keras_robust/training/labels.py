"""Labels inside a compiled step, where only shapes can be checked."""

from keras import ops

from keras_robust.checks import Tensor


def integer_labels(y: Tensor) -> Tensor:
    """Returns the labels of a training batch as a vector.

    Args:
        y: Integer labels, shape `(batch,)` or `(batch, 1)`.

    Returns:
        Labels, shape `(batch,)`, int32.

    Raises:
        ValueError: If the labels are one-hot or of another shape.
    """
    if len(y.shape) == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if len(y.shape) != 1:
        raise ValueError(
            "Robust training needs integer labels of shape (batch,), one an image. "
            f"Received: shape={tuple(y.shape)}. For one-hot labels use y.argmax(-1)."
        )
    return ops.cast(y, "int32")
