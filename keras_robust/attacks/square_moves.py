"""Proposals of the Square attack: where the windows lie and what they hold, for the three norms.

Windows are masks from comparisons of coordinates, and patterns are put in place by products with one-hot matrices:
shapes stay static and nothing is gathered or scattered, which is slow under XLA on a CPU.
"""

import numpy as np
from keras import ops

from keras_robust.checks import Tensor
from keras_robust.norms import Norm

SPREAD = 2**15
"""Number of values that a drawn position takes; a window's offset is floor(position / SPREAD * places)."""


def plan_windows(norm: Norm, x, positions, signs, size, *, all_positions: bool = True) -> tuple[Tensor, ...]:
    """Turns what was drawn for some queries into windows, all of one size.

    Args:
        norm: Shape of the ball.
        x: Clean images, shape `(batch, height, width, channels)`.
        positions: Row and column of the windows in units of 1 / SPREAD of the room, shape
            `(batch, queries, 2)` for Linf, `(batch, queries, 4)` otherwise.
        signs: 1 or -1 for each channel, then for the orientation (not for Linf), shape `(batch, queries, signs)`.
        size: Side of the window, integer scalar.
        all_positions: Whether a window may lie at the lower and right edges; not so in the reference code.

    Returns:
        Tensors whose first axis are the queries. Whether each row lies in the window, shape
        `(queries, windows, batch, height, 1, 1)`; whether each column does,
        `(queries, windows, batch, 1, width, 1)`; the sign of each channel, `(queries, batch, 1, 1, channels)`,
        for Linf whether it is positive. Not for Linf: first row and column of the first window,
        `(queries, batch, 2)`; whether the pattern stays as it is or is transposed, `(queries, batch, 1, 1)`.
    """
    batch, height, width, channels = x.shape
    queries, numbers = positions.shape[1:]
    positions = ops.reshape(ops.cast(positions, "int32"), (batch, queries, numbers // 2, 2))
    room = ops.stack([height - size, width - size]) + int(all_positions)
    corner = ops.transpose(positions * room // SPREAD, (1, 2, 0, 3))
    top, left = corner[..., :1], corner[..., 1:]
    row, column = ops.arange(height, dtype="int32"), ops.arange(width, dtype="int32")
    rows = ops.logical_and(row >= top, row < top + size)[..., None, None]
    columns = ops.logical_and(column >= left, column < left + size)[..., None, :, None]
    signs = ops.transpose(signs, (1, 0, 2))[:, :, None, None]
    if norm.name == "Linf":
        return rows, columns, signs > 0
    return rows, columns, ops.cast(signs[..., :channels], x.dtype), corner[:, 0], signs[..., 0, channels:] > 0


def window_contents(norm: Norm, x, pattern, epsilon) -> tuple[Tensor, ...]:
    """Returns what windows of one size are filled from: for Linf the extreme pixels, else the pattern."""
    if norm.name == "Linf":
        return ops.maximum(x - epsilon, 0.0), ops.minimum(x + epsilon, 1.0)
    return (pattern,)


def propose(norm: Norm, x, best, windows: tuple[Tensor, ...], contents: tuple[Tensor, ...], epsilon):
    """Changes one window of the perturbation of each image.

    Args:
        norm: Shape of the ball.
        x: Clean images, shape `(batch, height, width, channels)`.
        best: Best images so far, of the same shape.
        windows: What `plan_windows` gives, for one query.
        contents: What `window_contents` gives for the same size.
        epsilon: Radius of the ball.

    Returns:
        Proposed images, of the shape of `x`, in the ball and in [0, 1].
    """
    rows, columns, sign, *placing = windows
    masks = ops.logical_and(rows, columns)
    window = masks[0]
    if norm.name == "Linf":
        lowest, highest = contents
        return ops.where(window, ops.where(sign, highest, lowest), best)
    channels = x.shape[3]
    other = masks[1]
    power = 2 if norm.name == "L2" else 1
    delta = best - x
    mass = _mass(delta, power)
    inside = ops.cast(window, x.dtype)
    # Equation 3 of the paper: the proposal takes over the norm of both windows and what the ball still allows.
    window_norm = _root(_sum(mass * inside), power)
    both = _sum(ops.where(ops.logical_or(window, other), mass, 0.0))
    spare = ops.maximum(epsilon**power - ops.sum(mass, axis=(1, 2, 3), keepdims=True), 0.0)
    (pattern,), (corner, upright) = contents, placing
    new = _place(pattern, corner, upright, x) * sign
    new = (new + delta / (1e-12 + window_norm)) * inside
    new = new / (1e-12 + _root(_sum(_mass(new, power)), power))
    # The reference multiplies by the channels for L1, and leaves the rest to the projection.
    new = new * (ops.sqrt(spare / channels + both) if power == 2 else spare + both * channels)
    delta = ops.where(window, new, ops.where(other, 0.0, delta))
    if power == 2:
        length = ops.sqrt(ops.sum(ops.square(delta), axis=(1, 2, 3), keepdims=True))
        return ops.clip(x + delta * (epsilon / (length + 1e-12)), 0.0, 1.0)
    return norm.project(x + delta, x, epsilon * (1 - 1e-6))


def window_pattern(norm: str, size: int, largest: int) -> np.ndarray:
    """Builds the pattern of a window for L2 and L1: two halves of opposite sign, each a pyramid.

    Args:
        norm: Name of the norm.
        size: Side of the window.
        largest: Largest side that a window may have.

    Returns:
        The pattern, of norm 1, in the upper left corner of zeros, shape `(largest, largest)`, float32.
    """
    padded = np.zeros((largest, largest), "float32")
    if norm != "Linf":
        padded[:size, :size] = _halves(norm, size)
    return padded


def starting_pattern(norm: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draws the first perturbation of one image, of norm 1; for L1 each tile has norm 1.

    Args:
        norm: Name of the norm.
        rng: Generator of the image.
        shape: Height, width and channels.

    Returns:
        Vertical stripes of 1 and -1 for Linf, a grid of tiles with random signs otherwise, shape `shape`.
    """
    height, width, channels = shape
    if norm == "Linf":
        return np.broadcast_to(rng.choice((-1, 1), (1, width, channels)), shape).astype("int8")
    side = max(min(height // 5, width), 1)
    tile = _halves(norm, side)
    margin = max(height - 5 * side, 0) // 2
    margin = margin if margin < width else 0  # it is that of the rows, and would leave no column of narrow images
    pattern = np.zeros(shape)
    for top in range(margin, margin + height // side * side, side):
        for left in range(margin, margin + width // side * side, side):
            turned = tile if rng.uniform() < 0.5 else tile.T
            signed = turned[:, :, None] * rng.choice((-1, 1), channels)
            part = pattern[top : top + side, left : left + side]
            part += signed[: part.shape[0], : part.shape[1]]
    return (pattern / np.linalg.norm(pattern) if norm == "L2" else pattern).astype("float32")


def _place(pattern, corner, upright, x):
    """Moves the pattern to the corner of each image, shape `(batch, height, width, 1)`."""
    turned = ops.where(upright, pattern, ops.transpose(pattern))
    index = ops.arange(pattern.shape[0], dtype="int32")
    row, column = ops.arange(x.shape[1], dtype="int32"), ops.arange(x.shape[2], dtype="int32")
    rows = ops.cast(row[:, None] - index == corner[:, :1, None], x.dtype)
    columns = ops.cast(column - index[:, None] == corner[:, 1:, None], x.dtype)
    return ops.matmul(ops.matmul(rows, turned), columns)[..., None]


def _halves(norm, size):
    power = 4 if norm == "L1" else 2
    pattern = np.concatenate([_pyramid(size // 2, size, power), -_pyramid(size - size // 2, size, power)])
    return (pattern / (np.linalg.norm(pattern) if norm == "L2" else np.abs(pattern).sum())).astype("float32")


def _pyramid(height, width, power):
    """Sum of nested squares, the k-th of height 1 / k^power, around the centre, scaled to norm 1."""
    if height == 0:
        return np.zeros((0, width))
    distance = np.maximum(
        np.abs(np.arange(height) - height // 2)[:, None], np.abs(np.arange(width) - width // 2)[None]
    )
    steps = 1.0 / np.arange(1, max(height, width) // 2 + 2) ** power
    pyramid = steps[::-1].cumsum()[::-1][distance]
    return pyramid / (np.linalg.norm(pyramid) if power == 2 else np.abs(pyramid).sum())


def _sum(values):
    return ops.sum(values, axis=(1, 2), keepdims=True)


def _mass(values, power):
    return ops.square(values) if power == 2 else ops.abs(values)


def _root(values, power):
    return ops.sqrt(values) if power == 2 else values
