"""AugMix: chains of mild operations, mixed with each other and with the image."""

import dataclasses

import numpy as np

from keras_robust.augmentations.operations import as_bytes, operate
from keras_robust.checks import check_positive_integer

OPERATIONS = (
    "autocontrast",
    "equalize",
    "posterize",
    "rotate",
    "solarize",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
"""Those that no corruption of CIFAR-10-C and ImageNet-C resembles: no contrast, brightness, color or sharpness."""
_LARGEST_DEPTH = 3
_LOWEST_LEVEL = 0.1


@dataclasses.dataclass(frozen=True)
class AugMix:
    """Mixes an image with a mixture of chains of random operations on it.

    (1 - m) x + m sum_i w_i chain_i(x), where the weights w are drawn from a Dirichlet and m from a Beta
    distribution, anew for each image. A level drawn evenly from 0.1 to `severity` says how far an operation goes:
    10 stands for 30 degrees, a shear of 0.3, a third of the side, 4 of 4 bits, or all values. Put it after crop
    and flip. For the loss of the paper, two such views of an image go beside it: `Batches(..., maximum=255,
    views=(AugMix(), AugMix()))` with `JensenShannon`.

    `keras.layers.AugMix` is something else: one draw of chains and weights for a whole batch, the operations by
    Python's own `random`; by default brightness, contrast, color and sharpness too, which the paper leaves out;
    chains that may be empty; shears and translations of both axes at once that reflect at the borders; rotations
    of up to `factor` of a whole turn; a posterization to 1 or 2 bits; a solarization that adds to pixels first.

    Args:
        width: Chains.
        depth: Operations a chain; -1 draws 1, 2 or 3 for each.
        alpha: Parameter of both distributions.
        severity: Highest level, from 0.1 to 10; the paper has 3 for CIFAR and 1 for ImageNet, Guo et al. have 5
            and 1.
        maximum: Stored value that stands for 1.0.

    Call arguments:
        x: Images as stored, shape `(batch, height, width, channels)`, grey or RGB.
        rng: Generator to draw from.

    Returns:
        Images of the shape of `x`, float32 in [0, maximum].

    Raises:
        ValueError: If an argument is out of range, or the images are neither grey nor RGB.
        ImportError: If Pillow is not installed.

    Reference:
        Hendrycks et al., 2020, https://arxiv.org/abs/1912.02781 (algorithm 1, section 3)
    """

    width: int = 3
    depth: int = -1
    alpha: float = 1.0
    severity: float = 3
    maximum: float = 255

    def __post_init__(self):
        check_positive_integer("width", self.width)
        if self.depth != -1:
            check_positive_integer("depth", self.depth)
        if not self.alpha > 0 or not _LOWEST_LEVEL <= self.severity <= 10:
            raise ValueError(
                "`alpha` must be positive and `severity` in [0.1, 10]. "
                f"Received: alpha={self.alpha!r}, severity={self.severity!r}."
            )

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws chains and weights for each image."""
        clean, count = as_bytes(x, self.maximum), len(x)
        longest = _LARGEST_DEPTH if self.depth == -1 else self.depth
        weights = rng.dirichlet([self.alpha] * self.width, count).astype("float32")
        shares = rng.beta(self.alpha, self.alpha, count).astype("float32")[:, None, None, None]
        mixture = (1 - shares) * clean
        for chain in range(self.width):
            depths = rng.integers(1 if self.depth == -1 else longest, longest + 1, count)
            changed = clean.copy()
            for step in range(longest):
                changed = self._step(changed, depths > step, rng)
            mixture += shares * weights[:, chain, None, None, None] * changed
        return np.clip(mixture, 0, 255) * np.float32(self.maximum / 255)

    def _step(self, x: np.ndarray, acts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Applies one operation to each image where it acts, in place; the draws do not depend on where."""
        drawn = rng.integers(len(OPERATIONS), size=len(x))
        levels = rng.uniform(_LOWEST_LEVEL, self.severity, len(x))
        signs = rng.choice((-1, 1), len(x))
        for number, name in enumerate(OPERATIONS):
            (rows,) = np.nonzero(acts & (drawn == number))
            if len(rows):
                amounts = amounts_of(name, levels[rows], signs[rows], *x.shape[1:3])
                x[rows] = operate(x[rows], name, amounts, bilinear=True)
        return x


def amounts_of(name: str, levels: np.ndarray, signs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the amounts that levels stand for.

    Args:
        name: Operation, see `operate`.
        levels: 0 to 10, shape `(batch,)`.
        signs: -1 or 1, for geometric operations, shape `(batch,)`.
        height: Height of the images in pixels.
        width: Their width.

    Returns:
        Amounts in the unit of the operation, shape `(batch,)`; whole numbers but for shears.
    """
    share = levels / 10
    if name.startswith("shear"):
        return signs * 0.3 * share
    if name.startswith("translate"):
        return signs * np.trunc(share * (width if name == "translate_x" else height) / 3)
    if name == "rotate":
        return signs * np.trunc(30 * share)
    return 4 - np.trunc(4 * share) if name == "posterize" else 256 - np.trunc(256 * share)
