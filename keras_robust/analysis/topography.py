"""How alike neighbouring kernels are on the sheet that kernel pooling lays them out on."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_robust.checks import check_positive_integer
from keras_robust.layers import KAP, KMP, channel_grid


@dataclasses.dataclass(frozen=True)
class Topography:
    """Correlation of kernels on a sheet.

    Args:
        neighbours: Mean Pearson correlation of pairs that touch along an axis of the grid.
        all_pairs: Mean over all pairs, what neighbours have by chance.
        p_value: Share of shuffled sheets, this one included, whose neighbours are at least as alike.
        pairs: Number of neighbouring pairs.
    """

    neighbours: float
    all_pairs: float
    p_value: float
    pairs: int


def first_kernels(model: keras.Model) -> tuple[np.ndarray, tuple[int, ...]]:
    """Returns the kernels of a model's first convolution and the grid that they lie on.

    The kernels are those that were trained, before any averaging: averages of overlapping windows are alike
    whatever the training.

    Args:
        model: Model with a `Conv2D`.

    Returns:
        Kernels, shape `(height, width, channels, filters)`, and the grid of the pooling that follows, or the
        default grid where none does.

    Raises:
        ValueError: If the model has no `Conv2D`.
    """
    found = list(model._flatten_layers(include_self=False))
    layer = next((each for each in found if isinstance(each, keras.layers.Conv2D)), None)
    if layer is None:
        raise ValueError(f"The model must have a Conv2D. Received: model '{model.name}' without one.")
    # What is behind the next layer of weights pools that one.
    after = itertools.takewhile(lambda each: not each.weights, found[found.index(layer) + 1 :])
    pool = getattr(layer, "averaging", None) or next((each for each in after if isinstance(each, KAP | KMP)), None)
    grid = channel_grid(layer.filters)
    if pool is not None:
        grid = pool.grid or channel_grid(layer.filters, pool.dims)
    return np.asarray(keras.ops.convert_to_numpy(layer.kernel)), grid


def topography(
    kernels: np.ndarray, grid: Sequence[int] | None = None, *, shuffles: int = 999, seed: int = 0
) -> Topography:
    """Compares the correlation of neighbouring kernels with that of any two.

    Args:
        kernels: Kernels, the filters last, shape `(..., filters)`.
        grid: Size of each axis of the sheet, row-major; None takes the nearly square one.
        shuffles: Random sheets for the p-value.
        seed: Seed of the shuffles.

    Returns:
        The correlations.

    Raises:
        ValueError: If the grid does not hold the kernels, or a kernel is constant.

    Reference:
        Bashivan et al., 2022, https://arxiv.org/abs/2210.00062 (figures 7 and A1)
    """
    check_positive_integer("shuffles", shuffles)
    filters = kernels.shape[-1]
    grid = channel_grid(filters) if grid is None else tuple(grid)
    if np.prod(grid) != filters or filters < 2:
        raise ValueError(
            "The sheet must hold all kernels, two or more. "
            f"Received: grid={grid} for {filters} kernels. Leave out `grid` for {channel_grid(filters)}."
        )
    rows = kernels.reshape(-1, filters).T.astype("float64")
    rows = rows - rows.mean(1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1)
    if not (norms > 0).all():
        raise ValueError(
            "Correlation needs kernels that vary. "
            f"Received: {int((norms == 0).sum())} constant kernels, the first at {int(np.argmin(norms))}."
        )
    correlation = (rows / norms[:, None]) @ (rows / norms[:, None]).T
    first, second = _neighbours(grid)
    observed = correlation[first, second].mean()
    draw = np.random.default_rng(seed)
    shuffled = (draw.permutation(filters) for _ in range(shuffles))
    as_high = sum(correlation[order[first], order[second]].mean() >= observed - 1e-12 for order in shuffled)
    pairs = np.triu_indices(filters, 1)
    return Topography(
        float(observed), float(correlation[pairs].mean()), (int(as_high) + 1) / (shuffles + 1), len(first)
    )


def topography_figure(sheets: Mapping[str, tuple[np.ndarray, Sequence[int]]]) -> Any:
    """Draws first-layer kernels on their sheets, one panel a model.

    Args:
        sheets: For each name, kernels of shape `(height, width, channels, filters)` and a grid of two axes, as
            `first_kernels` gives. Three channels are colours; of other numbers the mean is drawn.

    Returns:
        A matplotlib figure; each panel has one scale, and its title the correlations.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If a grid does not have two axes.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib. Install it with: pip install 'keras-robust[plots]'") from error
    figure = Figure(figsize=(4 * len(sheets), 4.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(sheets)))
    for axes, (name, (kernels, grid)) in zip(panels, sheets.items(), strict=True):
        found = topography(kernels, grid)
        axes.imshow(_mosaic(kernels, grid), cmap="gray", interpolation="nearest")
        axes.set_title(f"{name}\nneighbours {found.neighbours:.2f}, all pairs {found.all_pairs:.2f}")
        axes.set_axis_off()
    return figure


def _neighbours(grid: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the pairs that touch along an axis."""
    places = np.arange(np.prod(grid)).reshape(grid)
    pairs = [
        (np.delete(places, -1, axis).ravel(), np.delete(places, 0, axis).ravel()) for axis in range(len(grid))
    ]
    return np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])


def _mosaic(kernels: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """Kernels side by side with a white line between them, in [0, 1], shape `(height, width, 3)`."""
    if len(grid) != 2:
        raise ValueError(f"A sheet to draw has two axes. Received: grid={tuple(grid)}.")
    if kernels.shape[2] != 3:
        kernels = np.repeat(kernels.mean(2, keepdims=True), 3, axis=2)
    height, width = kernels.shape[:2]
    scaled = 0.5 + kernels / (2 * np.abs(kernels).max())
    tiles = np.ones((grid[0], height + 1, grid[1], width + 1, 3))
    tiles[:, :height, :, :width] = scaled.reshape(height, width, 3, *grid).transpose(3, 0, 4, 1, 2)
    return tiles.reshape(grid[0] * (height + 1), grid[1] * (width + 1), 3)[:-1, :-1]
