"""Augmentations one after the other."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Chain:
    """Applies augmentations in order.

    Args:
        parts: Augmentations, `(images, rng) -> images` each.

    Call arguments:
        x: Images as stored, shape `(batch, height, width, channels)`.
        rng: Generator that they draw from, one after the other.

    Returns:
        Images of the shape of `x`.
    """

    parts: tuple[Callable[[np.ndarray, np.random.Generator], np.ndarray], ...]

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Applies them."""
        for part in self.parts:
            x = part(x, rng)
        return x
