"""Pictures in class folders beside a data set, such as DeepAugment's versions of ImageNet."""

import hashlib
import os
from pathlib import Path

import numpy as np

from keras_robust.datasets.pictures import Pictures

_SUFFIXES = (".jpeg", ".jpg", ".png")


def read_class_folders(
    folder: str | Path, num_classes: int, sha256: str, *, size: int, resize: int | None = None
) -> tuple[Pictures, np.ndarray]:
    """Finds the pictures of a folder; the folder that a picture lies in names its class.

    Class folders may lie at any depth and come several times: `EDSR/<wnid>/*.JPEG` and `CAE/<wnid>/*.JPEG` are the
    two versions that DeepAugment makes.

    Args:
        folder: The folder.
        num_classes: Class names that there must be; sorted, they are the labels 0, 1, ...
        sha256: Digest of the list of files: for each picture, in the order of paths, its path below the folder, a
            tab, its size in bytes and a line feed.
        size: Side of an image in pixels.
        resize: As for `Pictures`.

    Returns:
        The pictures, in the order of their paths, and int32 labels, shape `(images,)`.

    Raises:
        ValueError: If there is no picture, the classes are others, or the list of files has another digest.

    Reference:
        Hendrycks et al., 2021, https://arxiv.org/abs/2006.16241 (section 4, DeepAugment)
    """
    root = Path(folder)
    found = []
    for path, _, names in os.walk(root):
        for name in names:
            if name.lower().endswith(_SUFFIXES):
                file = Path(path, name)
                found.append((file.relative_to(root).as_posix(), file.stat().st_size))
    found.sort()
    classes = sorted({Path(name).parent.name for name, _ in found})
    if len(classes) != num_classes:
        raise ValueError(
            f"{root} must hold pictures ({', '.join(_SUFFIXES)}) in folders of {num_classes} classes. "
            f"Received: {len(found)} pictures of {len(classes)} classes ({', '.join(classes[:3])} ...)."
        )
    digest = hashlib.sha256("".join(f"{name}\t{count}\n" for name, count in found).encode()).hexdigest()
    if digest != sha256:
        raise ValueError(
            f"{root} must hold the files that the recipe was written for: SHA-256 of their list {sha256}. "
            f"Received: {digest}."
        )
    label_of = {name: label for label, name in enumerate(classes)}
    labels = np.array([label_of[Path(name).parent.name] for name, _ in found], "int32")
    return Pictures([str(root / name) for name, _ in found], size=size, resize=resize), labels
