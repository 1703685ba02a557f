"""Small convolutional networks of the KAP and the weight map papers."""

import functools
from collections.abc import Sequence

import keras
from keras import layers

from keras_robust.checks import check_choice, check_positive_integer
from keras_robust.models import blocks
from keras_robust.models.registry import register_model


@register_model("kap_cnn")
def kap_cnn(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    depth: int = 3,
    width_multiplier: int = 1,
    pooling: str | None = None,
    pool_size: int = 3,
    strides: int = 1,
    kap_layers: int | Sequence[int] | None = None,
    sigma: float = 0.0,
    with_noise_layers: bool = False,
    activation: str = "relu",
    seed: int | None = None,
) -> keras.Model:
    """Builds a net of one to three strided convolutions of 64, 144 and 256 channels times the multiplier squared.

    Each block is convolution, kernel pooling, noise, batch normalisation, ReLU.

    Args:
        num_classes: Number of logits.
        input_shape: Shape of one image, `(height, width, channels)`.
        depth: Number of convolutions, 1 to 3.
        width_multiplier: Factor on the side of each channel grid.
        pooling: None, `"kap"` or `"kmp"`.
        pool_size: Side of the pooling window on the channel grid.
        strides: Step of the pooling window; the next convolution takes the channels that are left.
        kap_layers: The first so many convolutions are pooled, or those at these positions from 1; None pools all.
        sigma: Noise on pixels and after each pooling, in training, in pixel units.
        with_noise_layers: Whether noise layers are there also for `sigma=0`, to be set later.
        activation: `"relu"` or `"softplus"`.
        seed: Seed of the initial weights and the noise.

    Returns:
        Keras model from pixels in [0, 1] to logits.

    Raises:
        ValueError: If an option is out of range.

    Reference:
        Bashivan et al., 2022, https://arxiv.org/abs/2210.00062 (section 4.2, figure 4a)
    """
    check_choice("depth", depth, (1, 2, 3))
    check_positive_integer("width_multiplier", width_multiplier)
    pooled = blocks.pooled_layers(kap_layers, depth)
    seeds = blocks.Seeds(seed)
    noise = functools.partial(blocks.noise, sigma=sigma, keep=with_noise_layers, seeds=seeds)
    inputs = keras.Input(input_shape, name="images")
    x = noise(inputs, role="input", name="input_noise")
    for position, width in enumerate((64, 144, 256)[:depth], start=1):
        name = f"conv{position}"
        filters = width * width_multiplier**2
        x = blocks.pooled_conv(
            x,
            filters,
            3,
            pooling=pooling if position in pooled else None,
            pool_size=pool_size,
            pool_strides=strides,
            strides=2,
            padding=1,
            seeds=seeds,
            name=name,
        )
        x = noise(x, role="activation", name=f"{name}_noise")
        x = blocks.batch_norm(x, name=f"{name}_bn")
        x = blocks.activate(x, activation, name=name)
    x = blocks.global_pool(x)
    return keras.Model(inputs, blocks.logits(x, num_classes, seeds), name="kap_cnn")


@register_model("kap_ensemble_cnn")
def kap_ensemble_cnn(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    width_multiplier: int = 1,
    pooling: str | None = "kap",
    pool_size: int | None = None,
    strides: int | None = None,
    padding: str = "centered",
    sigma: float = 0.0,
    with_noise_layers: bool = False,
    activation: str = "relu",
    seed: int | None = None,
) -> keras.Model:
    """Builds the net whose ensembles grow while their number stays 64, 144 and 225.

    Three 3 x 3 convolutions, each followed by kernel pooling, noise, batch normalisation and ReLU; a 2 x 2
    max-pool follows the first and the third.

    Args:
        num_classes: Number of logits.
        input_shape: Shape of one image, `(height, width, channels)`.
        width_multiplier: Factor on the side of each channel grid (8, 12, 15).
        pooling: None, `"kap"` or `"kmp"`.
        pool_size: Side of the pooling window; None takes `width_multiplier`.
        strides: Step of the window; None takes `pool_size` for `"kap"`, so that ensembles are disjoint, else 1.
        padding: `"centered"`, as the paper's code, or `"valid"`, which reads every kernel exactly once at
            `strides=pool_size`.
        sigma: Noise on pixels and after each pooling, in training, in pixel units.
        with_noise_layers: Whether noise layers are there also for `sigma=0`, to be set later.
        activation: `"relu"` or `"softplus"`.
        seed: Seed of the initial weights and the noise.

    Returns:
        Keras model from pixels in [0, 1] to logits.

    Raises:
        ValueError: If an option is out of range.

    Reference:
        Bashivan et al., 2022, https://arxiv.org/abs/2210.00062 (section 4.2, figures 4b and A1)
    """
    check_positive_integer("width_multiplier", width_multiplier)
    if min(input_shape[:2]) < 4:
        raise ValueError(f"Two max-pools need images of at least 4 x 4. Received: input_shape={input_shape}.")
    pool_size = width_multiplier if pool_size is None else pool_size
    if strides is None:
        strides = pool_size if pooling == "kap" else 1
    seeds = blocks.Seeds(seed)
    noise = functools.partial(blocks.noise, sigma=sigma, keep=with_noise_layers, seeds=seeds)
    inputs = keras.Input(input_shape, name="images")
    x = noise(inputs, role="input", name="input_noise")
    for position, side in enumerate((8, 12, 15), start=1):
        name = f"conv{position}"
        x = blocks.pooled_conv(
            x,
            (side * width_multiplier) ** 2,
            3,
            pooling=pooling,
            pool_size=pool_size,
            pool_strides=strides,
            pool_padding=padding,
            padding=1,
            seeds=seeds,
            name=name,
        )
        x = noise(x, role="activation", name=f"{name}_noise")
        x = blocks.batch_norm(x, name=f"{name}_bn")
        x = blocks.activate(x, activation, name=name)
        if position != 2:
            x = layers.MaxPooling2D(2, data_format=blocks.DATA_FORMAT, name=f"{name}_max_pool")(x)
    x = blocks.global_pool(x)
    return keras.Model(inputs, blocks.logits(x, num_classes, seeds), name="kap_ensemble_cnn")


@register_model("wm_cnn")
def wm_cnn(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    layer: str = "smoothing",
    filters: Sequence[int] | None = None,
    kernel_size: int = 3,
    batch_normalization: bool = False,
    input_scale: bool = False,
    dense_units: int = 64,
    activation: str = "relu",
    seed: int | None = None,
) -> keras.Model:
    """Builds the net of three convolutions or weight maps and two dense layers.

    Convolutions and smoothing shrink the image by 2 pixels a layer, whatever the kernel; unsharp keeps its size.

    Args:
        num_classes: Number of logits.
        input_shape: Shape of one image, `(height, width, channels)`.
        layer: `"conv"`, `"smoothing"` or `"unsharp"`.
        filters: Channels of the three layers; None takes 33, 33, 8 for convolutions and 32, 32, 8 for maps. The
            paper's wide net has 200, 500, 8.
        kernel_size: Side of the kernel or box filter, odd.
        batch_normalization: Whether to normalise before each ReLU of the three layers.
        input_scale: Whether a learned map multiplies the image, pixel by pixel; it starts from ones.
        dense_units: Units of the hidden dense layer.
        activation: `"relu"` or `"softplus"`.
        seed: Seed of the initial weights.

    Returns:
        Keras model from pixels in [0, 1] to logits.

    Raises:
        ValueError: If an option is out of range or the image is too small.

    Reference:
        Amer and Maul, 2019, https://arxiv.org/abs/1905.00568 (tables 1 and 4)
    """
    check_choice("layer", layer, blocks.CONVOLUTIONS)
    check_positive_integer("kernel_size", kernel_size, minimum=3)
    check_positive_integer("dense_units", dense_units)
    if kernel_size % 2 == 0:
        raise ValueError(f"`kernel_size` must be odd. Received: kernel_size={kernel_size}.")
    if filters is None:
        filters = (33, 33, 8) if layer == "conv" else (32, 32, 8)
    if len(filters) != 3:
        raise ValueError(f"`filters` must hold the channels of three layers. Received: filters={filters!r}.")
    if layer != "unsharp" and min(input_shape[:2]) < 7:
        raise ValueError(
            "Each of the three layers takes 2 pixels of each side, so images must be at least 7 x 7. "
            f"Received: input_shape={input_shape}. Use larger images or layer='unsharp'."
        )
    seeds = blocks.Seeds(seed)
    # The parameter counts of the paper need kernel 9 to shrink the image as kernel 3 does.
    padding = (kernel_size - 3) // 2
    inputs = keras.Input(input_shape, name="images")
    x = inputs
    if input_scale:
        x = layers.EinsumDense("bhwc,hwc->bhwc", input_shape, kernel_initializer="ones", name="input_scale")(x)
    for position, width in enumerate(filters, start=1):
        name = f"{layer}{position}"
        x = blocks.conv_or_map(x, layer, width, kernel_size, padding=padding, seeds=seeds, name=name)
        if batch_normalization:
            x = blocks.batch_norm(x, name=f"{name}_bn")
        x = blocks.activate(x, activation, name=name)
    x = layers.Flatten(data_format=blocks.DATA_FORMAT, name="flatten")(x)
    x = blocks.dense(x, dense_units, activation=activation, seeds=seeds, name="hidden")
    return keras.Model(inputs, blocks.logits(x, num_classes, seeds), name="wm_cnn")
