"""The field's random crop for ImageNet: a part of the picture, of random area and shape, at one size."""

import dataclasses
import math
from typing import Any

import numpy as np

from keras_robust.checks import check_positive_integer

_BILINEAR = 2  # Pillow's number of the filter, so that this file needs no Pillow
_ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """Cuts out a random part of a picture and resizes it, bilinearly, to a square.

    The part has a share of the area drawn evenly from `scale`, and a width over height whose logarithm is drawn
    evenly from `ratio`. Where ten draws do not fit into the picture, its middle is taken, as large as `ratio`
    lets it be.

    Args:
        size: Side of the result in pixels.
        scale: Smallest and largest share of the picture's area.
        ratio: Smallest and largest width over height.

    Call arguments:
        picture: Picture of Pillow, RGB.
        rng: Generator to draw from.

    Returns:
        Pixels, shape `(size, size, 3)`, uint8.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Szegedy et al., 2015, https://arxiv.org/abs/1409.4842 (section 6)
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self):
        check_positive_integer("size", self.size)
        if not 0 < self.scale[0] <= self.scale[1] <= 1 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(
                "`scale` must rise within (0, 1] and `ratio` must rise from a positive number. "
                f"Received: scale={self.scale!r}, ratio={self.ratio!r}."
            )

    def __call__(self, picture: Any, rng: np.random.Generator) -> np.ndarray:
        """Draws one part and resizes it."""
        width, height = picture.size
        left, top, cut_width, cut_height = self.box(width, height, rng)
        part = picture.crop((left, top, left + cut_width, top + cut_height))
        return np.asarray(part.resize((self.size, self.size), _BILINEAR))

    def box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draws the part of a picture.

        Args:
            width: Width of the picture in pixels.
            height: Its height.
            rng: Generator to draw from.

        Returns:
            Left, top, width and height of the part.
        """
        for _ in range(_ATTEMPTS):
            area = width * height * rng.uniform(*self.scale)
            shape = math.exp(rng.uniform(*np.log(self.ratio)))
            cut_width, cut_height = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < cut_width <= width and 0 < cut_height <= height:
                left, top = rng.integers((width - cut_width + 1, height - cut_height + 1)).tolist()
                return left, top, cut_width, cut_height
        low, high = self.ratio
        cut_width, cut_height = min(width, round(height * high)), min(height, round(width / low))
        return (width - cut_width) // 2, (height - cut_height) // 2, cut_width, cut_height
