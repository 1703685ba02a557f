"""Weights files of less size: compressed without loss, and with kernels in half precision where that is asked."""

from pathlib import Path

import h5py
import ml_dtypes
import numpy as np

from keras_robust.training.tables import KernelType

# Smaller tensors cost more in the table of contents than compression saves.
_LEAST_SIZE = 512
# The form of HDF5 1.10. The default, the oldest one, spends 3 to 4 kB on each compressed tensor, for a B-tree of
# its one chunk, and 0.8 on each group; this one spends 0.3 and 0.2.
_FORM = ("v110", "v110")


def store_weights(source: str | Path, target: str | Path, *, kernels: KernelType | None = None) -> Path:
    """Copies a weights file, compressed, with its kernels in another floating point type if asked.

    Compression (HDF5's own, bytes shuffled) loses nothing. Tensors of one axis or none (biases, and scales and
    averages of batch normalisation) keep their type: they are small, and a variance may be below what half
    precision resolves. HDF5 has no bfloat16: kernels rounded to it are float32 whose lower half is zero, which
    takes no room. Keras reads the file like any other; HDF5 must be 1.10 (2016) or later.

    Args:
        source: File that `keras.Model.save_weights` wrote, `*.weights.h5`.
        target: File to write, another one.
        kernels: Type to which tensors of two axes or more are rounded; None leaves all values as they are.

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
            if kernels is not None and np.ndim(values) > 1 and np.issubdtype(item.dtype, np.floating):
                values = _rounded(values, kernels, f"{name} of {source}")
            packed = np.size(values) >= _LEAST_SIZE
            options = {"chunks": values.shape, "shuffle": True, "compression": "gzip", "compression_opts": 9}
            made = written.create_dataset(name, data=values, **(options if packed else {}))
        made.attrs.update(item.attrs)

    with h5py.File(source) as read, h5py.File(target, "w", libver=_FORM) as written:
        written.attrs.update(read.attrs)
        read.visititems(copy)
    return Path(target)


def _rounded(values: np.ndarray, dtype: KernelType, where: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        smaller = values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    if not np.isfinite(smaller[np.isfinite(values)]).all():
        raise ValueError(
            f"Weights stored as {dtype} must lie in its range. Received: {where} with values up to "
            f"{np.abs(values).max():.3g}. Store them as float32."
        )
    return smaller.astype("float32") if dtype == "bfloat16" else smaller
