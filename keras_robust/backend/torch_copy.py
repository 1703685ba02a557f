"""The weights of a network of known layers in native PyTorch: the best case that a PyTorch tool could be given."""

import collections
from typing import Any

import keras
import numpy as np
import torch

from keras_robust.backend import full_precision
from keras_robust.layers import (
    KAP,
    Conv2D,
    Dense,
    GaussianNoise,
    Standardize,
    SubnetGate,
    WeightMap,
    averaged_weights,
)


def native_torch_copy(model: keras.Model) -> torch.nn.Module:
    """Rebuilds a network from PyTorch's own layers, without Keras in between.

    Parameters are frozen, and kernel average pooling after a convolution is folded into its kernel, so that a
    comparison with PyTorch tools is against their best case. The small nets and the residual ones of the zoo can
    be copied, without subnet gates; the copy takes images of shape `(batch, channels, height, width)`.

    Args:
        model: Functional or sequential model of known layers with the channels last; on any backend.

    Returns:
        Module in evaluation mode, on the CPU.

    Raises:
        ValueError: If a layer or an option of one is unknown.
    """
    uses: collections.Counter[int] = collections.Counter()
    graph = model._functional if isinstance(model, keras.Sequential) else model
    nodes = [
        node for depth in sorted(graph._nodes_by_depth, reverse=True) for node in graph._nodes_by_depth[depth]
    ]
    for node in nodes:
        uses.update(id(tensor) for tensor in node.input_tensors)
    chains: list[tuple[list[int], list[torch.nn.Module]]] = []  # the chains that each one adds, and its modules
    ends: dict[int, int] = {}  # the chain that each tensor is the last output of
    for node in nodes:
        sources = [ends[id(tensor)] for tensor in node.input_tensors]
        goes_on = len(sources) == 1 and uses[id(node.input_tensors[0])] == 1
        if not goes_on:
            chains.append((sources, []))
        here = sources[0] if goes_on else len(chains) - 1
        chains[here][1].extend(_copy(node.operation, chains[here][1]))
        ends[id(node.outputs[0])] = here
    network = _Chains(chains, ends[id(graph.outputs[0])]).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    _compare(network, model)
    return network


def _compare(network: torch.nn.Module, model: keras.Model) -> None:
    """Raises `ValueError` unless the copy gives the model's logits for an image of random pixels."""
    shape = [size or 32 for size in model.inputs[0].shape[1:]]
    image = np.random.default_rng(0).uniform(0, 1, (1, *shape)).astype("float32")
    with full_precision():
        expected = np.asarray(keras.ops.convert_to_numpy(model(image, training=False)))
    found = network(torch.tensor(image).permute(0, 3, 1, 2)).numpy()
    apart = np.abs(found - expected).max() if found.shape == expected.shape else np.inf
    if not apart <= _ROUNDING * max(1.0, np.abs(expected).max()):
        raise ValueError(
            f"The native copy of '{model.name}' must give the model's logits. "
            f"Received: logits that differ by {apart:.3g} for one image. {_INSTEAD}"
        )


_ROUNDING = 1e-3  # share of the largest logit: float32 in another order, through some fifty layers
_INSTEAD = "Use `keras_robust.backend.torch_module.as_torch_module`, which wraps any model."
# The only value that a copy has of options which change what a layer computes.
_OPTIONS: dict[type, dict[str, Any]] = {
    keras.layers.Conv2D: {"dilation_rate": (1, 1)},
    keras.layers.Dense: {"use_bias": True},
    keras.layers.BatchNormalization: {"scale": True, "center": True},
    keras.layers.ReLU: {"max_value": None, "negative_slope": 0.0, "threshold": 0.0},
    keras.layers.MaxPooling2D: {"padding": "valid"},
    keras.layers.GlobalAveragePooling2D: {"keepdims": False},
    WeightMap: {"strides": 1},
}


def _no_copy(layer: Any, **options: Any) -> ValueError:
    listed = "".join(f" with {name}={value!r}" for name, value in options.items())
    return ValueError(
        f"There is no native copy of layer '{layer.name}' of type {type(layer).__name__}{listed}. {_INSTEAD}"
    )


def _copy(layer: Any, before: list[torch.nn.Module]) -> list[torch.nn.Module]:
    for kind, options in _OPTIONS.items():
        for name, value in options.items():
            if isinstance(layer, kind) and getattr(layer, name) != value:
                raise _no_copy(layer, **{name: getattr(layer, name)})
    if isinstance(layer, Conv2D | Dense):
        arrays = averaged_weights(layer)
    else:
        arrays = [np.asarray(keras.ops.convert_to_numpy(weight.value)) for weight in layer.weights]
    weights = [torch.tensor(array) for array in arrays]
    if isinstance(layer, _IDENTITIES):
        return []
    if isinstance(layer, Standardize):
        return [_Affine(layer.mean, layer.std)]
    if isinstance(layer, keras.layers.ZeroPadding2D):
        (top, bottom), (left, right) = layer.padding
        return [torch.nn.ZeroPad2d((left, right, top, bottom))]
    if isinstance(layer, keras.layers.Conv2D):
        return [_convolution(layer, weights), *_activation(layer)]
    if isinstance(layer, KAP):
        return _fold(layer, before)
    if isinstance(layer, keras.layers.BatchNormalization):
        norm = torch.nn.BatchNorm2d(len(weights[0]), eps=layer.epsilon)
        gamma, beta, mean, variance = weights
        norm.load_state_dict(
            {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": variance}, strict=False
        )
        return [norm]
    if isinstance(layer, keras.layers.ReLU | keras.layers.Activation):
        return [torch.nn.ReLU()] if isinstance(layer, keras.layers.ReLU) else _activation(layer)
    if isinstance(layer, keras.layers.MaxPooling2D):
        return [torch.nn.MaxPool2d(layer.pool_size, layer.strides)]
    if isinstance(layer, keras.layers.GlobalAveragePooling2D):
        return [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    if isinstance(layer, keras.layers.Flatten):
        return [_FlattenLast()]
    if isinstance(layer, keras.layers.Dense):
        linear = torch.nn.Linear(*weights[0].shape)
        linear.load_state_dict({"weight": weights[0].T, "bias": weights[1]})
        return [linear, *_activation(layer)]
    if isinstance(layer, WeightMap):
        return [_WeightMap(layer, weights)]
    raise _no_copy(layer)


# An `Add` is the sum that its chain begins with.
_IDENTITIES = keras.layers.InputLayer | keras.layers.Dropout | keras.layers.Add | GaussianNoise | SubnetGate


def _activation(layer):
    if layer.activation is keras.activations.linear:
        return []
    if layer.activation is keras.activations.relu:
        return [torch.nn.ReLU()]
    raise ValueError(f"Layer '{layer.name}' has an activation other than ReLU. Received: {layer.activation!r}.")


def _convolution(layer, weights):
    same = layer.padding == "same"
    if same and set(layer.strides) != {1}:
        raise ValueError(f"Layer '{layer.name}' pads unevenly: padding='same' with strides {layer.strides}.")
    kernel = weights[0].permute(3, 2, 0, 1)
    module = torch.nn.Conv2d(
        kernel.shape[1] * layer.groups,
        kernel.shape[0],
        layer.kernel_size,
        stride=layer.strides,
        padding="same" if same else 0,
        groups=layer.groups,
        bias=layer.use_bias,
    )
    module.load_state_dict({"weight": kernel} | ({"bias": weights[1]} if layer.use_bias else {}))
    return module


def _fold(layer, before):
    """Replaces the convolution before the pooling by one that gives the pooled output."""
    if not before or not isinstance(before[-1], torch.nn.Conv2d):
        raise ValueError(f"Kernel pooling '{layer.name}' must follow a convolution to be folded into it.")
    convolution = before.pop()
    if convolution.groups != 1:
        raise _no_copy(layer, groups=convolution.groups)
    channels = convolution.out_channels
    pooled = layer(keras.ops.reshape(keras.ops.eye(channels), (1, 1, channels, channels)))
    mixing = torch.tensor(np.array(keras.ops.convert_to_numpy(pooled))[0, 0])  # (channels, pooled channels)
    module = torch.nn.Conv2d(
        convolution.in_channels,
        mixing.shape[1],
        convolution.kernel_size,
        stride=convolution.stride,
        padding=convolution.padding,
        bias=convolution.bias is not None,
    )
    state = {"weight": torch.einsum("oihw,op->pihw", convolution.weight.detach(), mixing)}
    if convolution.bias is not None:
        state["bias"] = convolution.bias.detach() @ mixing
    module.load_state_dict(state)
    return [module]


class _Chains(torch.nn.Module):
    """Chains of modules, each of which begins with the sum of others' outputs, or with the images."""

    def __init__(self, chains, last):
        super().__init__()
        self.sources, self.last = [sources for sources, _ in chains], last
        self.chains = torch.nn.ModuleList(torch.nn.Sequential(*modules) for _, modules in chains)

    def forward(self, x):
        outputs = []
        for sources, chain in zip(self.sources, self.chains, strict=True):
            first, *others = [outputs[source] for source in sources] or [x]
            outputs.append(chain(sum(others, first)))
        return outputs[self.last]


class _Affine(torch.nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])

    def forward(self, x):
        return (x - self.mean) / self.std


class _FlattenLast(torch.nn.Module):
    """Flattens as Keras does with the channels last."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


class _WeightMap(torch.nn.Module):
    def __init__(self, layer, weights):
        super().__init__()
        self.maps = torch.nn.Parameter(weights[0].permute(2, 3, 0, 1).contiguous())
        self.bias = torch.nn.Parameter(weights[1].permute(2, 0, 1).contiguous()) if layer.use_bias else None
        self.size, self.pads, self.unsharp = layer.kernel_size, layer.pads(), layer.mode == "unsharp"
        self.scale = 1.0 if layer.normalize else float(layer.kernel_size**2)

    def forward(self, x):
        product = torch.einsum("bihw,iohw->bohw", x, self.maps)
        padded = torch.nn.functional.pad(product, (*self.pads, *self.pads))
        smooth = torch.nn.functional.avg_pool2d(padded, self.size, 1) * self.scale
        outputs = 2 * product - smooth if self.unsharp else smooth
        return outputs if self.bias is None else outputs + self.bias
