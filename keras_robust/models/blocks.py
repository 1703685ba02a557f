"""Pieces that the builders share: layers that start and pad as the papers' PyTorch code does."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_robust.checks import check_choice
from keras_robust.layers import KAP, KMP, BatchNormalization, Conv2D, GaussianNoise, WeightMap

# Builders take pixels with the channels last, whatever Keras's configuration says.
DATA_FORMAT = "channels_last"
POOLINGS = (None, "kap", "kmp")
CONVOLUTIONS = ("conv", "smoothing", "unsharp")
ACTIVATIONS = ("relu", "softplus")


class Seeds:
    """Deals out one seed after the other; None for ever where the model's seed is None.

    Args:
        seed: Seed of the whole model.
    """

    def __init__(self, seed: int | None):
        self._rng = None if seed is None else np.random.default_rng(seed)

    def next(self) -> int | None:
        """Returns the next seed."""
        return None if self._rng is None else int(self._rng.integers(2**31 - 1))


def initializers(fan_in: int, seeds: Seeds, use_bias: bool = True) -> dict[str, Any]:
    """Returns the initialisers of a layer: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for kernel and bias.

    Args:
        fan_in: Inputs that reach one output.
        seeds: Where the seeds come from.
        use_bias: Whether the layer has a bias.

    Returns:
        Keyword arguments of the layer.
    """
    bound = fan_in**-0.5
    chosen = {"kernel_initializer": keras.initializers.RandomUniform(-bound, bound, seed=seeds.next())}
    if use_bias:
        chosen["bias_initializer"] = keras.initializers.RandomUniform(-bound, bound, seed=seeds.next())
    return chosen


def conv(
    x: keras.KerasTensor,
    filters: int,
    kernel_size: int,
    *,
    strides: int = 1,
    padding: int = 0,
    groups: int = 1,
    use_bias: bool = True,
    averaging: KAP | None = None,
    seeds: Seeds,
    name: str,
) -> keras.KerasTensor:
    """Convolves after padding with zeros on all sides alike.

    Args:
        x: Symbolic activations, shape `(batch, height, width, channels)`.
        filters: Output channels.
        kernel_size: Side of the kernel.
        strides: Step of the kernel.
        padding: Rows and columns of zeros on each side.
        groups: Parts that input and output channels are cut into; each output sees one part of the input.
        use_bias: Whether to add a bias.
        averaging: Kernel average pooling of the output, computed on the kernel; None for none.
        seeds: Where the seeds of the initial weights come from.
        name: Name of the layer.

    Returns:
        Symbolic activations, shape `(batch, output height, output width, output channels)`.
    """
    # Symmetric padding: "same" with strides of 2 pads only at the end, unlike the PyTorch reference.
    same = strides == 1 and 2 * padding == kernel_size - 1
    if padding and not same:
        x = layers.ZeroPadding2D(padding, data_format=DATA_FORMAT, name=f"{name}_pad")(x)
    layer = layers.Conv2D if averaging is None else functools.partial(Conv2D, averaging=averaging)
    return layer(
        filters,
        kernel_size,
        strides=strides,
        padding="same" if same else "valid",
        data_format=DATA_FORMAT,
        groups=groups,
        use_bias=use_bias,
        name=name,
        **initializers(x.shape[-1] // groups * kernel_size**2, seeds, use_bias),
    )(x)


def conv_or_map(
    x: keras.KerasTensor,
    kind: str,
    filters: int,
    kernel_size: int,
    *,
    strides: int = 1,
    padding: int = 0,
    seeds: Seeds,
    name: str,
) -> keras.KerasTensor:
    """Applies a convolution, or a weight map in its place.

    Args:
        x: Symbolic activations, shape `(batch, height, width, channels)`.
        kind: `"conv"`, or the mode of a weight map: `"smoothing"` or `"unsharp"`, which always pads to the size of
            its input.
        filters: Output channels.
        kernel_size: Side of the kernel or the box filter.
        strides: Step of the kernel or the box filter.
        padding: Rows and columns of zeros on each side; those of a map lie around its products.
        seeds: Where the seeds of the initial weights come from.
        name: Name of the layer.

    Returns:
        Symbolic activations, shape `(batch, output height, output width, filters)`.
    """
    check_choice("kind", kind, CONVOLUTIONS)
    if kind == "conv":
        return conv(x, filters, kernel_size, strides=strides, padding=padding, seeds=seeds, name=name)
    around = padding if kind == "smoothing" else "same"
    seed = seeds.next()
    layer = WeightMap(filters, kernel_size, strides, kind, around, data_format=DATA_FORMAT, seed=seed, name=name)
    return layer(x)


def alternating(layer: str, alternate: bool) -> Iterator[str]:
    """Deals out the kinds of a network's convolutions, in order: all replaced, or every second one.

    Args:
        layer: `"conv"`, `"smoothing"` or `"unsharp"`.
        alternate: Whether the first stays a convolution, the second is replaced, and so on.

    Returns:
        Endless kinds for `conv_or_map`.

    Raises:
        ValueError: If the kind is unknown, or convolutions are to alternate with convolutions.
    """
    check_choice("layer", layer, CONVOLUTIONS)
    if alternate and layer == "conv":
        raise ValueError(
            "`alternate` replaces every second convolution by a weight map. Received: alternate=True with "
            "layer='conv'. Use layer='smoothing' or layer='unsharp'."
        )
    return itertools.cycle(("conv", layer)) if alternate else itertools.repeat(layer)


def batch_norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Normalises with PyTorch's constants: epsilon 1e-5, moving averages that keep 0.9."""
    return BatchNormalization(axis=-1, epsilon=1e-5, momentum=0.9, name=name)(x)


def activate(
    x: keras.KerasTensor, activation: str = "relu", *, name: str, number: int | str = ""
) -> keras.KerasTensor:
    """Applies the activation between two layers.

    Args:
        x: Symbolic activations.
        activation: `"relu"`, or `"softplus"`, log(1 + exp(x)), which has a gradient everywhere.
        name: Prefix of the layer's name.
        number: Suffix of the layer's name, where a block has several.

    Returns:
        Symbolic tensor of the shape of `x`.

    Raises:
        ValueError: If the activation is unknown.
    """
    check_choice("activation", activation, ACTIVATIONS)
    name = f"{name}_{activation}{number}"
    return layers.ReLU(name=name)(x) if activation == "relu" else layers.Activation(activation, name=name)(x)


def dense(
    x: keras.KerasTensor, units: int, *, seeds: Seeds, name: str, activation: str | None = None
) -> keras.KerasTensor:
    """Applies a dense layer that starts as PyTorch's does."""
    chosen = initializers(x.shape[-1], seeds)
    return layers.Dense(units, activation=activation, name=name, **chosen)(x)


def pooled_conv(
    x: keras.KerasTensor,
    filters: int,
    kernel_size: int,
    *,
    pooling: str | None,
    pool_size: int = 3,
    pool_strides: int = 1,
    pool_padding: str = "centered",
    name: str,
    **options: Any,
) -> keras.KerasTensor:
    """Convolves and pools over the channel grid; averages are taken of the kernel, which costs next to nothing.

    Args:
        x: Symbolic activations, shape `(batch, height, width, channels)`.
        filters: Kernels of the convolution.
        kernel_size: Side of the kernel.
        pooling: None for no pooling, `"kap"` or `"kmp"`.
        pool_size: Side of the pooling window on the channel grid.
        pool_strides: Step of that window; `"kmp"` takes 1 only.
        pool_padding: `"centered"` or `"valid"`; `"kmp"` takes `"centered"` only.
        name: Name of the convolution, and prefix of the pooling's.
        **options: Further arguments of `conv`.

    Returns:
        Symbolic activations, shape `(batch, output height, output width, pooled channels)`.

    Raises:
        ValueError: If `pooling` is unknown or `"kmp"` has strides or padding.
    """
    averaging = None
    # The kernels of a group do not see the inputs of another, so there activations are averaged.
    if pooling == "kap" and options.get("groups", 1) == 1:
        averaging = KAP(pool_size, pool_strides, pool_padding, data_format=DATA_FORMAT, name=f"{name}_kap")
    x = conv(x, filters, kernel_size, averaging=averaging, name=name, **options)
    if averaging is not None:
        return x
    return kernel_pooling(x, pooling, pool_size=pool_size, strides=pool_strides, padding=pool_padding, name=name)


def kernel_pooling(
    x: keras.KerasTensor,
    pooling: str | None,
    *,
    pool_size: int = 3,
    strides: int = 1,
    padding: str = "centered",
    name: str,
) -> keras.KerasTensor:
    """Pools activations over the channel grid, wherever they come from; see `pooled_conv`.

    Args:
        x: Symbolic activations, shape `(batch, height, width, channels)`.
        pooling: None for no pooling, `"kap"` or `"kmp"`.
        pool_size: Side of the window.
        strides: Step of the window; `"kmp"` takes 1 only.
        padding: `"centered"` or `"valid"`; `"kmp"` takes `"centered"` only.
        name: Prefix of the layer's name.

    Returns:
        Symbolic activations, shape `(batch, height, width, pooled channels)`.

    Raises:
        ValueError: If `pooling` is unknown or `"kmp"` has strides or padding.
    """
    check_choice("pooling", pooling, POOLINGS)
    if pooling == "kap":
        layer = KAP(pool_size, strides, padding, data_format=DATA_FORMAT, name=f"{name}_kap")
        return layer(x)
    if pooling == "kmp":
        if strides != 1 or padding != "centered":
            raise ValueError(
                "pooling='kmp' has strides=1 and padding='centered' only. "
                f"Received: strides={strides!r}, padding={padding!r}. Use pooling='kap' for others."
            )
        return KMP(pool_size, data_format=DATA_FORMAT, name=f"{name}_kmp")(x)
    return x


def pooled_layers(kap_layers: int | Sequence[int] | None, count: int) -> set[int]:
    """Returns the positions, from 1, of the convolutions that a pooling follows.

    Args:
        kap_layers: The first so many convolutions, or those at these positions from 1; None for all.
        count: Convolutions of the network.

    Returns:
        Positions from 1.

    Raises:
        ValueError: If the network has not so many.
    """
    if kap_layers is None:
        return set(range(1, count + 1))
    chosen = set(range(1, kap_layers + 1)) if isinstance(kap_layers, int) else set(kap_layers)
    if not chosen <= set(range(1, count + 1)):
        raise ValueError(
            f"`kap_layers` must be a number of convolutions up to {count}, or their positions from 1. "
            f"Received: kap_layers={kap_layers!r}."
        )
    return chosen


def noise(
    x: keras.KerasTensor, sigma: float, *, keep: bool, role: str, seeds: Seeds, name: str
) -> keras.KerasTensor:
    """Adds a noise layer where `sigma` is not zero, or where `keep` asks for one all the same.

    Args:
        x: Symbolic images or activations.
        sigma: Standard deviation, in units of `x`.
        keep: Whether to add the layer also for a sigma of 0, to be set later.
        role: `"input"` or `"activation"`.
        seeds: Where the seed of the noise comes from.
        name: Name of the layer.

    Returns:
        Symbolic tensor of the shape of `x`.
    """
    if sigma == 0 and not keep:
        return x
    return GaussianNoise(sigma, role=role, seed=seeds.next(), name=name)(x)


def dropout(x: keras.KerasTensor, rate: float, *, seeds: Seeds, name: str) -> keras.KerasTensor:
    """Drops activations in training, where `rate` is not zero.

    Args:
        x: Symbolic activations.
        rate: Share that is dropped, in [0, 1).
        seeds: Where the seed comes from.
        name: Name of the layer.

    Returns:
        Symbolic tensor of the shape of `x`.

    Raises:
        ValueError: If `rate` is out of range.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"`dropout` must be the share that is dropped, in [0, 1). Received: dropout={rate!r}.")
    return layers.Dropout(rate, seed=seeds.next(), name=name)(x) if rate else x


def global_pool(x: keras.KerasTensor) -> keras.KerasTensor:
    """Averages over all pixels."""
    return layers.GlobalAveragePooling2D(data_format=DATA_FORMAT, name="global_pool")(x)


def logits(x: keras.KerasTensor, num_classes: int, seeds: Seeds) -> keras.KerasTensor:
    """Computes the logits, in float32 also where the policy computes in half precision."""
    policy = keras.config.dtype_policy()
    dtype = "float32" if policy.compute_dtype in ("float16", "bfloat16") else None
    chosen = initializers(x.shape[-1], seeds)
    return layers.Dense(num_classes, dtype=dtype, name="logits", **chosen)(x)
