"""Pictures too many for memory: kept encoded on disk, decoded when they are asked for."""

import concurrent.futures
import functools
import io
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np


class Pictures:
    """Encoded pictures that read like an array of pixels, shape `(images, size, size, 3)`, uint8.

    `pictures[rows]` decodes those rows, several at a time in threads, and gives them their evaluation size; grey
    and CMYK pictures become RGB. What is decoded is forgotten at once.

    Args:
        files: Names of files.
        places: Where each picture lies, shape `(images, 3)`, int64: index of the file, first byte, and number of
            bytes (-1 for the whole file). None where each file is one picture.
        size: Side of an image in pixels.
        resize: Length in pixels that the shorter side gets before the middle is cut out; None stretches the whole
            picture to `size` by `size`.

    Reference:
        The usual evaluation on ImageNet: He et al., 2016, https://arxiv.org/abs/1512.03385 (section 3.4);
        256 and 224 pixels in the code of Bashivan et al., 2022, https://arxiv.org/abs/2210.00062
    """

    def __init__(
        self,
        files: Sequence[str | os.PathLike],
        places: np.ndarray | None = None,
        *,
        size: int,
        resize: int | None = None,
    ):
        self.files = files
        if places is None:
            count = len(files)
            places = np.stack([np.arange(count), np.zeros(count, "int64"), np.full(count, -1)], axis=1)
        self.places = places
        self.size = size
        self.resize = resize

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the array that these pictures stand for."""
        return len(self), self.size, self.size, 3

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self._decoded(self.places[rows], itertools.repeat(None), self._evaluated)

    def cropped(
        self, rows: np.ndarray, crop: Callable[[Any, np.random.Generator], np.ndarray], rng: np.random.Generator
    ) -> np.ndarray:
        """Decodes rows and hands each picture to a random crop.

        Args:
            rows: Indices of the pictures.
            crop: `(picture, rng) -> pixels`, such as `RandomResizedCrop`; the picture is one of Pillow's, RGB.
            rng: Generator to draw from.

        Returns:
            Pixels, shape `(rows, height, width, 3)`, uint8.
        """
        # One generator a picture: its crop does not depend on which thread comes first.
        seeds = rng.integers(2**63, size=len(rows))
        return self._decoded(self.places[rows], map(np.random.default_rng, seeds), crop)

    def select(self, rows: slice | np.ndarray) -> "Pictures":
        """Returns the pictures of those rows, not decoded."""
        return Pictures(self.files, self.places[rows], size=self.size, resize=self.resize)

    def stored(self) -> Iterator[bytes]:
        """Yields each picture as it is stored."""
        return map(self._read, self.places)

    def _decoded(self, places, generators, make) -> np.ndarray:
        def one(place, rng):
            return make(self._open(place), rng)

        return np.stack(list(_threads().map(one, places, generators)))

    def _read(self, place: np.ndarray) -> bytes:
        index, first, count = place
        with open(self.files[index], "rb") as file:
            file.seek(first)
            return file.read(count)

    def _open(self, place: np.ndarray) -> Any:
        image = pillow()
        try:
            with image.open(io.BytesIO(self._read(place))) as picture:
                return picture.convert("RGB")
        except OSError as error:
            raise ValueError(
                f"Every picture must be one that Pillow can read. Received: {self.files[place[0]]} ({error}). "
                "Copy or download it again."
            ) from error

    def _evaluated(self, picture: Any, _: None) -> np.ndarray:
        bilinear = pillow().Resampling.BILINEAR
        if self.resize is None:
            return np.asarray(picture.resize((self.size, self.size), bilinear))
        width, height = picture.size
        short = min(width, height)
        # torchvision's Resize cuts the fraction of the longer side, its CenterCrop rounds half to even.
        width, height = (self.resize if side == short else self.resize * side // short for side in (width, height))
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        picture = picture.resize((width, height), bilinear)
        return np.asarray(picture.crop((left, top, left + self.size, top + self.size)))


def pillow() -> Any:
    """Returns `PIL.Image`; raises `ImportError` with the remedy where it is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "Pictures are decoded with Pillow. Install it with: pip install 'keras-robust[corruptions]'"
        ) from error
    return Image


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
    """Threads that decode; Pillow lets others run while it does."""
    return concurrent.futures.ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="pictures")
