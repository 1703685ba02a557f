"""The first images of what `fit` is given, for checks that a compiled step cannot make."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robust.checks import Tensor


def is_array(data: Any) -> bool:
    """Tells whether data are an array or a tensor of the backend."""
    return isinstance(data, np.ndarray) or ops.is_tensor(data)


def first_images(data: Any, count: int) -> Tensor | None:
    """Returns the first images that `fit` would train on.

    Args:
        data: The `x` of `fit`: an array, a tensor, a `PyDataset`, a `tf.data.Dataset` or a PyTorch `DataLoader`.
        count: Images wanted from an array; of others the first batch is taken, of a `DataLoader` one image.

    Returns:
        Images, shape `(images, height, width, channels)`; None where they are not arrays, cannot be read without
        being used up, as from a generator, or have been checked already, as in `Batches`.
    """
    if is_array(data):
        return data[:count]
    batch = None
    if isinstance(data, keras.utils.PyDataset) and not hasattr(data, "follow_epochs"):
        batch = data[0]
    elif hasattr(data, "element_spec"):  # tf.data
        batch = next(iter(data.take(1)), None)
    elif hasattr(data, "collate_fn") and hasattr(data.dataset, "__getitem__"):
        batch = data.collate_fn([data.dataset[0]])  # its iterator would draw a seed
    images = batch[0] if isinstance(batch, tuple | list) and batch else None
    return images if hasattr(images, "shape") and hasattr(images, "dtype") else None
