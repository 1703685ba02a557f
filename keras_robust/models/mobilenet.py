"""MobileNetV2: inverted residuals with depthwise convolutions, and subnet gates."""

import functools
from collections.abc import Callable

import keras
from keras import layers

from keras_robust.checks import check_choice
from keras_robust.layers import SubnetGate
from keras_robust.models import blocks
from keras_robust.models.registry import register_model

# Table 2 of the paper: expansion, channels, blocks, step of the first.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _depthwise(x: keras.KerasTensor, strides: int, seeds: blocks.Seeds, name: str) -> keras.KerasTensor:
    """Convolves each channel with a 3 x 3 kernel of its own, after padding with zeros on all sides alike."""
    if strides != 1:
        x = layers.ZeroPadding2D(1, data_format=blocks.DATA_FORMAT, name=f"{name}_pad")(x)
    return layers.DepthwiseConv2D(
        3,
        strides=strides,
        padding="same" if strides == 1 else "valid",
        data_format=blocks.DATA_FORMAT,
        use_bias=False,
        depthwise_initializer=blocks.initializers(9, seeds, False)["kernel_initializer"],
        name=name,
    )(x)


def _inverted_residual(
    x: keras.KerasTensor,
    filters: int,
    expansion: int,
    strides: int,
    *,
    seeds: blocks.Seeds,
    noise: Callable[..., keras.KerasTensor],
    dropout: Callable[..., keras.KerasTensor],
    name: str,
) -> keras.KerasTensor:
    """Expands the channels, convolves each, and projects them; adds the input where the shape stays.

    One gate drops channels of the expansion: a depthwise convolution keeps them apart, so what is dropped after it
    is dropped all along. A block without a skip has one path, which is never dropped.
    """

    def after(x, part):
        return blocks.batch_norm(noise(x, role="activation", name=f"{name}_{part}_noise"), f"{name}_{part}_bn")

    residual = x
    if expansion != 1:
        width = expansion * x.shape[-1]
        residual = blocks.conv(residual, width, 1, use_bias=False, seeds=seeds, name=f"{name}_expand")
        residual = _relu6(after(residual, "expand"), f"{name}_relu1")
    residual = after(_depthwise(residual, strides, seeds, f"{name}_depthwise"), "depthwise")
    residual = _relu6(residual, f"{name}_relu2")
    residual = SubnetGate(name, 0, layer=f"{name}_depthwise", name=f"{name}_gate")(residual)
    residual = blocks.conv(residual, filters, 1, use_bias=False, seeds=seeds, name=f"{name}_project")
    residual = dropout(after(residual, "project"), name=f"{name}_dropout")
    residual = SubnetGate(name, 0, layer=f"{name}_project", ends_path=True, name=f"{name}_residual_gate")(residual)
    if strides != 1 or x.shape[-1] != filters:
        return residual
    x = SubnetGate(name, 1, ends_path=True, name=f"{name}_skip_gate")(x)
    return layers.Add(name=f"{name}_add")([residual, x])


def _relu6(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.ReLU(max_value=6.0, name=name)(x)


@register_model("mobilenet_v2")
def mobilenet_v2(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    stem: str = "cifar",
    dropout: float = 0.0,
    sigma: float = 0.0,
    with_noise_layers: bool = False,
    seed: int | None = None,
) -> keras.Model:
    """Builds MobileNetV2 of width 1: seventeen inverted residuals between two convolutions.

    Differs from the paper: weights start uniform in +-1/sqrt(fan in), as everywhere in this package.

    Args:
        num_classes: Number of logits.
        input_shape: Shape of one image, `(height, width, channels)`.
        stem: `"imagenet"`, which halves the image five times, or `"cifar"`, three times: the first convolution and
            the second stage do not stride.
        dropout: Share of activations dropped at the end of each residual, in training.
        sigma: Noise on pixels and after each convolution, in training, in pixel units.
        with_noise_layers: Whether noise layers are there also for `sigma=0`, to be set later.
        seed: Seed of the initial weights, the dropout and the noise.

    Returns:
        Keras model from pixels in [0, 1] to logits.

    Raises:
        ValueError: If an option is out of range.

    Reference:
        Sandler et al., 2018, https://arxiv.org/abs/1801.04381 (tables 1 and 2)
    """
    check_choice("stem", stem, ("cifar", "imagenet"))
    seeds = blocks.Seeds(seed)
    noise = functools.partial(blocks.noise, sigma=sigma, keep=with_noise_layers, seeds=seeds)
    drop = functools.partial(blocks.dropout, rate=dropout, seeds=seeds)

    def unit(x, filters, kernel_size, *, name, strides=1, padding=0):
        x = blocks.conv(
            x, filters, kernel_size, strides=strides, padding=padding, use_bias=False, seeds=seeds, name=name
        )
        x = noise(x, role="activation", name=f"{name}_noise")
        return _relu6(blocks.batch_norm(x, f"{name}_bn"), f"{name}_relu")

    inputs = keras.Input(input_shape, name="images")
    x = noise(inputs, role="input", name="input_noise")
    x = unit(x, 32, 3, strides=2 if stem == "imagenet" else 1, padding=1, name="stem")
    for stage, (expansion, filters, depth, first) in enumerate(_STAGES, start=1):
        for number in range(1, depth + 1):
            strides = first if number == 1 and (stage != 2 or stem == "imagenet") else 1
            name = f"stage{stage}_block{number}"
            x = _inverted_residual(
                x, filters, expansion, strides, seeds=seeds, noise=noise, dropout=drop, name=name
            )
    x = unit(x, 1280, 1, name="head")
    x = blocks.global_pool(x)
    return keras.Model(inputs, blocks.logits(x, num_classes, seeds), name="mobilenet_v2")
