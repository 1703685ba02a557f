"""Kernel pooling, noise and weight maps put into models that exist; kernel pooling folded away."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_robust.layers import KAP, KMP, Conv2D, Dense, GaussianNoise, averaged_weights
from keras_robust.layers.kernel_average_pooling import channel_axis
from keras_robust.models.rebuild import Edit, Graph, as_functional, layers_of, rebuild

Where = Sequence[str] | Callable[[layers.Layer], bool] | None
"""Which layers: their names, a function of a layer, or None for the default."""

_AVERAGED: dict[type, Any] = {layers.Conv2D: Conv2D, Conv2D: Conv2D, layers.Dense: Dense, Dense: Dense}
_PLAIN: dict[type, Any] = {Conv2D: layers.Conv2D, Dense: layers.Dense}
_FOLDABLE = (layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Dense, Conv2D, Dense)
_ENDS_IN_ACTIVATION = (
    *_FOLDABLE,
    layers.EinsumDense,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)


def insert_kap(
    model: keras.Model,
    *,
    pool_size: int = 3,
    dims: int = 2,
    grid: Sequence[int] | None = None,
    where: Where = None,
) -> keras.Model:
    """Puts kernel average pooling into a model, with its weights kept.

    In a convolution or dense layer the kernel is averaged, which costs next to nothing; any other layer is
    followed by a `KAP`. Either way the average comes before the layer's own activation.

    Args:
        model: Functional or sequential model, nested ones included; it stays as it is.
        pool_size: Side of the window on the channel grid.
        dims: Axes of the grid, 1, 2 or 3.
        grid: Size of each axis of the grid, the same for all layers; None takes the default of each.
        where: Names of layers or a function of a layer, such as the projections of an attention block. None takes
            every `Conv2D`.

    Returns:
        Functional model of the same inputs and outputs. Weights trained without pooling want fine-tuning.

    Raises:
        ValueError: If no layer is chosen, a name is unknown, a layer pools already, or the graph is not known.

    Reference:
        Bashivan et al., 2022, https://arxiv.org/abs/2210.00062 (sections 3.2 and 4.1)
    """
    edits = {}
    for layer, _ in _chosen(model, where, lambda layer: type(layer) in (layers.Conv2D, Conv2D)):
        options = {"data_format": _data_format(layer), "name": f"{layer.name}_kap", "dtype": _policy(layer)}
        kap = KAP(pool_size, 1, "centered", dims, grid, **options)
        if getattr(layer, "averaging", None) is not None:
            raise ValueError(
                f"A layer must not be pooled twice. Received: layer '{layer.name}', which averages its kernel. "
                "Leave it out of `where`."
            )
        if type(layer) in _AVERAGED and getattr(layer, "groups", 1) == 1:
            edits[id(layer)] = Edit(_averaged(layer, kap))
        else:
            edits[id(layer)] = _before_activation(layer, kap)
    return rebuild(model, edits)


def insert_noise(
    model: keras.Model,
    sigma: float,
    *,
    inputs: bool = True,
    where: Where = None,
    seed: int | None = None,
) -> keras.Model:
    """Puts Gaussian noise on the input and after layers of a model, with its weights kept.

    Noise acts in training only, unless `noise_at_inference` switches it on. It comes before a layer's own
    activation.

    Args:
        model: Functional or sequential model, nested ones included; it stays as it is.
        sigma: Standard deviation, in units of the input (pixels: of [0, 1]) and of the activations alike.
        inputs: Whether the input gets noise.
        where: Names of layers or a function of a layer. None takes every layer that pools kernels; in a model
            without any, every `Conv2D`.
        seed: Integer seed of the noise; None draws one.

    Returns:
        Functional model of the same inputs and outputs.

    Raises:
        ValueError: If `sigma` is out of range, no layer is chosen, a name is unknown, the model has several
            inputs, or the graph is not known.

    Reference:
        Bashivan et al., 2022, https://arxiv.org/abs/2210.00062 (section 4.1)
    """
    draw = np.random.default_rng(seed)

    def noise(role, name, beside):
        drawn = None if seed is None else int(draw.integers(2**31 - 1))
        return GaussianNoise(sigma, role=role, seed=drawn, name=name, dtype=_policy(beside))

    on_input = noise("input", "input_noise", model) if inputs else None
    count = len(as_functional(model).inputs)
    if inputs and count != 1:
        raise ValueError(f"Input noise needs a model of one input. Received: {count} inputs. Use inputs=False.")
    if where is None and any(_pools(layer) for layer, _ in layers_of(model)):
        where = _pools
    edits = {
        id(layer): _before_activation(layer, noise("activation", f"{layer.name}_noise", layer))
        for layer, _ in _chosen(model, where, lambda layer: type(layer) in (layers.Conv2D, Conv2D))
    }
    return rebuild(model, edits, on_input)


def replace_convolutions(
    model: keras.Model,
    with_: Callable[..., layers.Layer],
    *,
    alternate: bool = False,
    where: Where = None,
) -> keras.Model:
    """Replaces convolutions, such as by weight maps; all other layers keep their weights.

    `1 x 1` convolutions stay. Symmetric zero padding before a replaced convolution of that size goes into the new
    layer, as `padding="same"`.

    Args:
        model: Functional or sequential model, nested ones included; it stays as it is.
        with_: Called as `with_(filters=, kernel_size=, strides=, padding=, use_bias=, data_format=, name=)`, as
            `WeightMap` and `functools.partial(WeightMap, mode="unsharp")` can be.
        alternate: Whether every second convolution stays: the first is kept, the second replaced, and so on.
        where: Names of layers or a function of a layer. None takes every `Conv2D` with a square kernel, equal
            strides, no groups and no dilation.

    Returns:
        Functional model of the same inputs and outputs; the new layers start from their own initial weights.

    Raises:
        ValueError: If no convolution is chosen, a name is unknown, a layer cannot take the place of one, or the
            graph is not known.

    Reference:
        Amer and Maul, 2019, https://arxiv.org/abs/1905.00568 (section 4.2)
    """
    edits = {}
    chosen = _chosen(model, where, _replaceable)
    for layer, graph in chosen[1::2] if alternate else chosen:
        if not _replaceable(layer):
            raise ValueError(
                "What is replaced must be a convolution with a square kernel above 1 x 1, equal strides, no "
                f"groups, no dilation and no averaging. Received: layer '{layer.name}'. Leave it out of `where`."
            )
        (side, _), source = layer.kernel_size, graph.only_source(layer)
        around = isinstance(source, layers.ZeroPadding2D) and source.padding == (((side - 1) // 2,) * 2,) * 2
        padded = around and layer.padding == "valid" and side % 2 == 1
        if padded:
            edits[id(source)] = Edit(None)
        try:
            new = with_(
                filters=layer.filters,
                kernel_size=side,
                strides=layer.strides[0],
                padding="same" if padded else layer.padding,
                use_bias=layer.use_bias,
                data_format=layer.data_format,
                name=layer.name,
            )
        except ValueError as error:
            raise ValueError(f"Layer '{layer.name}' cannot be replaced: {error}") from error
        edits[id(layer)] = Edit(new, _activation(layer), weights=None)
    return rebuild(model, edits)


def fold_kap(model: keras.Model) -> keras.Model:
    """Turns averaged kernels into plain layers with the averages as weights, for inference.

    A `KAP` layer that directly follows a convolution, a dense layer, an `EinsumDense` or a `MultiHeadAttention`,
    whose output projection it is folded into, goes too. Any other stays: after an activation, a normalisation or a
    quantized layer.

    Args:
        model: Functional or sequential model, nested ones included; it stays as it is.

    Returns:
        Functional model of equal outputs. Training it would train the averages, without the pooling.

    Raises:
        ValueError: If the graph is not known.

    Reference:
        Bashivan et al., 2022, https://arxiv.org/abs/2210.00062 (equation 3)
    """
    edits: dict[int, Edit] = {}
    for layer, graph in layers_of(model):
        if type(layer) in _PLAIN:
            edits.setdefault(id(layer), _plain(layer, averaged_weights(layer)))
        if isinstance(layer, KAP) and _can_fold(source := graph.only_source(layer), layer, graph):
            edits[id(source)] = _averages(source, layer)
            edits[id(layer)] = Edit(None)
    return rebuild(model, edits)


def _averaged(layer: layers.Layer, kap: KAP) -> layers.Layer:
    """The layer with its kernel averaged."""
    config = {**layer.get_config(), "averaging": keras.saving.serialize_keras_object(kap)}
    return _AVERAGED[type(layer)].from_config(config)


def _can_fold(source: Any, kap: KAP, graph: Graph) -> bool:
    """Tells whether pooling the output of `source` is pooling its kernel."""
    if type(source) in (layers.EinsumDense, layers.MultiHeadAttention):
        if kap.strides != 1 or kap.padding != "centered":
            return False  # another number of channels would be another layer
        projection = _projection(source)
        if projection.activation is not keras.activations.linear or projection.quantization_mode is not None:
            return False
        if projection.lora_enabled:
            return False
        # The channels must be the last axis of kernel, bias and output.
        operands, outputs = projection.equation.split("->")
        bias = projection.bias is None or projection.bias.shape[-1] == projection.kernel.shape[-1]
        channels = outputs[-1] == operands[-1] and outputs[-1] not in operands.split(",")[0]
        return bias and channels and kap.data_format == "channels_last"
    if type(source) not in _FOLDABLE or source.activation is not keras.activations.linear:
        return False
    if getattr(source, "averaging", None) is not None or getattr(source, "groups", 1) != 1:
        return False
    if source.quantization_mode is not None:
        return False
    rank = len(graph.shapes(source)[0][1])
    return channel_axis(kap.data_format, rank) == channel_axis(_data_format(source), rank)


def _projection(layer: layers.Layer) -> layers.EinsumDense:
    """The projection that makes the outputs of the layer."""
    return layer.output_dense if isinstance(layer, layers.MultiHeadAttention) else layer


def _averages(source: layers.Layer, kap: KAP) -> Edit:
    """Edit to the layer whose kernel and bias are the averages of the source's."""
    inner = type(source) in (layers.EinsumDense, layers.MultiHeadAttention)
    maker = _projection(source) if inner else source
    own = [variable for variable in (maker.kernel, maker.bias) if variable is not None]
    found = {id(v): np.asarray(ops.convert_to_numpy(kap.average(ops.convert_to_tensor(v)))) for v in own}
    if not inner:
        return _plain(source, list(found.values()))
    copy = type(source).from_config(source.get_config())
    return Edit(copy, weights=[found.get(id(v), ops.convert_to_numpy(v)) for v in source.weights])


def _plain(layer: layers.Layer, weights: list[np.ndarray]) -> Edit:
    """Edit to Keras's own layer with these weights."""
    config = {name: value for name, value in layer.get_config().items() if name not in _NOT_PLAIN}
    config["units" if "units" in config else "filters"] = weights[0].shape[-1]
    return Edit(_PLAIN.get(type(layer), type(layer)).from_config(config), weights=weights)


_NOT_PLAIN = ("averaging", "lora_rank", "lora_alpha")


def _before_activation(layer: layers.Layer, inserted: layers.Layer) -> Edit:
    """Edit that puts a layer after another one, but before the activation that this one ends in."""
    activation = _activation(layer)
    config = layer.get_config()
    copy = type(layer).from_config({**config, "activation": None} if activation else config)
    return Edit(copy, [inserted, *activation])


def _activation(layer: layers.Layer) -> list[layers.Layer]:
    """The activation that a layer ends in, as a layer of its own."""
    if not isinstance(layer, _ENDS_IN_ACTIVATION) or layer.activation is keras.activations.linear:
        return []
    return [layers.Activation(layer.activation, name=f"{layer.name}_activation", dtype=_policy(layer))]


def _policy(layer: layers.Layer) -> Any:
    """The precision of a layer, whatever Keras itself is set to; what is put beside it is not quantized."""
    policy = layer.dtype_policy
    return policy.name.partition("_from_")[2] if policy.quantization_mode else policy


def _pools(layer: layers.Layer) -> bool:
    return isinstance(layer, KAP | KMP) or getattr(layer, "averaging", None) is not None


def _replaceable(layer: layers.Layer) -> bool:
    if type(layer) not in (layers.Conv2D, Conv2D) or getattr(layer, "averaging", None) is not None:
        return False
    square = len(set(layer.kernel_size)) == len(set(layer.strides)) == 1
    return square and layer.kernel_size[0] > 1 and layer.groups == 1 and set(layer.dilation_rate) == {1}


def _data_format(layer: layers.Layer) -> str:
    return getattr(layer, "data_format", "channels_last")


def _chosen(model: keras.Model, where: Where, default: Callable[[layers.Layer], bool]) -> list:
    """Returns the chosen layers and their graphs, in the order of the computation."""
    found = list(layers_of(model))
    if where is not None and not callable(where):
        names = [layer.name for layer, _ in found]
        for name in where:
            close = difflib.get_close_matches(name, names, 1)
            if name not in names:
                raise ValueError(
                    "`where` must name layers of the model, or be a function of a layer. "
                    f"Received: {name!r}, which model '{model.name}' does not have."
                    + (f" Did you mean {close[0]!r}?" if close else "")
                )
        chosen = [(layer, graph) for layer, graph in found if layer.name in where]
    else:
        chosen = [(layer, graph) for layer, graph in found if (where or default)(layer)]
    if not chosen:
        raise ValueError(
            f"`where` must choose at least one layer. Received: none of the {len(found)} layers of model "
            f"'{model.name}'. Give names, or a function that returns True for some."
        )
    return chosen
