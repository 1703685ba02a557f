"""Weights files of half the size: kernels in half precision, everything else as it was."""

from pathlib import Path

import h5py
import numpy as np


def store_kernels_as(dtype: str, source: str | Path, target: str | Path) -> Path:
    """Copies a weights file, with its kernels in another floating point type.

    Tensors of one axis or none (biases, and scales and averages of batch normalisation) keep theirs: they are
    small, and a variance may be below what half precision resolves. Keras reads the file like any other.

    Args:
        dtype: Type of the copies of tensors of two axes or more, such as `"float16"`.
        source: File that `keras.Model.save_weights` wrote, `*.weights.h5`.
        target: File to write.

    Returns:
        `target`.

    Raises:
        ValueError: If a value is out of the range of the type.
    """

    def copy(name, item):
        if isinstance(item, h5py.Group):
            made = written.require_group(name)
        else:
            values = item[()]
            if np.ndim(values) > 1 and np.issubdtype(item.dtype, np.floating):
                with np.errstate(over="ignore"):
                    smaller = values.astype(dtype)
                if not np.isfinite(smaller[np.isfinite(values)]).all():
                    raise ValueError(
                        f"Weights stored as {dtype} must lie in its range. Received: {name} of {source} with "
                        f"values up to {np.abs(values).max():.3g}. Store them as float32."
                    )
                values = smaller
            made = written.create_dataset(name, data=values)
        made.attrs.update(item.attrs)

    with h5py.File(source) as read, h5py.File(target, "w") as written:
        written.attrs.update(read.attrs)
        read.visititems(copy)
    return Path(target)
