"""Weather corruptions: `(x, constants, generators) -> x`, images of shape (batch, height, width, channels)."""

import numpy as np

from keras_robust.corruptions.blur import smear
from keras_robust.corruptions.geometry import zoom_matrix


def snow(x: np.ndarray, c: tuple, rngs: list[np.random.Generator]) -> np.ndarray:
    """Whitens the image and lets flakes fall through it, twice.

    `c` holds mean and spread of the flakes' noise, its zoom, the threshold of a flake, radius and sigma of
    their smear, and the share of the image that is not whitened.
    """
    loc, scale, zoom, threshold, radius, sigma, mix = c
    height, width = x.shape[1:3]
    flakes = np.stack([rng.normal(loc, scale, (height, width)) for rng in rngs]).astype("float32")
    angles = np.array([rng.uniform(-135, -45) for rng in rngs])
    rows, columns = zoom_matrix(height, zoom), zoom_matrix(width, zoom)
    flakes = np.einsum("ih,bhw,jw->bij", rows, flakes, columns, optimize=True)
    flakes = np.where(flakes < threshold, 0, np.clip(flakes, 0, 1))[..., None]
    flakes = np.floor(255 * flakes) / np.float32(255)
    flakes = np.rint(255 * smear(flakes, radius, sigma, angles)) / np.float32(255)
    grey = x @ np.array([0.299, 0.587, 0.114], "float32") if x.shape[-1] == 3 else x[..., 0]
    white = np.maximum(x, 1.5 * grey[..., None] + 0.5)
    return np.float32(mix) * x + np.float32(1 - mix) * white + flakes + flakes[:, ::-1, ::-1]


def frost(x: np.ndarray, c: tuple[float, float], rngs: list[np.random.Generator]) -> np.ndarray:
    """Lays ice over the image: `c[0]` of the image plus `c[1]` of the ice.

    Differs from the paper: the ice is computed (`ice`), where the paper cuts it out of five photographs that are
    not free to ship; errors are therefore not comparable with those on the official files.
    """
    clear, covered = (np.float32(each) for each in c)
    return clear * x + covered * ice(x.shape[1:], rngs)


def ice(shape: tuple[int, int, int], rngs: list[np.random.Generator]) -> np.ndarray:
    """Returns textures of bright veins on a cloudy ground, bluish in colour.

    Args:
        shape: Height, width and channels.
        rngs: Generator of each texture.

    Returns:
        Textures, shape `(batch, height, width, channels)`, in [0, 1].
    """
    height, width, channels = shape
    white = np.stack([rng.standard_normal((2, height, width), dtype="float32") for rng in rngs])
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    spectrum = 1 / np.maximum(frequency, 1 / max(height, width))
    fields = np.fft.irfft2(np.fft.rfft2(white) * spectrum, s=(height, width))
    fields /= fields.std(axis=(2, 3), keepdims=True)
    veins = np.exp(-4 * np.abs(fields[:, 0]))  # bright where the field crosses zero
    clouds = 1 / (1 + np.exp(-1.5 * fields[:, 1]))
    grey = np.clip(0.25 + 0.45 * clouds + 0.5 * veins, 0, 1)[..., None]
    tint = np.array([0.88, 0.95, 1.0]) if channels == 3 else np.ones(channels)
    return (grey * tint).astype("float32")


def fog(x: np.ndarray, c: tuple[float, float], rngs: list[np.random.Generator]) -> np.ndarray:
    """Adds `c[0]` of a cloud of roughness `c[1]`, and scales back to the image's maximum."""
    height, width = x.shape[1:3]
    size = 2 ** int(np.ceil(np.log2(max(height, width, 2))))
    clouds = plasma(size, c[1], rngs)[:, :height, :width, None].astype("float32")
    top = x.max(axis=(1, 2, 3), keepdims=True)
    return (x + np.float32(c[0]) * clouds) * top / (top + np.float32(c[0]))


def plasma(size: int, decay: float, rngs: list[np.random.Generator]) -> np.ndarray:
    """Returns fractal height maps on a torus, by the diamond-square algorithm.

    Args:
        size: Side in pixels, a power of two.
        decay: Factor by which the displacement shrinks at each halving of the step; large is smooth.
        rngs: Generator of each map.

    Returns:
        Maps, shape `(batch, size, size)`, each from 0 to 1.
    """
    chance = np.stack([rng.uniform(-1, 1, size * size - 1) for rng in rngs])
    heights = np.zeros((len(rngs), size, size))
    used, step, wibble = 0, size, 100.0

    def displaced(total):
        nonlocal used
        shape = total.shape
        count = shape[1] * shape[2]
        draw = chance[:, used : used + count].reshape(shape)
        used += count
        return total / 4 + wibble**2 * draw  # the generator of the files, too, squares it

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=1)
        heights[:, half::step, half::step] = displaced(pairs + np.roll(pairs, -1, axis=2))
        middles = heights[:, half::step, half::step]
        across = corners + np.roll(corners, -1, axis=2)
        heights[:, ::step, half::step] = displaced(across + middles + np.roll(middles, 1, axis=1))
        along = corners + np.roll(corners, -1, axis=1)
        heights[:, half::step, ::step] = displaced(along + middles + np.roll(middles, 1, axis=2))
        step, wibble = half, wibble / decay
    low, high = heights.min(axis=(1, 2), keepdims=True), heights.max(axis=(1, 2), keepdims=True)
    return (heights - low) / (high - low)
