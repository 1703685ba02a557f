"""What single kernels of a network see: their activations over an image."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_robust.checks import Tensor
from keras_robust.layers import KAP, KMP
from keras_robust.models.rebuild import Graph, as_functional


def kernel_maps(
    model: keras.Model, x: Tensor, *, layers: Sequence[str] | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Computes the activations of a random kernel of each layer.

    Args:
        model: Functional or sequential model, in inference mode.
        x: Images, shape `(images, height, width, channels)`; any pixels.
        layers: Names of layers with activations over an image; None takes every convolution and kernel pooling. A
            nested model counts as one layer, and is taken too.
        seed: Seed of the choice of the kernels, one a layer.

    Returns:
        For each layer, in the order of the model, activations of shape `(images, rows, columns)`.

    Raises:
        ValueError: If a layer is not there or has no activations over an image.

    Reference:
        Bashivan et al., 2022, https://arxiv.org/abs/2210.00062 (figure A2)
    """
    graph = Graph(as_functional(model))
    known = {layer.name: layer for layer in model.layers if len(graph.output(layer).shape) == 4}
    kinds = (keras.layers.Conv2D, KAP, KMP, keras.Model)
    chosen = (
        [name for name, layer in known.items() if isinstance(layer, kinds)] if layers is None else list(layers)
    )
    missing = [name for name in chosen if name not in known]
    if missing or not chosen:
        raise ValueError(
            f"`layers` must name layers of model '{model.name}' with activations over an image: "
            f"{', '.join(known)}. Received: {missing or chosen}."
        )
    inner = keras.Model(graph.model.inputs, [graph.output(known[name]) for name in chosen])
    outputs = keras.tree.flatten(inner.predict(np.asarray(x, "float32"), verbose=0))
    draw = np.random.default_rng(seed)
    maps = {}
    for name, found in zip(chosen, outputs, strict=True):
        axis = 1 if getattr(known[name], "data_format", "channels_last") == "channels_first" else 3
        maps[name] = np.take(found, int(draw.integers(found.shape[axis])), axis=axis)
    return maps


def kernel_maps_figure(maps: Mapping[str, Mapping[str, np.ndarray]], columns: Sequence[str]) -> Any:
    """Draws kernels' activations, a row for each layer and a block of columns for each model.

    Args:
        maps: By model, what `kernel_maps` returned for the same number of images.
        columns: What each image is.

    Returns:
        A matplotlib figure; the images of a layer share one scale in each model.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib. Install it with: pip install 'keras-robust[plots]'") from error
    rows = max(len(layers) for layers in maps.values())
    figure = Figure(figsize=(1.3 * len(columns) * len(maps), 0.6 + 1.4 * rows), layout="constrained")
    grid = figure.subplots(rows, len(columns) * len(maps), squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for block, (model, layers) in enumerate(maps.items()):
        for row, (layer, images) in enumerate(layers.items()):
            for column, (label, image) in enumerate(zip(columns, images, strict=True)):
                axes = grid[row, block * len(columns) + column]
                axes.imshow(image, vmin=images.min(), vmax=images.max(), cmap="viridis")
                axes.set_title(f"{model}\n{layer}, {label}" if column == 0 else label, fontsize=6)
    return figure
