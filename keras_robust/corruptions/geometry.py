"""Zooms and warps of a batch of images, each with its own map."""

import numpy as np


def zoom_matrix(size: int, factor: float) -> np.ndarray:
    """Returns the matrix that crops the middle of a line and enlarges it to its old size, linearly.

    Args:
        size: Pixels of the line.
        factor: How much larger, at least 1.

    Returns:
        Matrix of shape `(size, size)`, float32, each row summing to 1.
    """
    crop = int(np.ceil(size / factor))
    start = (size - crop) // 2
    enlarged = round(crop * factor)
    trim = (enlarged - size) // 2
    # Ends map to ends, as in scipy.ndimage.zoom.
    position = (np.arange(size) + trim) * ((crop - 1) / max(enlarged - 1, 1))
    low = np.clip(np.floor(position).astype(int), 0, crop - 1)
    high = np.minimum(low + 1, crop - 1)
    matrix = np.zeros((size, size))
    line = np.arange(size)
    np.add.at(matrix, (line, start + low), 1 - (position - low))
    np.add.at(matrix, (line, start + high), position - low)
    return matrix.astype("float32")


def sample(x: np.ndarray, rows: np.ndarray, columns: np.ndarray, repeat_edge: bool) -> np.ndarray:
    """Reads images at fractional positions, bilinearly, mirrored beyond the edges.

    Args:
        x: Images, shape `(batch, height, width, channels)`.
        rows: Vertical positions in pixels, shape `(batch, height, width)`.
        columns: Horizontal positions in pixels, of the same shape.
        repeat_edge: Whether the mirror repeats the pixel at the edge (`d c b a | a b c d`).

    Returns:
        Images of the shape of `x`.
    """
    batch = np.arange(len(x))[:, None, None]
    row, column = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = (rows - row).astype("float32")[..., None], (columns - column).astype("float32")[..., None]
    r0, r1 = (_mirror(row + step, x.shape[1], repeat_edge) for step in (0, 1))
    c0, c1 = (_mirror(column + step, x.shape[2], repeat_edge) for step in (0, 1))
    upper = x[batch, r0, c0] * (1 - right) + x[batch, r0, c1] * right
    lower = x[batch, r1, c0] * (1 - right) + x[batch, r1, c1] * right
    return upper * (1 - down) + lower * down


def _mirror(index: np.ndarray, size: int, repeat_edge: bool) -> np.ndarray:
    if repeat_edge:
        index = index % (2 * size)
        return np.minimum(index, 2 * size - 1 - index)
    index = index % max(2 * size - 2, 1)
    return np.minimum(index, 2 * size - 2 - index)


def affine_positions(
    source: np.ndarray, target: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns where to read each pixel of an image that an affine map moves.

    Args:
        source: Three points `(x, y)` for each image, shape `(batch, 3, 2)`.
        target: Where they go, of the same shape.
        shape: Height and width.

    Returns:
        Rows and columns, each of shape `(batch, height, width)`.
    """
    ones = np.ones((*target.shape[:2], 1))
    back = np.linalg.solve(np.concatenate([target, ones], axis=-1), source)  # (batch, 3, 2): target to source
    y, x = np.mgrid[: shape[0], : shape[1]].astype("float64")
    positions = np.einsum("khw,bkd->bhwd", np.stack([x, y, np.ones_like(x)]), back)
    return positions[..., 1], positions[..., 0]
