"""Blur corruptions: `(x, constants, generators) -> x`, images of shape (batch, height, width, channels)."""

import numpy as np
from scipy import ndimage, signal

from keras_robust.corruptions.geometry import zoom_matrix


def defocus_blur(x: np.ndarray, c: tuple[float, float], rngs: list[np.random.Generator]) -> np.ndarray:
    """Convolves with a disk of radius `c[0]`, itself blurred with `c[1]`."""
    kernel = disk(*c)
    border = len(kernel) // 2
    pad = [(0, 0), (border, border), (border, border), (0, 0)]
    padded = np.pad(x, pad, mode="reflect")  # without repeating the edge, as OpenCV's default
    return signal.fftconvolve(padded, kernel[None, :, :, None], mode="valid", axes=(1, 2)).astype("float32")


def disk(radius: float, alias_blur: float) -> np.ndarray:
    """Returns the kernel of a defocused lens.

    Args:
        radius: Radius of the disk in pixels.
        alias_blur: Standard deviation of the Gaussian that smooths its rim, cut to 3 x 3 (5 x 5 above radius 8).

    Returns:
        Kernel, square, of odd size, float32. Its sum is 1, but 1.013 and 1.011 at radius 8 and 10 of ImageNet-C,
        where the disk fills its grid and smoothing mirrors its rim; the official files have that too.
    """
    reach = 8 if radius <= 8 else int(np.ceil(radius))
    grid = np.arange(-reach, reach + 1)
    kernel = ((grid[:, None] ** 2 + grid[None, :] ** 2) <= radius**2).astype("float64")
    kernel /= kernel.sum()
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    smooth = np.exp(-(taps**2) / (2 * alias_blur**2))
    smooth /= smooth.sum()
    for axis in (0, 1):
        kernel = ndimage.correlate1d(kernel, smooth, axis=axis, mode="mirror")
    used = np.abs(grid)[kernel.max(axis=0) > 1e-12].max()
    return kernel[reach - used : reach + used + 1, reach - used : reach + used + 1].astype("float32")


def glass_blur(x: np.ndarray, c: tuple[float, int, int], rngs: list[np.random.Generator]) -> np.ndarray:
    """Blurs with sigma `c[0]`, moves pixels by up to `c[1]`, `c[2]` times, and blurs again.

    Differs from the paper: pixels are not swapped. In the code that made the files each takes its neighbour's
    value, and the neighbour keeps it, because the swap works on views of one array; so here.
    """
    sigma, reach, times = c
    blur = (0, sigma, sigma, 0)
    x = np.floor(255 * ndimage.gaussian_filter(x, blur, mode="nearest", truncate=4) + 1e-3) / 255
    height, width = x.shape[1:3]
    rows, columns = range(height - reach, reach, -1), range(width - reach, reach, -1)
    shape = (times, len(rows), len(columns), 2)
    moves = np.stack([rng.integers(-reach, reach, shape, dtype="int16") for rng in rngs], axis=-1)
    batch = np.arange(len(x))
    for turn in range(times):
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                dx, dy = moves[turn, i, j]
                x[:, row, column] = x[batch, row + dy, column + dx]
    return ndimage.gaussian_filter(x.astype("float32"), blur, mode="nearest", truncate=4)


def motion_blur(x: np.ndarray, c: tuple[int, float], rngs: list[np.random.Generator]) -> np.ndarray:
    """Smears along a line of random angle within 45 degrees of the horizontal: radius `c[0]`, sigma `c[1]`."""
    angles = np.array([rng.uniform(-45, 45) for rng in rngs])
    # ImageMagick rounds to 8 bits, where the other corruptions cut off.
    return np.rint(255 * smear(x, *c, angles)) / np.float32(255)


def smear(x: np.ndarray, radius: int, sigma: float, angles: np.ndarray) -> np.ndarray:
    """Averages along a line from each pixel, as ImageMagick's motion blur.

    Args:
        x: Images, shape `(batch, height, width, channels)`.
        radius: Half the number of samples on the line, in pixels.
        sigma: Standard deviation of the one-sided Gaussian that weights them, in pixels.
        angles: Direction of each image's line in degrees, shape `(batch,)`.

    Returns:
        Images of the same shape; beyond the edge the pixels at the edge are repeated.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights = (weights / weights.sum()).astype("float32")
    radians = np.deg2rad(angles)[:, None]
    down = np.ceil(steps * np.sin(radians) - 0.5).astype(int)
    right = np.ceil(steps * np.cos(radians) - 0.5).astype(int)
    height, width = x.shape[1:3]
    batch = np.arange(len(x))[:, None, None]
    result = np.zeros_like(x)
    for step, weight in enumerate(weights):
        rows = np.clip(np.arange(height) + down[:, step, None], 0, height - 1)
        columns = np.clip(np.arange(width) + right[:, step, None], 0, width - 1)
        result += weight * x[batch, rows[:, :, None], columns[:, None, :]]
    return result


def zoom_blur(x: np.ndarray, c: tuple[float, ...], rngs: list[np.random.Generator]) -> np.ndarray:
    """Averages the image with itself zoomed in by each factor of `c`."""
    total = x.copy()
    for factor in c:
        rows, columns = (zoom_matrix(size, factor) for size in x.shape[1:3])
        total += np.einsum("ih,bhwc,jw->bijc", rows, x, columns, optimize=True)
    return total / np.float32(len(c) + 1)
