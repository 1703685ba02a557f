"""Which parts of an image speak for a class: gradient-weighted class activation maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust.checks import Tensor, check_images, check_labels, check_logits
from keras_robust.models.rebuild import Graph, as_functional


def grad_cam(
    model: keras.Model,
    x: Tensor,
    classes: Tensor | None = None,
    *,
    layer: str | None = None,
    batch_size: int = 100,
) -> np.ndarray:
    """Weights the channels of a layer by the mean gradient of a class's logit, and keeps what speaks for it.

    Args:
        model: Functional or sequential model that returns logits.
        x: Images, shape `(images, height, width, channels)`, in [0, 1].
        classes: Integer class of each image, shape `(images,)`; None takes the predicted one.
        layer: Name of a layer with outputs of shape `(batch, height, width, channels)` that all of the network's
            paths run through. None takes the last one of more than a single pixel. A nested model counts as one
            layer.
        batch_size: Images a pass.

    Returns:
        Maps of the images' size, shape `(images, height, width)`, each divided by its maximum, in [0, 1]; zero
        where nothing speaks for the class.

    Raises:
        ValueError: If the images or classes are out of range, or the layer is not fit.

    Reference:
        Selvaraju et al., 2017, https://arxiv.org/abs/1610.02391 (equations 1 and 2)
    """
    x = check_images(x)
    features, head = _split(model, layer)

    def call(images, wanted):
        maps, _ = features.stateless_call(*_values(features), images, training=False)

        def score(hidden):
            logits, _ = head.stateless_call(*_values(head), hidden, training=False)
            chosen = ops.where(wanted < 0, ops.cast(ops.argmax(logits, -1), "int32"), wanted)
            return ops.sum(logits * ops.one_hot(chosen, logits.shape[-1], dtype=logits.dtype)), logits

        (_, logits), gradient = backend.value_and_grad(score, maps, True)
        weights = ops.mean(gradient, axis=(1, 2), keepdims=True)
        heat = ops.relu(ops.sum(weights * maps, axis=-1, keepdims=True))
        return ops.image.resize(heat, x.shape[1:3], data_format="channels_last")[..., 0], logits

    run = backend.jit(call)
    wanted = (
        np.full(len(x), -1, "int32") if classes is None else check_labels(classes, len(x), model.output_shape[-1])
    )
    found = []
    for start in range(0, len(x), batch_size):
        rows = slice(start, start + batch_size)
        heat, logits = run(ops.convert_to_tensor(x[rows]), ops.convert_to_tensor(wanted[rows]))
        check_logits(logits)
        found.append(ops.convert_to_numpy(heat))
    heat = np.concatenate(found)
    highest = heat.max((1, 2), keepdims=True)
    return heat / np.where(highest > 0, highest, 1.0)


def share_on(maps: np.ndarray, mask: np.ndarray) -> float:
    """Returns the share of the maps' weight that lies on chosen pixels, the mean over images with any weight.

    Args:
        maps: Maps as `grad_cam` returns them, shape `(images, height, width)`.
        mask: The pixels, booleans of that shape.
    """
    total = maps.sum((1, 2))
    return float(((maps * mask).sum((1, 2))[total > 0] / total[total > 0]).mean())


def grad_cam_figure(x: Tensor, maps: Mapping[str, np.ndarray], titles: Sequence[str] | None = None) -> Any:
    """Draws images beside the maps of several models, one row an image.

    Args:
        x: Images, shape `(images, height, width, channels)`, in [0, 1].
        maps: Maps of each model, by its name, shape `(images, height, width)`.
        titles: Text beside each image; None for none.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib. Install it with: pip install 'keras-robust[plots]'") from error
    x = check_images(x)
    figure = Figure(figsize=(1.8 * (1 + len(maps)), 1.8 * len(x)), layout="constrained")
    panels = figure.subplots(len(x), 1 + len(maps), squeeze=False)
    for row, image in enumerate(x):
        shown = image[..., 0] if image.shape[-1] == 1 else image
        for column, name in enumerate(("image", *maps)):
            axes = panels[row, column]
            axes.imshow(shown, cmap="gray", vmin=0, vmax=1)
            if column:
                axes.imshow(maps[name][row], cmap="jet", alpha=0.5, vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[], title=name if row == 0 else "")
        if titles is not None:
            panels[row, 0].set_ylabel(titles[row])
    return figure


def _values(model: keras.Model) -> tuple[list, list]:
    return [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]


def _split(model: keras.Model, name: str | None) -> tuple[keras.Model, keras.Model]:
    """The network up to a layer's outputs, and from there to the logits."""
    graph = Graph(as_functional(model))
    outputs = {each.name: graph.output(each) for each in model.layers}
    spatial = {each: output for each, output in outputs.items() if len(output.shape) == 4}
    # The map of a single pixel, as global pooling leaves it, says nothing about where.
    wide = [each for each, output in spatial.items() if tuple(output.shape[1:3]) != (1, 1)] or list(spatial)
    if name is None and wide:
        name = wide[-1]
    if name not in spatial:
        raise ValueError(
            "`layer` must name a layer with outputs of shape (batch, height, width, channels): "
            f"{', '.join(spatial) or 'this model has none'}. Received: layer={name!r}."
        )
    hidden = spatial[name]
    try:
        return keras.Model(graph.model.inputs, hidden), keras.Model(hidden, graph.model.outputs[0])
    except ValueError as error:
        raise ValueError(
            "All paths of the network must run through `layer`. "
            f"Received: layer={name!r}, which a shortcut passes by. Name a layer after their sum, or leave out "
            f"`layer` for {wide[-1]!r}."
        ) from error
