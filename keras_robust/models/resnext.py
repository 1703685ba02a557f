"""ResNeXt: bottleneck blocks whose 3 x 3 convolution has groups, with subnet gates."""

import functools
from collections.abc import Callable, Sequence

import keras

from keras_robust.checks import check_positive_integer
from keras_robust.models.registry import register_model
from keras_robust.models.resnet import bottleneck, residual_network


def _block(groups: int, group_width: int) -> Callable[..., keras.KerasTensor]:
    check_positive_integer("groups", groups)
    check_positive_integer("group_width", group_width)
    if groups * group_width % 64:
        raise ValueError(
            "`groups` times `group_width` must be a multiple of 64, the width of the first stage. "
            f"Received: groups={groups}, group_width={group_width}."
        )
    return functools.partial(bottleneck, widening=groups * group_width // 64, groups=groups)


@register_model("resnext50_32x4d")
def resnext50_32x4d(
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
    """Builds ResNeXt-50 (32 x 4d): the blocks of ResNet-50, twice as wide inside, in 32 groups.

    Differs from the paper: weights start uniform in +-1/sqrt(fan in), as everywhere in this package.

    Args:
        num_classes: Number of logits.
        input_shape: Shape of one image, `(height, width, channels)`.
        stem: `"cifar"`, a 3 x 3 convolution, or `"imagenet"`, a strided 7 x 7 one and a max-pool.
        planes: Width of the four stages, multiples of 16; blocks have twice as many channels inside and return
            four times as many.
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
        Xie et al., 2017, https://arxiv.org/abs/1611.05431 (table 1)
    """
    return residual_network(
        "resnext50_32x4d",
        num_classes,
        input_shape,
        _block(32, 4),
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


@register_model("resnext29")
def resnext29(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    groups: int = 8,
    group_width: int = 64,
    planes: Sequence[int] = (64, 128, 256),
    pooling: str | None = None,
    pool_size: int = 3,
    kap_layers: int | Sequence[int] | None = None,
    dropout: float = 0.0,
    sigma: float = 0.0,
    with_noise_layers: bool = False,
    activation: str = "relu",
    seed: int | None = None,
) -> keras.Model:
    """Builds ResNeXt-29 for small images: three stages of three blocks, by default 8 x 64d.

    The network of the AugMix paper on CIFAR is `groups=4, group_width=32` in its code.

    Differs from the paper: weights start uniform in +-1/sqrt(fan in), as everywhere in this package.

    Args:
        num_classes: Number of logits.
        input_shape: Shape of one image, `(height, width, channels)`.
        groups: Groups of the 3 x 3 convolutions, the paper's cardinality.
        group_width: Channels of a group in the first stage; it doubles with each stage.
        planes: Width of the three stages; blocks have `groups * group_width / 64` times as many channels inside
            and return four times as many.
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
        Xie et al., 2017, https://arxiv.org/abs/1611.05431 (section 5.3, table 7)
    """
    return residual_network(
        "resnext29",
        num_classes,
        input_shape,
        _block(groups, group_width),
        (3, 3, 3),
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
