"""Random crop after zero padding, and random horizontal flip."""

import dataclasses

import numpy as np

from keras_robust.checks import check_positive_integer


@dataclasses.dataclass(frozen=True)
class CropFlip:
    """Moves each image by up to `padding` pixels and mirrors half of them.

    Args:
        padding: Pixels of zeros put around the image before a crop of its own size is drawn; 4 for CIFAR.
        horizontal_flip: Whether to mirror each image with probability one half.

    Call arguments:
        x: Images, shape `(batch, height, width, channels)`, of any type.
        rng: Generator to draw from.

    Returns:
        Images of the shape and type of `x`.

    Raises:
        ValueError: If `padding` is not a non-negative integer.
    """

    padding: int = 0
    horizontal_flip: bool = False

    def __post_init__(self):
        check_positive_integer("padding", self.padding, minimum=0)

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws one crop and one side for each image."""
        count, height, width = x.shape[:3]
        rows = np.broadcast_to(np.arange(height), (count, height))
        columns = np.broadcast_to(np.arange(width), (count, width))
        if self.padding:
            border = (self.padding, self.padding)
            x = np.pad(x, ((0, 0), border, border, (0, 0)))
            shifts = rng.integers(0, 2 * self.padding + 1, (2, count, 1))
            rows, columns = rows + shifts[0], columns + shifts[1]
        if self.horizontal_flip:
            mirrored = rng.random((count, 1)) < 0.5
            columns = np.where(mirrored, columns[:, ::-1], columns)
        return x[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
