"""A data set as it was stored: bytes and labels, scaled to [0, 1] only where images are handed out."""

import dataclasses
import hashlib

import numpy as np

from keras_robust.datasets.pictures import Pictures


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and labels in a fixed order.

    Args:
        pixels: Stored images, shape `(images, height, width, channels)`, uint8, or `Pictures`, which are decoded
            when they are asked for.
        labels: Integer labels, shape `(images,)`, int32.
        maximum: Stored value that stands for 1.0: 255, or 16 for digits.
        order: What fixes the order: 'official', 'tensorflow_datasets', 'scikit-learn', 'file_name', or
            'shuffled_file_name', the same shuffling each time.
    """

    pixels: np.ndarray | Pictures
    labels: np.ndarray
    maximum: int
    order: str

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Returns images in [0, 1], float32, shape `(rows, height, width, channels)`."""
        return self.pixels[rows].astype("float32") / np.float32(self.maximum)

    def take(self, count: int | None = None, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Returns consecutive images and labels.

        Args:
            count: Number of images; None for all that follow `first`.
            first: Index of the first one.

        Returns:
            Images in [0, 1], float32, shape `(count, height, width, channels)`, and int32 labels, shape
            `(count,)`.

        Raises:
            ValueError: If the split does not hold so many images.
        """
        rows = self._rows(count, first)
        return self.images(rows), self.labels[rows].copy()  # the split may be shared by the whole process

    def subset(self, rows: np.ndarray) -> "Split":
        """Returns the split of those rows, in the order given."""
        pixels = self.pixels.select(rows) if isinstance(self.pixels, Pictures) else self.pixels[rows]
        return dataclasses.replace(self, pixels=pixels, labels=self.labels[rows])

    def fingerprint(self, count: int | None = None, first: int = 0) -> dict[str, str | int]:
        """Returns what two runs must share to have seen the same images: order, first, count and SHA-256.

        Args:
            count: Number of images; None for all that follow `first`.
            first: Index of the first one.

        Returns:
            Dictionary of 'order', 'first', 'count' and 'sha256'; the hash is over the stored pixels as bytes (of
            `Pictures`: over the encoded pictures), then the labels as little-endian 32-bit integers.

        Raises:
            ValueError: If the split does not hold so many images.
        """
        rows = self._rows(count, first)
        digest = hashlib.sha256()
        if isinstance(self.pixels, Pictures):
            for stored in self.pixels.select(rows).stored():
                digest.update(stored)
        else:
            digest.update(np.ascontiguousarray(self.pixels[rows]).tobytes())
        digest.update(self.labels[rows].astype("<i4").tobytes())
        return {
            "order": self.order,
            "first": first,
            "count": len(self.labels[rows]),
            "sha256": digest.hexdigest(),
        }

    def _rows(self, count: int | None, first: int) -> slice:
        count = len(self) - first if count is None else count
        if first < 0 or count < 1 or first + count > len(self):
            raise ValueError(
                f"`first` and `count` must name images 0 to {len(self) - 1} of the split. "
                f"Received: first={first}, count={count}. Ask for at most {len(self)} images."
            )
        return slice(first, first + count)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Training, validation and test images of one data set.

    Args:
        name: Name that `load` knows it by.
        train: Images to train on.
        validation: Images held out of the training set, or None.
        test: Images to evaluate on; never trained on, never used to choose.
        num_classes: Number of classes.
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    num_classes: int

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image: height, width, channels."""
        return self.train.pixels.shape[1:]


def hold_out(split: Split, fraction: float, seed: int, *, by_class: bool = False) -> tuple[Split, Split | None]:
    """Draws a part of a split at random; both parts keep the order of the whole.

    Args:
        split: What to divide.
        fraction: Share of the images that is held out, in [0, 1).
        seed: Seed of the draw.
        by_class: Whether each class gives the same share.

    Returns:
        What remains, and what is held out (None where the share is 0).

    Raises:
        ValueError: If the fraction is out of range.
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(
            f"`validation_fraction` must lie in [0, 1). Received: validation_fraction={fraction!r}. "
            "The WM paper holds out 0.1."
        )
    draw = np.random.default_rng(seed)
    parts = [np.arange(len(split))]
    if by_class:
        parts = [np.flatnonzero(split.labels == label) for label in np.unique(split.labels)]
    held = np.concatenate([draw.permutation(part)[: round(len(part) * fraction)] for part in parts])
    if len(held) == 0:
        return split, None
    return split.subset(np.setdiff1d(np.arange(len(split)), held)), split.subset(np.sort(held))
