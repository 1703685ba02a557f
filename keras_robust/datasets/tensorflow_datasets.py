"""Reads data sets that TensorFlow Datasets has prepared, whichever backend Keras runs on."""

import contextlib
import functools
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_robust.datasets.dataset import Split

_ROWS = 2048


def read(name: str, data_dir: str | Path | None, download: bool) -> tuple[Split, Split]:
    """Reads the train and test splits of an image classification data set.

    Args:
        name: Name in TensorFlow Datasets.
        data_dir: Its folder; by default the environment variable TFDS_DATA_DIR, then ~/tensorflow_datasets.
        download: Whether to fetch and prepare what the folder does not hold.

    Returns:
        Training and test images; sorted by `id` where the records carry one.

    Raises:
        ValueError: If the folder does not hold the data set and `download` is False.
        ImportError: If TensorFlow Datasets or TensorFlow, its reader, is not installed.
    """
    tfds = _library(name)
    folder = data_folder(data_dir)
    try:
        builder = tfds.builder(name, data_dir=str(folder))
        present = bool(builder.info.splits)
    except tfds.core.registered.DatasetNotFoundError:
        present = False
    if not present:
        if not download:
            raise ValueError(
                f"The data set '{name}' must be in the folder of TensorFlow Datasets. "
                f"Received: {folder}, which does not hold it. "
                f"Pass --data-dir (data_dir=...) or set TFDS_DATA_DIR to the folder that does. "
                f"To download it: datasets.load('{name}', download=True), or from a shell: python -c "
                f"\"import tensorflow_datasets as tfds; tfds.load('{name}', data_dir='{folder}')\""
            )
        builder.download_and_prepare()
    return _read_splits(name, folder)


def data_folder(data_dir: str | Path | None = None) -> Path:
    """Returns the folder of the data sets: the given one, else TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _library(name: str) -> Any:
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"Reading '{name}' needs TensorFlow Datasets and TensorFlow (as a reader only; Keras may run on any "
            f"backend): pip install 'keras-robust[datasets,tensorflow]'. The data set 'digits' needs neither. "
            f"Received: {error}."
        ) from error
    if keras.backend.backend() != "tensorflow":
        # As a mere reader TensorFlow must not take the accelerator's memory from the backend that trains.
        with contextlib.suppress(RuntimeError):  # it is too late once TensorFlow has started its devices
            tf.config.set_visible_devices([], "GPU")
    return tfds


@functools.lru_cache(maxsize=1)  # decoding takes seconds, and a study reads its images for every row
def _read_splits(name: str, folder: Path) -> tuple[Split, Split]:
    tfds = _library(name)
    builder = tfds.builder(name, data_dir=str(folder))
    return _read_split(tfds, builder, "train"), _read_split(tfds, builder, "test")


def _read_split(tfds: Any, builder: Any, split: str) -> Split:
    count = builder.info.splits[split].num_examples
    shape = builder.info.features["image"].shape
    has_id = "id" in builder.info.features
    pixels = np.empty((count, *shape), "uint8")
    labels = np.empty(count, "int32")
    ids = np.empty(count, "S32")
    stream = builder.as_dataset(split=split, shuffle_files=False).batch(_ROWS).prefetch(2)
    for start, batch in zip(range(0, count, _ROWS), tfds.as_numpy(stream), strict=True):
        rows = slice(start, start + len(batch["label"]))
        pixels[rows], labels[rows] = batch["image"], batch["label"]
        if has_id:
            ids[rows] = batch["id"]
    order = "tensorflow_datasets"
    if has_id:
        by_id = np.argsort(ids, kind="stable")
        pixels, labels, order = pixels[by_id], labels[by_id], "official"
    pixels.setflags(write=False)  # whoever loads the data set again has these very arrays
    labels.setflags(write=False)
    return Split(pixels, labels, maximum=255, order=order)
