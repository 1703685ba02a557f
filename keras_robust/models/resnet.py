"""ResNet-18 and ResNet-50 of four stages, and the CIFAR family of three: residual blocks with subnet gates."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

from keras_robust.checks import check_choice, check_positive_integer
from keras_robust.layers import SubnetGate
from keras_robust.models import blocks
from keras_robust.models.registry import register_model

Unit = Callable[..., keras.KerasTensor]
"""Convolution, kernel pooling, noise and batch normalisation, as `_units` makes them."""


def _merge(
    residual: keras.KerasTensor,
    last: str,
    x: keras.KerasTensor,
    strides: int,
    unit: Unit,
    dropout: Callable[..., keras.KerasTensor],
    name: str,
) -> keras.KerasTensor:
    """Ends both paths of a block with gates and adds them; the skip is projected where the shape changes."""
    width = residual.shape[-1]
    residual = dropout(residual, name=f"{name}_dropout")
    residual = SubnetGate(name, 0, layer=last, ends_path=True, name=f"{name}_residual_gate")(residual)
    projection = None
    if strides != 1 or x.shape[-1] != width:
        projection = f"{name}_shortcut"
        x = unit(x, width, 1, strides=strides, name=projection)
    x = SubnetGate(name, 1, layer=projection, ends_path=True, name=f"{name}_skip_gate")(x)
    return layers.Add(name=f"{name}_add")([residual, x])


def _basic_block(
    x: keras.KerasTensor,
    width: int,
    strides: int,
    unit: Unit,
    dropout: Callable[..., Any],
    activate: Callable[..., Any],
    name: str,
) -> keras.KerasTensor:
    """Adds two 3 x 3 convolutions and a shortcut."""
    residual = unit(x, width, 3, strides=strides, padding=1, name=f"{name}_conv1")
    residual = activate(residual, name=name, number=1)
    residual = SubnetGate(name, 0, layer=f"{name}_conv1", name=f"{name}_gate1")(residual)
    residual = unit(residual, width, 3, padding=1, name=f"{name}_conv2")
    x = _merge(residual, f"{name}_conv2", x, strides, unit, dropout, name)
    return activate(x, name=name, number=2)


def bottleneck(
    x: keras.KerasTensor,
    width: int,
    strides: int,
    unit: Unit,
    dropout: Callable[..., Any],
    activate: Callable[..., Any],
    name: str,
    *,
    widening: int = 1,
    groups: int = 1,
) -> keras.KerasTensor:
    """Adds a 1 x 1, a strided 3 x 3 and a 1 x 1 convolution of four times the width, and a shortcut.

    The first two have `widening` times the width; the second has `groups`.
    """
    inner = widening * width
    residual = unit(x, inner, 1, name=f"{name}_conv1")
    residual = activate(residual, name=name, number=1)
    residual = SubnetGate(name, 0, layer=f"{name}_conv1", name=f"{name}_gate1")(residual)
    residual = unit(residual, inner, 3, strides=strides, padding=1, groups=groups, name=f"{name}_conv2")
    residual = activate(residual, name=name, number=2)
    residual = SubnetGate(name, 0, layer=f"{name}_conv2", name=f"{name}_gate2")(residual)
    residual = unit(residual, 4 * width, 1, name=f"{name}_conv3")
    x = _merge(residual, f"{name}_conv3", x, strides, unit, dropout, name)
    return activate(x, name=name, number=3)


def residual_network(
    name: str,
    num_classes: int,
    input_shape: tuple[int, int, int],
    block: Callable[..., keras.KerasTensor],
    depths: Sequence[int],
    planes: Sequence[int],
    *,
    stem: str = "cifar",
    pooling: str | None,
    pool_size: int,
    kap_layers: int | Sequence[int] | None,
    dropout: float,
    sigma: float,
    with_noise_layers: bool,
    activation: str,
    seed: int | None,
) -> keras.Model:
    """Builds a post-activation ResNet; stages after the first halve the image."""
    check_choice("stem", stem, ("cifar", "imagenet"))
    for depth in depths:
        check_positive_integer("depths", depth)
    if len(planes) != len(depths):
        raise ValueError(
            f"`planes` must hold the channels of {_NUMBERS[len(depths)]} stages. Received: planes={planes!r}."
        )
    for width in planes:
        check_positive_integer("planes", width)
    seeds = blocks.Seeds(seed)
    noise = functools.partial(blocks.noise, sigma=sigma, keep=with_noise_layers, seeds=seeds)
    drop = functools.partial(blocks.dropout, rate=dropout, seeds=seeds)
    activate = functools.partial(blocks.activate, activation=activation)
    # The stem, those of each block, and the projections: of each stage that halves, of a bottleneck's first too.
    each, first = (2, 0) if block is _basic_block else (3, 1)
    pooled = blocks.pooled_layers(kap_layers, each * sum(depths) + len(depths) + first)
    positions = itertools.count(1)

    def unit(x, filters, kernel_size, *, name, strides=1, padding=0, groups=1):
        x = blocks.pooled_conv(
            x,
            filters,
            kernel_size,
            pooling=pooling if next(positions) in pooled else None,
            pool_size=pool_size,
            strides=strides,
            padding=padding,
            groups=groups,
            use_bias=False,
            seeds=seeds,
            name=name,
        )
        x = noise(x, role="activation", name=f"{name}_noise")
        return blocks.batch_norm(x, name=f"{name}_bn")

    inputs = keras.Input(input_shape, name="images")
    x = noise(inputs, role="input", name="input_noise")
    if stem == "cifar":
        x = unit(x, planes[0], 3, padding=1, name="stem")
        x = activate(x, name="stem")
    else:
        x = unit(x, planes[0], 7, strides=2, padding=3, name="stem")
        x = activate(x, name="stem")
        # Activations are not negative here, so zeros pad the maximum as minus infinity would.
        x = layers.ZeroPadding2D(1, data_format=blocks.DATA_FORMAT, name="stem_max_pool_pad")(x)
        x = layers.MaxPooling2D(3, strides=2, data_format=blocks.DATA_FORMAT, name="stem_max_pool")(x)
    for stage, (depth, width) in enumerate(zip(depths, planes, strict=True), start=1):
        for number in range(1, depth + 1):
            strides = 2 if stage > 1 and number == 1 else 1
            x = block(x, width, strides, unit, drop, activate, f"stage{stage}_block{number}")
    x = blocks.global_pool(x)
    return keras.Model(inputs, blocks.logits(x, num_classes, seeds), name=name)


_NUMBERS = {3: "three", 4: "four"}


@register_model("resnet18")
def resnet18(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    stem: str = "cifar",
    depths: Sequence[int] = (2, 2, 2, 2),
    planes: Sequence[int] = (64, 128, 256, 512),
    pooling: str | None = None,
    pool_size: int = 3,
    kap_layers: int | Sequence[int] | None = None,
    dropout: float = 0.0,
    sigma: float = 0.0,
    with_noise_layers: bool = False,
    activation: str = "relu",
    seed: int | None = None,
) -> keras.Model:
    """Builds ResNet-18: convolution, kernel pooling, noise, batch normalisation, ReLU, also in the shortcuts.

    Differs from the code: pooling is never skipped on small channel grids.

    Args:
        num_classes: Number of logits.
        input_shape: Shape of one image, `(height, width, channels)`.
        stem: `"cifar"`, a 3 x 3 convolution, or `"imagenet"`, a strided 7 x 7 one and a max-pool.
        depths: Blocks of the four stages; 3, 4, 6, 3 is ResNet-34.
        planes: Channels of the four stages. On ImageNet and TinyImageNet the KAP paper's code has 64, 144, 256,
            529, and as WideX4 256, 576, 1024, 2116.
        pooling: None, `"kap"` or `"kmp"`.
        pool_size: Side of the pooling window on the channel grid.
        kap_layers: The first so many convolutions are pooled, or those at these positions from 1; None pools all.
            They count stem, block by block, a projection after the others of its block.
        dropout: Share of activations dropped at the end of each residual, in training.
        sigma: Noise on pixels and after each convolution, in training, in pixel units.
        with_noise_layers: Whether noise layers are there also for `sigma=0`, to be set later.
        activation: `"relu"` or `"softplus"`.
        seed: Seed of the initial weights, the dropout and the noise.

    Returns:
        Keras model from pixels in [0, 1] to logits.

    Raises:
        ValueError: If an option is out of range.

    Reference:
        He et al., 2016, https://arxiv.org/abs/1512.03385; Bashivan et al., 2022, https://arxiv.org/abs/2210.00062
    """
    if len(depths) != 4:
        raise ValueError(f"`depths` must hold the blocks of four stages. Received: depths={depths!r}.")
    return residual_network(
        "resnet18",
        num_classes,
        input_shape,
        _basic_block,
        depths,
        planes,
        stem=stem,
        pooling=pooling,
        pool_size=pool_size,
        kap_layers=kap_layers,
        dropout=dropout,
        sigma=sigma,
        with_noise_layers=with_noise_layers,
        activation=activation,
        seed=seed,
    )


@register_model("resnet50")
def resnet50(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    stem: str = "cifar",
    planes: Sequence[int] = (64, 128, 256, 512),
    pooling: str | None = None,
    pool_size: int = 3,
    kap_layers: int | Sequence[int] | None = None,
    dropout: float = 0.0,
    sigma: float = 0.0,
    with_noise_layers: bool = False,
    activation: str = "relu",
    seed: int | None = None,
) -> keras.Model:
    """Builds ResNet-50: bottleneck blocks, 3, 4, 6 and 3 of them, which stride in the 3 x 3 convolution.

    Differs from the paper: the stride is not in the first 1 x 1 convolution; PyTorch's models and the Weak
    Subnets code have it in the 3 x 3 one too.

    Args:
        num_classes: Number of logits.
        input_shape: Shape of one image, `(height, width, channels)`.
        stem: `"cifar"`, a 3 x 3 convolution, or `"imagenet"`, a strided 7 x 7 one and a max-pool.
        planes: Channels inside the blocks of the four stages; blocks return four times as many.
        pooling: None, `"kap"` or `"kmp"`, after every convolution.
        pool_size: Side of the pooling window on the channel grid.
        kap_layers: The first so many convolutions are pooled, or those at these positions from 1; None pools all.
            They count stem, block by block, a projection after the others of its block.
        dropout: Share of activations dropped at the end of each residual, in training.
        sigma: Noise on pixels and after each convolution, in training, in pixel units.
        with_noise_layers: Whether noise layers are there also for `sigma=0`, to be set later.
        activation: `"relu"` or `"softplus"`.
        seed: Seed of the initial weights, the dropout and the noise.

    Returns:
        Keras model from pixels in [0, 1] to logits.

    Raises:
        ValueError: If an option is out of range.

    Reference:
        He et al., 2016, https://arxiv.org/abs/1512.03385; Guo et al., 2022, https://arxiv.org/abs/2201.12765
    """
    return residual_network(
        "resnet50",
        num_classes,
        input_shape,
        bottleneck,
        (3, 4, 6, 3),
        planes,
        stem=stem,
        pooling=pooling,
        pool_size=pool_size,
        kap_layers=kap_layers,
        dropout=dropout,
        sigma=sigma,
        with_noise_layers=with_noise_layers,
        activation=activation,
        seed=seed,
    )


def _cifar_family(depth: int) -> None:
    """Registers the CIFAR ResNet of `depth = 6 n + 2` layers, n basic blocks a stage."""
    name = f"resnet{depth}"

    def build(
        num_classes: int,
        input_shape: tuple[int, int, int],
        *,
        planes: Sequence[int] = (16, 32, 64),
        pooling: str | None = None,
        pool_size: int = 3,
        kap_layers: int | Sequence[int] | None = None,
        dropout: float = 0.0,
        sigma: float = 0.0,
        with_noise_layers: bool = False,
        activation: str = "relu",
        seed: int | None = None,
    ) -> keras.Model:
        return residual_network(
            name,
            num_classes,
            input_shape,
            _basic_block,
            ((depth - 2) // 6,) * 3,
            planes,
            pooling=pooling,
            pool_size=pool_size,
            kap_layers=kap_layers,
            dropout=dropout,
            sigma=sigma,
            with_noise_layers=with_noise_layers,
            activation=activation,
            seed=seed,
        )

    build.__name__ = name
    build.__doc__ = f"""Builds ResNet-{depth} for small images: three stages of {(depth - 2) // 6} basic blocks.

    Differs from the paper: shortcuts that change the shape are projections (its option B), not padded copies.

    Args:
        num_classes: Number of logits.
        input_shape: Shape of one image, `(height, width, channels)`.
        planes: Channels of the three stages.
        pooling: None, `"kap"` or `"kmp"`, after every convolution.
        pool_size: Side of the pooling window on the channel grid.
        kap_layers: The first so many convolutions are pooled, or those at these positions from 1; None pools all.
            They count stem, block by block, a projection after the others of its block.
        dropout: Share of activations dropped at the end of each residual, in training.
        sigma: Noise on pixels and after each convolution, in training, in pixel units.
        with_noise_layers: Whether noise layers are there also for `sigma=0`, to be set later.
        activation: `"relu"` or `"softplus"`.
        seed: Seed of the initial weights, the dropout and the noise.

    Returns:
        Keras model from pixels in [0, 1] to logits.

    Raises:
        ValueError: If an option is out of range.

    Reference:
        He et al., 2016, https://arxiv.org/abs/1512.03385 (section 4.2)
    """
    register_model(name)(build)


for _depth in (8, 14, 20, 32, 56):
    _cifar_family(_depth)
