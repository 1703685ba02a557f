"""Where each picture lies in the files that TensorFlow Datasets prepares, found without TensorFlow."""

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from keras_robust.files import write_atomically

Span = tuple[int, int]
"""First byte of a field in its file, and the byte after its last."""


def index_pictures(folder: Path, dataset: str, split: str) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """Returns where the pictures of a split lie, in the order of their file names.

    The first call walks through all records, past the pictures; what it finds is kept beside them.

    Args:
        folder: Folder of one version of the data set, in the format tfrecord, whose records hold `image`, `label`
            and `file_name`.
        dataset: Name of the data set.
        split: Name of the split.

    Returns:
        The files; places as `Pictures` takes them, shape `(images, 3)`; labels, int32, shape `(images,)`.

    Raises:
        ValueError: If there is no file of that split, or a record is another one.
    """
    files = sorted(folder.glob(f"{dataset}-{split}.tfrecord-*-of-*"))
    total = int(files[0].name.rsplit("-", 1)[1]) if files else 0
    if not files or len(files) != total:
        raise ValueError(
            f"{folder} must hold all files {dataset}-{split}.tfrecord-*-of-*. "
            f"Received: {len(files)} of {total or 'an unknown number'}. Prepare the data set again, as tfrecord."
        )
    sizes = np.array([file.stat().st_size for file in files])
    kept = folder / f"pictures_of_{split}.npz"
    if kept.is_file():
        with np.load(kept, allow_pickle=False) as stored:
            if np.array_equal(stored["sizes"], sizes):
                return files, stored["places"], stored["labels"]
    found = sorted(
        (name, number, *span, label)
        for number, file in enumerate(files)
        for name, span, label in _pictures_in(file)
    )
    places = np.array([(number, first, end - first) for _, number, first, end, _ in found], "int64")
    labels = np.array([label for *_, label in found], "int32")
    with contextlib.suppress(OSError):  # in a folder that is read-only the records are walked through each time
        write_atomically(kept, lambda file: np.savez(file, sizes=sizes, places=places, labels=labels))
    return files, places, labels


def _pictures_in(path: Path) -> Iterator[tuple[str, Span, int]]:
    """File name, place and label of each record."""
    with path.open("rb") as file:
        while header := file.read(12):  # eight bytes of length, four of its checksum
            (length,) = struct.unpack("<Q", header[:8])
            first = file.tell()
            try:
                features = {key: _value(file, span) for key, span in _features(file, (first, first + length))}
                name, picture, label = (features[key] for key in (b"file_name", b"image", b"label"))
            except (KeyError, ValueError) as error:
                raise ValueError(
                    f"Records of {path} must hold `image`, `label` and `file_name`. Received: a record that does "
                    f"not, at byte {first} ({error!r}). Prepare the data set again."
                ) from error
            file.seek(name[0])
            text = file.read(name[1] - name[0]).decode()
            file.seek(label[0])
            yield text, picture, _varint(file)
            file.seek(first + length + 4)  # past the checksum of the record


def _features(file: BinaryIO, record: Span) -> Iterator[tuple[bytes, Span]]:
    """Keys and values of a `tf.train.Example`: one field, a map whose entries are key and value."""
    (features,) = _fields(file, record)
    for _, entry in _fields(file, features[1]):
        parts = dict(_fields(file, entry))
        first, end = parts[1]
        file.seek(first)
        yield file.read(end - first), parts[2]


def _value(file: BinaryIO, feature: Span) -> Span:
    """The one value of a feature: a list of bytes or of packed integers."""
    ((_, values),) = _fields(file, feature)
    ((_, value),) = _fields(file, values)
    return value


def _fields(file: BinaryIO, message: Span) -> Iterator[tuple[int, Span]]:
    """Numbers and places of the fields of a protocol buffer, all of them of a length of their own."""
    place, end = message
    while place < end:
        file.seek(place)
        tag = _varint(file)
        if tag & 7 != 2:
            raise ValueError(f"wire type {tag & 7} instead of 2")
        length = _varint(file)
        first = file.tell()
        yield tag >> 3, (first, place := first + length)


def _varint(file: BinaryIO) -> int:
    value, shift = 0, 0
    while byte := file.read(1):
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
        shift += 7
    raise ValueError("the file ends inside a number")
