"""ResNet-18 with kernel pooling and noise after every convolution."""

import functools
from collections.abc import Callable, Sequence

import keras
from keras import layers

from keras_robust.checks import check_choice, check_positive_integer
from keras_robust.models import blocks
from keras_robust.models.registry import register_model


def _basic_block(
    x: keras.KerasTensor, width: int, strides: int, unit: Callable[..., keras.KerasTensor], name: str
) -> keras.KerasTensor:
    """Adds two 3 x 3 convolutions and a shortcut, projected where the shape changes."""
    residual = unit(x, width, 3, strides=strides, padding=1, name=f"{name}_conv1")
    residual = layers.ReLU(name=f"{name}_relu1")(residual)
    residual = unit(residual, width, 3, padding=1, name=f"{name}_conv2")
    if strides != 1 or x.shape[-1] != width:
        x = unit(x, width, 1, strides=strides, name=f"{name}_shortcut")
    x = layers.Add(name=f"{name}_add")([residual, x])
    return layers.ReLU(name=f"{name}_relu2")(x)


@register_model("resnet18")
def resnet18(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    stem: str = "cifar",
    planes: Sequence[int] = (64, 128, 256, 512),
    pooling: str | None = None,
    pool_size: int = 3,
    sigma: float = 0.0,
    with_noise_layers: bool = False,
    seed: int | None = None,
) -> keras.Model:
    """Builds ResNet-18: convolution, kernel pooling, noise, batch normalisation, ReLU, also in the shortcuts.

    Differs from the code: pooling is never skipped on small channel grids.

    Args:
        num_classes: Number of logits.
        input_shape: Shape of one image, `(height, width, channels)`.
        stem: `"cifar"`, a 3 x 3 convolution, or `"imagenet"`, a strided 7 x 7 one and a max-pool.
        planes: Channels of the four stages; the KAP paper's code has 64, 144, 256, 529 on ImageNet.
        pooling: None, `"kap"` or `"kmp"`.
        pool_size: Side of the pooling window on the channel grid.
        sigma: Noise on pixels and after each convolution, in training, in pixel units.
        with_noise_layers: Whether noise layers are there also for `sigma=0`, to be set later.
        seed: Seed of the initial weights and the noise.

    Returns:
        Keras model from pixels in [0, 1] to logits.

    Raises:
        ValueError: If an option is out of range.

    Reference:
        He et al., 2016, https://arxiv.org/abs/1512.03385; Bashivan et al., 2022, https://arxiv.org/abs/2210.00062
    """
    check_choice("stem", stem, ("cifar", "imagenet"))
    if len(planes) != 4:
        raise ValueError(f"`planes` must hold the channels of four stages. Received: planes={planes!r}.")
    for width in planes:
        check_positive_integer("planes", width)
    seeds = blocks.Seeds(seed)
    noise = functools.partial(blocks.noise, sigma=sigma, keep=with_noise_layers, seeds=seeds)

    def unit(x, filters, kernel_size, *, name, strides=1, padding=0):
        x = blocks.pooled_conv(
            x,
            filters,
            kernel_size,
            pooling=pooling,
            pool_size=pool_size,
            strides=strides,
            padding=padding,
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
        x = layers.ReLU(name="stem_relu")(x)
    else:
        x = unit(x, planes[0], 7, strides=2, padding=3, name="stem")
        x = layers.ReLU(name="stem_relu")(x)
        # Activations are not negative after the ReLU, so zeros pad the maximum as minus infinity would.
        x = layers.ZeroPadding2D(1, data_format=blocks.DATA_FORMAT, name="stem_max_pool_pad")(x)
        x = layers.MaxPooling2D(3, strides=2, data_format=blocks.DATA_FORMAT, name="stem_max_pool")(x)
    for stage, width in enumerate(planes, start=1):
        for block in (1, 2):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _basic_block(x, width, strides, unit, name=f"stage{stage}_block{block}")
    x = blocks.global_pool(x)
    return keras.Model(inputs, blocks.logits(x, num_classes, seeds), name="resnet18")
