"""ImageNet and TinyImageNet, from the folders that their archives unpack to or from TensorFlow Datasets."""

import os
from pathlib import Path

import numpy as np

from keras_robust.datasets.dataset import Split
from keras_robust.datasets.pictures import Pictures
from keras_robust.datasets.tensorflow_datasets import data_folder
from keras_robust.datasets.tfrecords import index_pictures

_SUFFIXES = (".jpeg", ".jpg", ".png")
_ANNOTATIONS = "val_annotations.txt"


def read_imagenet(data_dir: str | Path | None, download: bool, num_classes: int = 1000) -> tuple[Split, Split]:
    """Reads ImageNet's training pictures and, as test set, its validation pictures, at 224 pixels.

    The folder `imagenet`, or the one given, holds `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`; else
    `imagenet2012` is looked for as TensorFlow Datasets prepares it, as tfrecord. Evaluation makes the shorter side
    256 pixels and takes the middle.

    Args:
        data_dir: The folder, or one that has it; by default as for TensorFlow Datasets.
        download: Must be False: the site asks for an account.
        num_classes: Class folders that there must be.

    Returns:
        Training and test pictures, labels in the order of the sorted wnids. Training pictures are shuffled, the
        same way each time, so that the first of them are of all classes; test pictures have the order of their
        file names, in which the official list is.

    Raises:
        ValueError: If the files are not there or the classes are others.

    Reference:
        Russakovsky et al., 2015, https://arxiv.org/abs/1409.0575
    """
    root = data_folder(data_dir)
    for folder in (root / "imagenet", root):
        if _is_layout(folder):
            return _from_folders(folder, num_classes, size=224, resize=256)
    versions = sorted((root / "imagenet2012").glob("*/imagenet2012-train.tfrecord-*"))
    if versions:
        return _from_tensorflow_datasets(versions[-1].parent)
    asked = "download=True, which this data set does not offer, and " if download else ""
    raise ValueError(
        "ImageNet must be downloaded by hand: ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar of "
        "https://image-net.org/download-images, unpacked to imagenet/train/<wnid>/*.JPEG and "
        "imagenet/val/<wnid>/*.JPEG, or prepared by TensorFlow Datasets as imagenet2012 (tfrecord). "
        f"Received: {asked}{root}, which holds neither. Pass --data-dir (data_dir=...) or set TFDS_DATA_DIR."
    )


def read_tiny_imagenet(data_dir: str | Path | None, download: bool, num_classes: int = 200) -> tuple[Split, Split]:
    """Reads TinyImageNet's training pictures and, as test set, its validation pictures, at 128 pixels.

    The folder `tiny-imagenet-200`, or the one given, is the unpacked archive: `train/<wnid>/images/*.JPEG`,
    `val/images/*.JPEG` and `val/val_annotations.txt`; one folder a class does for both parts too. The pictures
    have 64 pixels; the KAP paper trains and tests on 128.

    Args:
        data_dir: The folder, or one that has it; by default as for TensorFlow Datasets, which does not offer it.
        download: Must be False.
        num_classes: Class folders that there must be.

    Returns:
        Training and test pictures, as `read_imagenet`.

    Raises:
        ValueError: If the files are not there or the classes are others.

    Reference:
        Le and Yang, 2015, http://cs231n.stanford.edu/reports/2015/pdfs/yle_project.pdf; Bashivan et al., 2022,
        https://arxiv.org/abs/2210.00062 (section 4.1)
    """
    root = data_folder(data_dir)
    for folder in (root / "tiny-imagenet-200", root / "tiny_imagenet", root):
        if _is_layout(folder):
            return _from_folders(folder, num_classes, size=128, resize=None)
    asked = "download=True, which this data set does not offer, and " if download else ""
    raise ValueError(
        "TinyImageNet must be downloaded by hand: http://cs231n.stanford.edu/tiny-imagenet-200.zip, unpacked to "
        "tiny-imagenet-200/train/<wnid>/images/*.JPEG, tiny-imagenet-200/val/images/*.JPEG and "
        f"tiny-imagenet-200/val/{_ANNOTATIONS}, or with tiny-imagenet-200/val/<wnid>/*.JPEG. "
        f"Received: {asked}{root}, which does not hold it. Pass --data-dir (data_dir=...) or set TFDS_DATA_DIR."
    )


def _is_layout(folder: Path) -> bool:
    return (folder / "train").is_dir() and (folder / "val").is_dir()


def _from_folders(folder: Path, num_classes: int, *, size: int, resize: int | None) -> tuple[Split, Split]:
    classes = _folders_in(folder / "train")
    if len(classes) != num_classes:
        raise ValueError(
            f"{folder / 'train'} must hold {num_classes} class folders. Received: {len(classes)} "
            f"({', '.join(classes[:3])} ...). Unpack the whole archive, and nothing beside it."
        )
    train = [(path, label) for label, name in enumerate(classes) for path in _pictures_in(folder / "train" / name)]
    order = _shuffled(len(train))
    train = [train[row] for row in order]
    # Sorted so that val_2 comes before val_10, as the official lists count.
    test = sorted(_validation(folder / "val", classes), key=lambda item: _by_number(item[0]))
    return (
        _split(train, "shuffled_file_name", folder / "train", size=size, resize=resize),
        _split(test, "file_name", folder / "val", size=size, resize=resize),
    )


def _from_tensorflow_datasets(folder: Path) -> tuple[Split, Split]:
    splits = []
    for name, order in (("train", "shuffled_file_name"), ("validation", "file_name")):
        files, places, labels = index_pictures(folder, "imagenet2012", name)
        rows = _shuffled(len(labels)) if name == "train" else np.arange(len(labels))
        pictures = Pictures(files, places[rows], size=224, resize=256)
        splits.append(Split(pictures, labels[rows], maximum=255, order=order))
    return splits[0], splits[1]


def _shuffled(count: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(count)


def _validation(folder: Path, classes: list[str]) -> list[tuple[str, int]]:
    label_of = {name: label for label, name in enumerate(classes)}
    if (folder / _ANNOTATIONS).is_file():
        lines = (folder / _ANNOTATIONS).read_text(encoding="utf-8").splitlines()
        named = [line.split("\t")[:2] for line in lines if line.strip()]
        found = [(os.path.join(folder, "images", name), wnid) for name, wnid in named]
    else:
        found = [(path, wnid) for wnid in _folders_in(folder) for path in _pictures_in(folder / wnid)]
    unknown = sorted({wnid for _, wnid in found} - set(label_of))
    if unknown:
        raise ValueError(
            f"Classes of {folder} must be those of the training pictures. Received: unknown "
            f"{', '.join(unknown[:3])}. Put each picture into the folder of its wnid, or add {_ANNOTATIONS}."
        )
    return [(path, label_of[wnid]) for path, wnid in found]


def _split(found: list[tuple[str, int]], order: str, folder: Path, *, size: int, resize: int | None) -> Split:
    if not found:
        raise ValueError(f"{folder} must hold pictures ({', '.join(_SUFFIXES)}). Received: none in its folders.")
    labels = np.array([label for _, label in found], "int32")
    return Split(Pictures([path for path, _ in found], size=size, resize=resize), labels, maximum=255, order=order)


def _folders_in(folder: Path) -> list[str]:
    with os.scandir(folder) as found:
        return sorted(each.name for each in found if each.is_dir())


def _pictures_in(folder: Path) -> list[str]:
    """Paths of the pictures of a class, sorted; TinyImageNet has them one folder deeper."""
    deeper = os.path.join(folder, "images")
    with os.scandir(deeper if os.path.isdir(deeper) else folder) as found:
        return sorted(each.path for each in found if each.name.lower().endswith(_SUFFIXES))


def _by_number(path: str) -> tuple[int, str]:
    name = os.path.basename(path)
    return len(name), name
