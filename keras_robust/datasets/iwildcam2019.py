"""Camera-trap animals as the weight map paper cuts them: ten classes, small and grey."""

import contextlib
import csv
import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_robust.datasets.dataset import Split
from keras_robust.files import write_atomically

CLASSES = ("deer", "squirrel", "rodent", "fox", "coyote", "raccoon", "skunk", "cat", "dog", "opossum")
_CATEGORY = {1: 0, 3: 1, 4: 2, 10: 3, 11: 4, 13: 5, 14: 6, 17: 7, 18: 8, 19: 9}  # `category_id` to our label
_HEIGHT, _WIDTH = 23, 32
_TEST_SHARE = 0.1


def read(data_dir: str | Path | None, download: bool, images_per_class: int = 1000) -> tuple[Split, Split]:
    """Reads the training set of iWildCam 2019 from a user's download, and divides it class by class.

    The folder holds `train.csv`, with the columns `category_id` and `file_name`, and the folder `train_images`.
    Each class gives `images_per_class` images, drawn with a fixed seed from those sorted by name: the paper does
    not say which it took. A tenth of each class is the test set. Both parts are shuffled, the same way each time.
    The small images are kept beside `train.csv`.

    Args:
        data_dir: The folder, or one that has it as `iwildcam2019`; by default as for TensorFlow Datasets.
        download: Must be False: the site asks for an account.
        images_per_class: Images drawn from each class.

    Returns:
        Training and test images, grey, 23 x 32, labels in the order of `CLASSES`.

    Raises:
        ValueError: If the files are not there or a class has too few images.
        ImportError: If Pillow is not installed.

    Reference:
        Amer and Maul, 2019, https://arxiv.org/abs/1905.00568 (section 4.1); Beery et al., 2019,
        https://arxiv.org/abs/1907.07617
    """
    folder = _folder(data_dir, download)
    stored = folder / f"grey_{_HEIGHT}x{_WIDTH}_{images_per_class}.npz"
    if stored.is_file():
        with np.load(stored, allow_pickle=False) as archive:
            pixels, labels = archive["pixels"], archive["labels"]
    else:
        names, labels = _draw(folder / "train.csv", images_per_class)
        pixels = np.stack([_small(folder / "train_images" / name) for name in names])[..., None]
        with contextlib.suppress(OSError):  # in a folder that is read-only the pictures are made small each time
            write_atomically(stored, lambda file: np.savez_compressed(file, pixels=pixels, labels=labels))
    whole = Split(pixels, labels, maximum=255, order="shuffled_file_name")
    # Rows of a class lie together, in the order of the draw; shuffled, so that the first ones are of all classes.
    test = np.arange(len(labels)) % images_per_class >= images_per_class - round(_TEST_SHARE * images_per_class)
    shuffle = np.random.default_rng(0)
    train, tested = (whole.subset(shuffle.permutation(np.flatnonzero(part))) for part in (~test, test))
    return train, tested


def _folder(data_dir: str | Path | None, download: bool) -> Path:
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    for folder in (root / "iwildcam2019", root):
        if (folder / "train.csv").is_file() and (folder / "train_images").is_dir():
            return folder
    asked = "download=True, which this data set does not offer, and " if download else ""
    raise ValueError(
        "iWildCam 2019 must be downloaded by hand: train.csv and train_images of "
        "https://www.kaggle.com/c/iwildcam-2019-fgvc6/data, unpacked into a folder 'iwildcam2019'. "
        f"Received: {asked}{root}, which does not hold them. Pass --data-dir (data_dir=...) or set TFDS_DATA_DIR."
    )


def _draw(table: Path, images_per_class: int) -> tuple[list[str], np.ndarray]:
    """Names of the files and their labels, class by class."""
    found: dict[int, list[str]] = {label: [] for label in range(len(CLASSES))}
    with open(table, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            label = _CATEGORY.get(int(row["category_id"]))
            if label is not None:
                found[label].append(row["file_name"])
    draw = np.random.default_rng(0)
    names: list[str] = []
    for label, of_class in found.items():
        if len(of_class) < images_per_class:
            raise ValueError(
                f"Each class must have {images_per_class} images. Received: {len(of_class)} of '{CLASSES[label]}' "
                f"in {table}. Download the whole training table."
            )
        names += draw.permutation(sorted(of_class))[:images_per_class].tolist()
    return names, np.repeat(np.arange(len(CLASSES), dtype="int32"), images_per_class)


def _small(path: Path) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Reading iWildCam needs Pillow. Install it with: pip install pillow") from error
    try:
        image: Any = Image.open(path)
    except FileNotFoundError as error:
        raise ValueError(
            f"Every image that train.csv names must be in train_images. Received: {path}, which is absent. "
            "Unpack the whole archive."
        ) from error
    with image:
        image.draft("L", (4 * _WIDTH, 4 * _HEIGHT))  # a JPEG is decoded at a fraction of its size
        return np.asarray(image.convert("L").resize((_WIDTH, _HEIGHT), Image.Resampling.BILINEAR))
