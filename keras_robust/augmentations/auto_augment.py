"""AutoAugment: the policies that were found for CIFAR-10 and for ImageNet."""

import dataclasses

import numpy as np

from keras_robust.augmentations.operations import as_bytes, operate
from keras_robust.checks import check_choice

_LEVELS = 10
_SIGNED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")

# Two steps each: operation, probability, magnitude. Tables 7 and 9 of the paper's appendix.
_TABLES = {
    "cifar10": """
        invert 0.1 7, contrast 0.2 6;       rotate 0.7 2, translate_x 0.3 9;     sharpness 0.8 1, sharpness 0.9 3;
        shear_y 0.5 8, translate_y 0.7 9;   autocontrast 0.5 8, equalize 0.9 2;  shear_y 0.2 7, posterize 0.3 7;
        color 0.4 3, brightness 0.6 7;      sharpness 0.3 9, brightness 0.7 9;   equalize 0.6 5, equalize 0.5 1;
        contrast 0.6 7, sharpness 0.6 5;    color 0.7 7, translate_x 0.5 8;   equalize 0.3 7, autocontrast 0.4 8;
        translate_y 0.4 3, sharpness 0.2 6; brightness 0.9 6, color 0.2 8;       solarize 0.5 2, invert 0.0 3;
        equalize 0.2 0, autocontrast 0.6 0; equalize 0.2 8, equalize 0.6 4;      color 0.9 9, equalize 0.6 6;
        autocontrast 0.8 4, solarize 0.2 8; brightness 0.1 3, color 0.7 0;    solarize 0.4 5, autocontrast 0.9 3;
        translate_y 0.9 9, translate_y 0.7 9; autocontrast 0.9 2, solarize 0.8 3; equalize 0.8 8, invert 0.1 3;
        translate_y 0.7 9, autocontrast 0.9 1
    """,
    "imagenet": """
        posterize 0.4 8, rotate 0.6 9;      solarize 0.6 5, autocontrast 0.6 5;  equalize 0.8 8, equalize 0.6 3;
        posterize 0.6 7, posterize 0.6 6;   equalize 0.4 7, solarize 0.2 4;      equalize 0.4 4, rotate 0.8 8;
        solarize 0.6 3, equalize 0.6 7;     posterize 0.8 5, equalize 1.0 2;     rotate 0.2 3, solarize 0.6 8;
        equalize 0.6 8, posterize 0.4 6;    rotate 0.8 8, color 0.4 0;           rotate 0.4 9, equalize 0.6 2;
        equalize 0.0 7, equalize 0.8 8;     invert 0.6 4, equalize 1.0 8;        color 0.6 4, contrast 1.0 8;
        rotate 0.8 8, color 1.0 2;          color 0.8 8, solarize 0.8 7;         sharpness 0.4 7, invert 0.6 8;
        shear_x 0.6 5, equalize 1.0 9;      color 0.4 0, equalize 0.6 3;         equalize 0.4 7, solarize 0.2 4;
        solarize 0.6 5, autocontrast 0.6 5; invert 0.6 4, equalize 1.0 8;        color 0.6 4, contrast 1.0 8;
        equalize 0.8 8, equalize 0.6 3
    """,
}


def _read(table: str) -> tuple[tuple[tuple[str, float, int], ...], ...]:
    rows = [[step.split() for step in row.split(",")] for row in table.split(";")]
    return tuple(tuple((name, float(share), int(level)) for name, share, level in row) for row in rows)


POLICIES = {name: _read(table) for name, table in _TABLES.items()}
"""Sub-policies of each policy, 25 of two steps: operation, probability and magnitude from 0 to 9."""


def amount_of(name: str, magnitude: int, side: int) -> float:
    """Returns the amount that a magnitude stands for, without its sign.

    Args:
        name: Operation, see `operate`.
        magnitude: 0 to 9.
        side: Width or height of the image in pixels, for translations.

    Returns:
        Amount in the unit of the operation; for the enhancing ones the distance of the factor from 1.
    """
    share = magnitude / (_LEVELS - 1)
    if name.startswith("shear"):
        return 0.3 * share
    if name.startswith("translate"):
        return int(150 / 331 * side * share)
    if name == "rotate":
        return 30.0 * share
    if name == "posterize":
        return 8 - round(4 * share)
    if name == "solarize":
        return 256 - round(256 * share)
    return 0.9 * share


@dataclasses.dataclass(frozen=True)
class AutoAugment:
    """Changes each image by one of 25 sub-policies, drawn at random: two operations with their probabilities.

    Put it after crop and flip, as the paper does. A magnitude from 0 to 9 is an even step through the range of the
    paper's table 6; signs of geometric operations and of the distance of an enhancing factor from 1 are drawn.

    Differs from the paper: it does not say how a magnitude becomes a sign, and its code has other ranges than its
    table in places (translations of at most 10 of 32 pixels); signs, the nearest pixel, black where the image has
    moved away, and translations of at most 150 / 331 of the side are torchvision's reading. The Cutout that
    follows on CIFAR-10 is not part of it. Keras has no layer of this policy; its RandAugment draws operations
    evenly, without probabilities of their own.

    Args:
        policy: `"cifar10"` or `"imagenet"`.
        maximum: Stored value that stands for 1.0.

    Call arguments:
        x: Images as stored, shape `(batch, height, width, channels)`, grey or RGB.
        rng: Generator to draw from.

    Returns:
        Images of the shape of `x`: uint8 where `maximum` is 255, else float32 in [0, maximum].

    Raises:
        ValueError: If the policy is unknown or the images are neither grey nor RGB.
        ImportError: If Pillow is not installed.

    Reference:
        Cubuk et al., 2019, https://arxiv.org/abs/1805.09501 (tables 6, 7 and 9)
    """

    policy: str = "cifar10"
    maximum: float = 255

    def __post_init__(self):
        check_choice("policy", self.policy, tuple(POLICIES))

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws one sub-policy for each image."""
        policy = POLICIES[self.policy]
        drawn = rng.integers(len(policy), size=len(x))
        chances = rng.random((len(x), 2))
        signs = rng.choice((-1, 1), (len(x), 2))
        found = as_bytes(x, self.maximum).copy()
        for number, pair in enumerate(policy):
            for step, (name, probability, magnitude) in enumerate(pair):
                (rows,) = np.nonzero((drawn == number) & (chances[:, step] < probability))
                if len(rows):
                    amount = amount_of(name, magnitude, x.shape[1 if name == "translate_y" else 2])
                    amounts = _signed(name, amount, signs[rows, step])
                    found[rows] = operate(found[rows], name, amounts, bilinear=False)
        return found if self.maximum == 255 else found.astype("float32") * np.float32(self.maximum / 255)


def _signed(name: str, amount: float, signs: np.ndarray) -> np.ndarray:
    if name in _SIGNED:
        return signs * amount
    return np.full(len(signs), amount) if name in ("posterize", "solarize") else 1 + signs * amount
