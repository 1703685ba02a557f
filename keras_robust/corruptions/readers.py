"""Readers of the official corruption and perturbation benchmarks, from folders as they were published."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from keras_robust.checks import check_choice, check_positive_integer
from keras_robust.corruptions.constants import SEVERITIES
from keras_robust.corruptions.libraries import opencv, pillow

_PICTURES = (".jpeg", ".jpg", ".png")


def read_cifar_c(folder: str | Path, name: str, severity: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads one corruption at one severity of CIFAR-10-C or CIFAR-100-C.

    Args:
        folder: Folder that holds `labels.npy` and one file a corruption, such as `fog.npy`, whose images are
            sorted by severity.
        name: Name of the corruption's file.
        severity: 1 to 5.

    Returns:
        Images, shape `(images, 32, 32, 3)`, float32 in [0, 1], and labels, shape `(images,)`, int32.

    Raises:
        ValueError: If a file is absent or has another layout.
    """
    check_choice("severity", severity, SEVERITIES)
    images, labels = (_load(Path(folder) / f"{stem}.npy") for stem in (name, "labels"))
    count, rest = divmod(len(images), len(SEVERITIES))
    if images.ndim != 4 or images.dtype != np.uint8 or rest or labels.shape != (len(images),):
        raise ValueError(
            f"`{name}.npy` must hold uint8 images of five severities, one label each. "
            f"Received: images {images.shape} {images.dtype}, labels {labels.shape} in {folder}."
        )
    part = slice((severity - 1) * count, severity * count)
    return images[part].astype("float32") / np.float32(255), labels[part].astype("int32")


def _load(path: Path) -> np.ndarray:
    if not path.is_file():
        raise ValueError(
            f"`folder` must hold the unpacked archive, CIFAR-10-C or CIFAR-100-C. Received: no file {path}."
        )
    return np.load(path, mmap_mode="r", allow_pickle=False)


def read_imagenet_c(
    folder: str | Path,
    name: str,
    severity: int,
    *,
    batch_size: int = 250,
    size: int = 224,
    classes: Sequence[str] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Reads one corruption at one severity of ImageNet-C, batch by batch.

    Args:
        folder: Folder with `<corruption>/<severity>/<class>/<image>.JPEG`.
        name: Name of the corruption's folder.
        severity: 1 to 5.
        batch_size: Images a batch; the last may be smaller.
        size: Side in pixels of the middle of the image that is kept.
        classes: Names of the class folders in the order of the model's logits; sorted by default.

    Yields:
        Images, shape `(batch, size, size, 3)`, float32 in [0, 1], and labels, shape `(batch,)`, int32.

    Raises:
        ValueError: If the folder is absent or has another layout, or an image is smaller than `size`.
    """
    check_choice("severity", severity, SEVERITIES)
    check_positive_integer("batch_size", batch_size)
    check_positive_integer("size", size)
    files = _labelled_files(Path(folder) / name / str(severity), _PICTURES, classes)
    for start in range(0, len(files), batch_size):
        part = files[start : start + batch_size]
        images = np.stack([_read_picture(path, size) for path, _ in part])
        yield images, np.array([label for _, label in part], "int32")


def read_imagenet_p(
    folder: str | Path, name: str, *, classes: Sequence[str] | None = None
) -> Iterator[tuple[np.ndarray, int]]:
    """Reads the sequences of one perturbation of ImageNet-P.

    Args:
        folder: Folder with `<perturbation>/<class>/<video>.mp4`.
        name: Name of the perturbation's folder.
        classes: Names of the class folders in the order of the model's logits; sorted by default.

    Yields:
        Frames of a sequence, shape `(frames, height, width, 3)`, float32 in [0, 1], and its label.

    Raises:
        ValueError: If the folder is absent or has another layout, or a video cannot be read.
    """
    cv2 = opencv()
    for path, label in _labelled_files(Path(folder) / name, (".mp4",), classes):
        video = cv2.VideoCapture(str(path))
        frames = []
        while True:
            more, frame = video.read()
            if not more:
                break
            frames.append(frame[..., ::-1])  # OpenCV's channels are blue, green, red
        video.release()
        if not frames:
            raise ValueError(f"Video must have frames that OpenCV can read. Received: {path}. Download it again.")
        yield np.stack(frames).astype("float32") / np.float32(255), label


def _labelled_files(
    folder: Path, suffixes: tuple[str, ...], classes: Sequence[str] | None
) -> list[tuple[Path, int]]:
    found = sorted(each.name for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
    classes = found if classes is None else list(classes)
    unknown = sorted(set(found) - set(classes))
    if not found or unknown:
        raise ValueError(
            f"`folder` must hold {folder.name}/<class>/<file>, with the classes of the model. "
            f"Received: {folder} with {len(found)} class folders, unknown {unknown[:3]}."
        )
    files = [
        (path, label)
        for label, each in enumerate(classes)
        for path in sorted((folder / each).glob("*"))
        if path.suffix.lower() in suffixes
    ]
    if not files:
        raise ValueError(f"Class folders must hold files ending in {', '.join(suffixes)}. Received: {folder}.")
    return files


def _read_picture(path: Path, size: int) -> np.ndarray:
    with pillow().open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    height, width = pixels.shape[:2]
    if min(height, width) < size:
        raise ValueError(
            f"Images must be at least {size} pixels wide and high. Received: {path}, {height}x{width}."
        )
    # torchvision's CenterCrop rounds half to even.
    top, left = round((height - size) / 2), round((width - size) / 2)
    return pixels[top : top + size, left : left + size].astype("float32") / np.float32(255)
