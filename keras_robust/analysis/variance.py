"""How layers amplify variance: Var[w x] = w^2 Var[x], term by term, against what the whole layer does."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust.checks import Tensor, check_images, check_labels
from keras_robust.layers import Conv2D, WeightMap, averaged_weights
from keras_robust.models.rebuild import Graph, as_functional


@dataclasses.dataclass(frozen=True)
class LayerVariance:
    """Variance through one layer; each amplification is the mean variance of its outputs over that of its inputs.

    Args:
        layer: Name of the layer.
        amplification: Of the activations over the images, measured.
        predicted: The same if the inputs were uncorrelated, so that the terms w^2 Var[x] add up.
        noise_amplification: Of the change that noise makes, measured.
        noise_predicted: The same if that change were uncorrelated.
        importance: Spearman's rank correlation, over the elements of the input, of the sum of w^2 over all uses of
            the element with its importance, the mean of |x dlogit/dx| for the labelled class; None where either
            is constant or shortcuts pass by the layer.
    """

    layer: str
    amplification: float
    predicted: float
    noise_amplification: float
    noise_predicted: float
    importance: float | None


def variance_amplification(
    model: keras.Model, x: Tensor, y: Tensor, x_noisy: Tensor, *, batch_size: int = 100
) -> list[LayerVariance]:
    """Measures how every convolution and weight map amplifies the variance of activations and of noise.

    The weight map paper explains its robustness by Var[w x] = w^2 Var[x]: a map can give each element a variance
    of its own. For a single product the equation is exact. Whether it describes a layer depends on the
    correlations between the products that are summed, and whether it protects, on large weights being where the
    class is decided: both are measured here.

    A convolution that averages its kernel is measured with the average, as it applies it. Convolutions with groups
    or the channels first, layers that end in an activation of their own and those of nested models are left out.

    Args:
        model: Functional or sequential model that returns logits, in inference mode.
        x: Clean images, shape `(images, height, width, channels)`, in [0, 1].
        y: Integer labels, shape `(images,)`.
        x_noisy: The same images with noise; any pixels.
        batch_size: Images a pass.

    Returns:
        One record for each layer, in the model's order.

    Raises:
        ValueError: If images and labels do not pair up, or no layer of the model itself is a convolution or weight
            map that ends without an activation.

    Reference:
        Amer and Maul, 2019, https://arxiv.org/abs/1905.00568 (equation 5)
    """
    x = check_images(x)
    y = check_labels(y, len(x), model.output_shape[-1])
    x_noisy = np.asarray(ops.convert_to_numpy(x_noisy)).astype("float32")
    if x_noisy.shape != x.shape:
        raise ValueError(f"`x_noisy` must be the images of `x`. Received: shapes {x_noisy.shape} and {x.shape}.")
    layers = [each for each in model.layers if _is_linear(each)]
    if not layers:
        raise ValueError(
            "`model` must have convolutions or weight maps without an activation of their own, channels last and "
            f"outside of nested models. Received: model '{model.name}' with none. Put the activation into a layer "
            "after them."
        )
    sums = [_Moments() for _ in range(4 * len(layers))]
    graph = Graph(as_functional(model))
    run = _inputs_and_outputs(graph, layers)
    for start in range(0, len(x), batch_size):
        rows = slice(start, start + batch_size)
        clean, noisy = run(x[rows]), run(x_noisy[rows])
        values = [value for pair in zip(clean, noisy, strict=True) for value in (pair[0], pair[1] - pair[0])]
        for moments, value in zip(sums, values, strict=True):
            moments.add(value)
    found = []
    for position, layer in enumerate(layers):
        inputs, noise_in, outputs, noise_out = (each.variance() for each in sums[4 * position : 4 * position + 4])
        scale, noise_scale = inputs.mean(), noise_in.mean()
        found.append(
            LayerVariance(
                layer.name,
                float(outputs.mean() / scale),
                float(squared(layer, inputs).mean() / scale),
                float(noise_out.mean() / noise_scale),
                float(squared(layer, noise_in).mean() / noise_scale),
                _importance(graph, layer, x, y, batch_size),
            )
        )
    return found


def squared(layer: keras.layers.Layer, variance: np.ndarray) -> np.ndarray:
    """Applies a layer with the square of each coefficient: the variance of its outputs for uncorrelated inputs.

    Args:
        layer: Built `Conv2D` or `WeightMap` of the data format `channels_last`.
        variance: Variance of each element of its input, shape `(height, width, channels)`.

    Returns:
        Shape `(output height, output width, filters)`.
    """
    kernel = _squared_kernel(layer)
    if not isinstance(layer, WeightMap):
        arguments = (layer.strides, layer.padding, "channels_last", layer.dilation_rate)
        images, kernel = (ops.convert_to_tensor(each.astype("float32")) for each in (variance[None], kernel))
        return ops.convert_to_numpy(ops.conv(images, kernel, *arguments))[0]
    side, step = layer.kernel_size, layer.strides
    box = side**-2 if layer.normalize else 1.0
    product = np.einsum("hwi,hwio->hwo", variance, kernel)
    pads = layer.pads()
    padded = np.pad(product, [pads, pads, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (0, 1)).sum((-2, -1))
    total = box**2 * windows[::step, ::step]
    if layer.mode == "unsharp":  # the middle of the window has the coefficient 2 - box, not -box
        total = total + ((2 - box) ** 2 - box**2) * product[::step, ::step]
    return total


class _Moments:
    """Mean and variance of each element over images, gathered batch by batch."""

    def __init__(self):
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def add(self, value: np.ndarray) -> None:
        value = value.astype("float64")
        self.count += len(value)
        self.total, self.squares = self.total + value.sum(0), self.squares + np.square(value).sum(0)

    def variance(self) -> np.ndarray:
        return np.maximum(self.squares / self.count - np.square(self.total / self.count), 0.0)


def _is_linear(layer: keras.layers.Layer) -> bool:
    if isinstance(layer, WeightMap):
        return layer.data_format == "channels_last"
    plain = type(layer) in (keras.layers.Conv2D, Conv2D) and layer.groups == 1
    return plain and layer.data_format == "channels_last" and layer.activation is keras.activations.linear


def _squared_kernel(layer: Any) -> np.ndarray:
    """Square of each coefficient of the kernel as the layer applies it, that is averaged or not."""
    kernel = averaged_weights(layer)[0] if isinstance(layer, Conv2D) else ops.convert_to_numpy(layer.kernel)
    return np.square(np.asarray(kernel, "float64"))


def _values(model: keras.Model) -> tuple[list, list]:
    return [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]


def _inputs_and_outputs(graph: Graph, layers: list) -> Callable[[np.ndarray], list[np.ndarray]]:
    """A compiled function from images to the input and the output of each layer, one after the other."""
    wanted = [tensor for layer in layers for tensor in (graph.input(layer), graph.output(layer))]
    inner = keras.Model(graph.model.inputs, wanted)

    def call(images):
        outputs, _ = inner.stateless_call(*_values(inner), images, training=False)
        return outputs

    run = backend.jit(call)
    return lambda images: [ops.convert_to_numpy(each) for each in run(ops.convert_to_tensor(images))]


def _importance(graph: Graph, layer: Any, x: np.ndarray, y: np.ndarray, batch_size: int) -> float | None:
    from scipy.stats import spearmanr

    model, inputs = graph.model, graph.input(layer)
    try:
        features, head = keras.Model(model.inputs, inputs), keras.Model(inputs, model.outputs[0])
    except ValueError:
        return None  # a shortcut passes by the layer: the logits are no function of its input alone

    def call(images, labels):
        hidden, _ = features.stateless_call(*_values(features), images, training=False)

        def score(activations):
            logits, _ = head.stateless_call(*_values(head), activations, training=False)
            return ops.sum(logits * ops.one_hot(labels, logits.shape[-1], dtype=logits.dtype))

        _, gradient = backend.value_and_grad(score, hidden)
        return ops.sum(ops.abs(hidden * gradient), axis=0)

    run = backend.jit(call)
    total: Any = 0.0
    for start in range(0, len(x), batch_size):
        rows = slice(start, start + batch_size)
        total = total + ops.convert_to_numpy(run(ops.convert_to_tensor(x[rows]), ops.convert_to_tensor(y[rows])))
    kernel = _squared_kernel(layer)
    weight = (
        kernel.sum(-1) if isinstance(layer, WeightMap) else np.broadcast_to(kernel.sum((0, 1, 3)), total.shape)
    )
    if np.ptp(weight) == 0 or np.ptp(total) == 0:
        return None
    return float(spearmanr(weight.ravel(), np.asarray(total).ravel()).statistic)
