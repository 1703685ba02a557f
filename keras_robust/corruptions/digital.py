"""Digital corruptions: `(x, constants, generators) -> x`, images of shape (batch, height, width, channels)."""

import io

import numpy as np
from scipy import ndimage

from keras_robust.corruptions.geometry import affine_positions, sample
from keras_robust.corruptions.libraries import pillow


def brightness(x: np.ndarray, c: float, rngs: list[np.random.Generator]) -> np.ndarray:
    """Adds `c` to the value of HSV, hue and saturation kept: scales each pixel to its new maximum."""
    value = x.max(axis=-1, keepdims=True)
    new = np.minimum(value + np.float32(c), 1)
    return np.where(value > 0, x * (new / np.where(value > 0, value, 1)), new)


def contrast(x: np.ndarray, c: float, rngs: list[np.random.Generator]) -> np.ndarray:
    """Shrinks the distance of each pixel to the mean of its channel to the fraction `c`."""
    mean = x.mean(axis=(1, 2), keepdims=True)
    return (x - mean) * np.float32(c) + mean


def elastic_transform(x: np.ndarray, c: tuple[float, float, float], rngs: list[np.random.Generator]) -> np.ndarray:
    """Moves three points by up to `c[2]` pixels, then every pixel by a smooth field.

    The field is uniform noise, smoothed with sigma `c[1]` and multiplied by `c[0]`, all in pixels.

    Differs from the paper: positions are exact, where OpenCV's warp rounds them to 1/32 of a pixel.
    """
    strength, smoothness, shift = c
    height, width = x.shape[1:3]
    centre, arm = np.array([width // 2, height // 2], "float64"), min(height, width) // 3
    source = centre + arm * np.array([[1, 1], [1, -1], [-1, -1]])
    source = np.broadcast_to(source, (len(x), 3, 2))
    target = source + np.stack([rng.uniform(-shift, shift, (3, 2)) for rng in rngs])
    x = sample(x, *affine_positions(source, target, (height, width)), repeat_edge=False)
    if strength == 0:
        return x
    field = np.stack([rng.uniform(-1, 1, (2, height, width)) for rng in rngs])
    field = ndimage.gaussian_filter(field, (0, 0, smoothness, smoothness), mode="reflect", truncate=3) * strength
    rows, columns = np.mgrid[:height, :width]
    return sample(x, rows + field[:, 1], columns + field[:, 0], repeat_edge=True)


def pixelate(x: np.ndarray, c: float, rngs: list[np.random.Generator]) -> np.ndarray:
    """Shrinks the image to the fraction `c` of its sides and enlarges it again, both by boxes."""
    image = pillow()
    height, width = x.shape[1:3]
    small = (max(int(width * c), 1), max(int(height * c), 1))

    def change(picture):
        return picture.resize(small, image.Resampling.BOX).resize((width, height), image.Resampling.BOX)

    return _pictures(x, change)


def jpeg_compression(x: np.ndarray, c: int, rngs: list[np.random.Generator]) -> np.ndarray:
    """Writes the image as JPEG of quality `c` and reads it; bytes may depend on the version of libjpeg."""
    image = pillow()

    def change(picture):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=c)
        return image.open(buffer)

    return _pictures(x, change)


def _pictures(x: np.ndarray, change) -> np.ndarray:
    levels = np.rint(255 * x).astype("uint8")
    squeezed = levels[..., 0] if x.shape[-1] == 1 else levels
    changed = np.stack([np.asarray(change(pillow().fromarray(each))) for each in squeezed])
    return changed.reshape(x.shape).astype("float32") / np.float32(255)
