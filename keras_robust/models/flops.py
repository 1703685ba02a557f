"""Floating point operations of a model's convolutions and weight maps."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers

from keras_robust.layers import WeightMap
from keras_robust.models.rebuild import Graph, as_functional


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations for one image; a multiplication and an addition are two.

    Args:
        convolutions: Of the convolutions.
        dense_layers: Of the dense layers, which the weight map paper does not count.
        weight_maps: Of the weight maps as the paper counts: each map of a pair of channels is convolved with a
            box of ones, multiplications included; the products themselves count in unsharp maps only.
        weight_maps_factored: Of the weight maps as `WeightMap` computes: products, their sum over the input
            channels, then one box filter an output channel by additions along one axis after the other.
    """

    convolutions: int = 0
    dense_layers: int = 0
    weight_maps: int = 0
    weight_maps_factored: int = 0

    @property
    def paper(self) -> int:
        """Convolutions and weight maps as the weight map paper counts them; divided by 1e9, its GFLOPs."""
        return self.convolutions + self.weight_maps

    @property
    def factored(self) -> int:
        """Convolutions and weight maps as this package computes them."""
        return self.convolutions + self.weight_maps_factored


def flops(model: keras.Model) -> Flops:
    """Counts the operations of a model for one image.

    Biases, activations, normalisation and pooling are not counted. The paper gives no rule: this reading agrees
    with the GFLOPs of its table 4 to the printed digits, but for the convolutions with kernel 9 (0.125 there,
    0.1259 here: cut off, not rounded).

    Args:
        model: Functional or sequential model, nested ones included, of known image size.

    Returns:
        The counts.

    Raises:
        ValueError: If the graph or the image size is not known.

    Reference:
        Amer and Maul, 2019, https://arxiv.org/abs/1905.00568 (table 4)
    """
    counts = dict.fromkeys((field.name for field in dataclasses.fields(Flops)), 0)
    for layer, inputs, outputs in _calls(model):
        if not isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D | layers.Dense | WeightMap):
            continue
        if None in (*inputs[1:], *outputs[1:]):
            raise ValueError(
                f"Counting needs a known image size. Received: layer '{layer.name}' with inputs of shape "
                f"{inputs}. Build the model with the height and width of its images."
            )
        if isinstance(layer, layers.Dense):
            counts["dense_layers"] += 2 * inputs[-1] * math.prod(outputs[1:])
        elif isinstance(layer, layers.DepthwiseConv2D):
            counts["convolutions"] += 2 * math.prod(layer.kernel_size) * math.prod(outputs[1:])
        elif isinstance(layer, layers.Conv2D):
            channels = inputs[1 if layer.data_format == "channels_first" else -1] // layer.groups
            counts["convolutions"] += 2 * math.prod(layer.kernel_size) * channels * math.prod(outputs[1:])
        else:
            counts["weight_maps"] += _paper(layer, outputs)
            counts["weight_maps_factored"] += _factored(layer, outputs)
    return Flops(**counts)


def _calls(model: keras.Model) -> Iterator[tuple[Any, tuple, tuple]]:
    """Yields a layer and the shapes of its first input and output for each time that it runs; nested ones too."""
    graph = Graph(as_functional(model))
    for operation in graph.model.operations:
        for inputs, outputs in graph.shapes(operation):
            if isinstance(operation, keras.Model):
                yield from _calls(operation)
            else:
                yield operation, inputs, outputs


def _paper(layer: WeightMap, outputs: tuple) -> int:
    height, width, channels, filters = layer.kernel.shape
    box = 2 * layer.kernel_size**2 * channels * math.prod(outputs[1:])
    return box + (height * width * channels * filters if layer.mode == "unsharp" else 0)


def _factored(layer: WeightMap, outputs: tuple) -> int:
    height, width, channels, filters = layer.kernel.shape
    spare = sum(layer.pads())
    rows, columns = height + spare - layer.kernel_size + 1, width + spare - layer.kernel_size + 1
    # Sums of doubling width, added up by the binary digits of the kernel size.
    additions = layer.kernel_size.bit_length() + layer.kernel_size.bit_count() - 2
    box = additions * rows * (width + spare) * filters + additions * rows * columns * filters
    return (
        2 * height * width * channels * filters
        + box
        + (2 * math.prod(outputs[1:]) if layer.mode == "unsharp" else 0)
    )
