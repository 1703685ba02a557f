"""The data sets by name."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from keras_robust.checks import check_choice, check_positive_integer
from keras_robust.datasets import imagenet, iwildcam2019, tensorflow_datasets
from keras_robust.datasets.dataset import Dataset, Split, hold_out


@dataclasses.dataclass(frozen=True)
class Info:
    """What is known of a data set before it is read.

    Args:
        num_classes: Number of classes.
        input_shape: Shape of one image: height, width, channels.
        read: Reads the splits, `(data_dir, download) -> (train, test)`.
        needs_files: Whether it must be downloaded before its first use.
        by_class: Whether images are held out class by class, the same share of each.
    """

    num_classes: int
    input_shape: tuple[int, int, int]
    read: Callable[[str | Path | None, bool], tuple[Split, Split]] = dataclasses.field(repr=False)
    needs_files: bool = True
    by_class: bool = False


def _read_digits(data_dir: str | Path | None, download: bool) -> tuple[Split, Split]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = bunch.images.astype("uint8")[..., None]
    whole = Split(pixels, bunch.target.astype("int32"), maximum=16, order="scikit-learn")
    # Ordered by writer: the last fifth was written by others than the first four.
    return whole.subset(np.arange(1437)), whole.subset(np.arange(1437, 1797))


def _from_tfds(name: str) -> Callable[[str | Path | None, bool], tuple[Split, Split]]:
    return lambda data_dir, download: tensorflow_datasets.read(name, data_dir, download)


_DATASETS = {
    "digits": Info(10, (8, 8, 1), _read_digits, needs_files=False),
    "mnist": Info(10, (28, 28, 1), _from_tfds("mnist")),
    "cifar10": Info(10, (32, 32, 3), _from_tfds("cifar10")),
    "cifar100": Info(100, (32, 32, 3), _from_tfds("cifar100")),
    "iwildcam2019": Info(10, (23, 32, 1), iwildcam2019.read, by_class=True),
    "tiny_imagenet": Info(200, (128, 128, 3), imagenet.read_tiny_imagenet),
    "imagenet": Info(1000, (224, 224, 3), imagenet.read_imagenet),
}


def list_datasets() -> list[str]:
    """Returns the names that `load` takes."""
    return list(_DATASETS)


def info(name: str) -> Info:
    """Returns the number of classes and the image shape of a data set, without reading it.

    Args:
        name: One of `list_datasets()`.

    Returns:
        The facts.

    Raises:
        ValueError: If there is no data set of that name.
    """
    check_choice("dataset", name, tuple(_DATASETS))
    return _DATASETS[name]


def load(
    name: str,
    *,
    data_dir: str | Path | None = None,
    download: bool = False,
    validation_fraction: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Reads a data set and holds out a part of its training images.

    `digits` ships with scikit-learn (8x8 images; the last 360 are the test set). The others are read with
    TensorFlow Datasets. CIFAR comes in its official order, which RobustBench counts in; MNIST in that library's.
    `iwildcam2019` is read from a download by hand; the paper holds out 2 / 9 of its training images.
    `tiny_imagenet` and `imagenet` are read from their unpacked archives, or `imagenet2012` of TensorFlow Datasets;
    they stay on disk, and pictures are decoded when they are asked for (see `Pictures`).

    Args:
        name: One of `list_datasets()`.
        data_dir: Folder of TensorFlow Datasets; by default the environment variable TFDS_DATA_DIR, then
            ~/tensorflow_datasets.
        download: Whether to fetch the data set where the folder does not hold it.
        validation_fraction: Share of the training images that is held out; 0.1 in the WM paper.
        seed: Seed of the draw of the held-out images.

    Returns:
        The data set, with its images as stored.

    Raises:
        ValueError: If the name is unknown, the data set is absent, or a fraction is out of range.
        ImportError: If TensorFlow Datasets is needed and not installed.
    """
    facts = info(name)
    check_positive_integer("seed", seed, minimum=0)
    train, test = facts.read(data_dir, download)
    train, validation = hold_out(train, validation_fraction, seed, by_class=facts.by_class)
    return Dataset(name, train, validation, test, facts.num_classes)
