"""The operations that AutoAugment and AugMix draw from, on batches of bytes; amounts are in units of their own."""

import functools
from types import SimpleNamespace

import numpy as np

_AFFINE = {
    "shear_x": lambda amount: (1, amount, 0, 0, 1, 0),
    "shear_y": lambda amount: (1, 0, 0, amount, 1, 0),
    "translate_x": lambda amount: (1, 0, amount, 0, 1, 0),
    "translate_y": lambda amount: (1, 0, 0, 0, 1, amount),
}
_ENHANCE = ("brightness", "color", "contrast", "sharpness")
IDENTITY = {
    **dict.fromkeys((*_AFFINE, "rotate"), 0),
    **dict.fromkeys(_ENHANCE, 1.0),
    "posterize": 8,
    "solarize": 256,
}
"""Amounts at which an operation changes nothing; `autocontrast`, `equalize` and `invert` take no amount."""


def operate(x: np.ndarray, name: str, amounts: np.ndarray, *, bilinear: bool) -> np.ndarray:
    """Applies one operation to images, to each by an amount of its own, as Pillow does.

    Operations that are a table of values are computed here for all images at once, to Pillow's very bytes; the
    others are Pillow's. What comes in from outside of the image is black.

    Args:
        x: Images, shape `(batch, height, width, channels)`, uint8, grey or RGB.
        name: Operation: `shear_x`, `shear_y` (pixels a pixel), `translate_x`, `translate_y` (pixels), `rotate`
            (degrees), `brightness`, `color`, `contrast`, `sharpness` (factors), `posterize` (bits that are kept),
            `solarize` (pixels from this value on are inverted), `autocontrast`, `equalize` or `invert`.
        amounts: How much, in that unit, shape `(batch,)`.
        bilinear: Whether geometric operations interpolate; else they take the nearest pixel.

    Returns:
        Images of the shape of `x`, uint8.

    Raises:
        ImportError: If Pillow is not installed and needed.
    """
    if name == "invert":
        return 255 - x
    if name == "posterize":
        return x & (256 - 2 ** (8 - amounts.astype("int64")))[:, None, None, None].astype("uint8")
    if name == "solarize":
        return np.where(x < amounts[:, None, None, None], x, 255 - x)
    if name in ("autocontrast", "equalize"):
        return _by_histogram(x, _stretched if name == "autocontrast" else _equalized)
    pillow = _pillow()
    filter_ = pillow.image.Resampling.BILINEAR if bilinear else pillow.image.Resampling.NEAREST
    changed = np.empty_like(x)
    for row, amount in enumerate(amounts.tolist()):
        picture = pillow.image.fromarray(x[row, ..., 0] if x.shape[-1] == 1 else x[row])
        if name in _AFFINE:
            matrix = _AFFINE[name](amount)
            picture = picture.transform(picture.size, pillow.image.Transform.AFFINE, matrix, filter_)
        elif name == "rotate":
            picture = picture.rotate(amount, filter_)
        else:
            picture = getattr(pillow.enhance, name.capitalize())(picture).enhance(amount)
        changed[row] = np.asarray(picture).reshape(x.shape[1:])
    return changed


def as_bytes(x: np.ndarray, maximum: float) -> np.ndarray:
    """Returns images as bytes.

    Args:
        x: Images as stored, shape `(batch, height, width, channels)`, of one or three channels.
        maximum: Stored value that stands for 1.0; it becomes 255.

    Returns:
        Images, uint8.

    Raises:
        ValueError: If there are other channels.
    """
    if x.ndim != 4 or x.shape[-1] not in (1, 3):
        raise ValueError(
            "Images must have shape (batch, height, width, channels) with 1 or 3 channels, grey or RGB. "
            f"Received: shape={x.shape}."
        )
    if x.dtype == np.uint8 and maximum == 255:
        return x
    return np.rint(x.astype("float32") * np.float32(255 / maximum)).clip(0, 255).astype("uint8")


def _by_histogram(x: np.ndarray, make_tables) -> np.ndarray:
    """Looks values up in a table for each image and channel, which is made from the counts of the values."""
    count, channels = len(x), x.shape[-1]
    first = 256 * np.arange(count * channels).reshape(count, 1, 1, channels)
    places = x + first
    counts = np.bincount(places.ravel(), minlength=count * channels * 256).reshape(-1, 256)
    return make_tables(counts).astype("uint8").ravel()[places]


def _stretched(counts: np.ndarray) -> np.ndarray:
    """Tables that move the lowest value to 0 and the highest to 255, the fraction cut off."""
    there = counts > 0
    low, high = there.argmax(1)[:, None], 255 - there[:, ::-1].argmax(1)[:, None]
    scale = 255.0 / np.maximum(high - low, 1)
    values = np.arange(256)
    return np.where(high > low, np.clip(np.trunc(values * scale - low * scale), 0, 255), values)


def _equalized(counts: np.ndarray) -> np.ndarray:
    """Tables that spread the values evenly; those of images of one value change nothing."""
    high = 255 - (counts > 0)[:, ::-1].argmax(1)[:, None]
    step = (counts.sum(1, keepdims=True) - np.take_along_axis(counts, high, 1)) // 255
    below = np.cumsum(counts, 1) - counts
    return np.where(step > 0, np.minimum((step // 2 + below) // np.maximum(step, 1), 255), np.arange(256))


@functools.cache
def _pillow() -> SimpleNamespace:
    try:
        from PIL import Image, ImageEnhance
    except ImportError as error:
        raise ImportError(
            "AutoAugment and AugMix need Pillow. Install it with: pip install 'keras-robust[corruptions]'"
        ) from error
    return SimpleNamespace(image=Image, enhance=ImageEnhance)
