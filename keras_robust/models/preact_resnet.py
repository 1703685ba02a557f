"""Pre-activation ResNet-18, and the block that it shares with the wide residual networks."""

import functools
from collections.abc import Callable

import keras
from keras import layers

from keras_robust.layers import SubnetGate
from keras_robust.models import blocks
from keras_robust.models.registry import register_model


def preact_block(
    x: keras.KerasTensor,
    width: int,
    strides: int,
    conv: Callable[..., keras.KerasTensor],
    *,
    dropout: Callable[..., keras.KerasTensor],
    activate: Callable[..., keras.KerasTensor] = blocks.activate,
    name: str,
) -> keras.KerasTensor:
    """Adds two 3 x 3 convolutions, each after batch normalisation and ReLU, and a skip.

    Where the shape changes the skip is a 1 x 1 convolution of the activated input, without normalisation.

    Args:
        x: Symbolic activations, shape `(batch, height, width, channels)`.
        width: Output channels.
        strides: Step of the first convolution.
        conv: `(x, filters, kernel_size, *, strides, padding, name)`, convolution without bias and what follows it.
        dropout: `(x, *, name)`, dropout at the end of the residual.
        activate: `(x, *, name, number)`, the activation.
        name: Prefix of the names of the layers.

    Returns:
        Symbolic activations, shape `(batch, output height, output width, width)`.

    Reference:
        He et al., 2016, https://arxiv.org/abs/1603.05027
    """
    active = activate(blocks.batch_norm(x, name=f"{name}_bn1"), name=name, number=1)
    residual = conv(active, width, 3, strides=strides, padding=1, name=f"{name}_conv1")
    residual = activate(blocks.batch_norm(residual, name=f"{name}_bn2"), name=name, number=2)
    residual = SubnetGate(name, 0, layer=f"{name}_conv1", name=f"{name}_gate1")(residual)
    residual = conv(residual, width, 3, padding=1, name=f"{name}_conv2")
    residual = dropout(residual, name=f"{name}_dropout")
    residual = SubnetGate(name, 0, layer=f"{name}_conv2", ends_path=True, name=f"{name}_residual_gate")(residual)
    projection = None
    if strides != 1 or x.shape[-1] != width:
        projection = f"{name}_shortcut"
        x = conv(active, width, 1, strides=strides, name=projection)
    x = SubnetGate(name, 1, layer=projection, ends_path=True, name=f"{name}_skip_gate")(x)
    return layers.Add(name=f"{name}_add")([residual, x])


def preact_network(
    name: str,
    num_classes: int,
    input_shape: tuple[int, int, int],
    stem_filters: int,
    stages: list[tuple[int, int]],
    *,
    pooling: str | None,
    pool_size: int,
    dropout: float,
    sigma: float,
    with_noise_layers: bool,
    activation: str,
    seed: int | None,
) -> keras.Model:
    """Builds a pre-activation network for small images; stages after the first halve the image.

    Args:
        name: Name of the model.
        num_classes: Number of logits.
        input_shape: Shape of one image, `(height, width, channels)`.
        stem_filters: Channels of the first convolution, which nothing follows.
        stages: Number of blocks and channels of each stage.
        pooling: None, `"kap"` or `"kmp"`, after every convolution.
        pool_size: Side of the pooling window on the channel grid.
        dropout: Share of activations dropped at the end of each residual, in training.
        sigma: Noise on pixels and after each convolution, in training, in pixel units.
        with_noise_layers: Whether noise layers are there also for `sigma=0`.
        activation: `"relu"` or `"softplus"`.
        seed: Seed of the initial weights, the dropout and the noise.

    Returns:
        Keras model from pixels in [0, 1] to logits.
    """
    seeds = blocks.Seeds(seed)
    noise = functools.partial(blocks.noise, sigma=sigma, keep=with_noise_layers, seeds=seeds)
    drop = functools.partial(blocks.dropout, rate=dropout, seeds=seeds)
    activate = functools.partial(blocks.activate, activation=activation)

    def conv(x, filters, kernel_size, *, name, strides=1, padding=0):
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
        return noise(x, role="activation", name=f"{name}_noise")

    inputs = keras.Input(input_shape, name="images")
    x = noise(inputs, role="input", name="input_noise")
    x = conv(x, stem_filters, 3, padding=1, name="stem")
    for stage, (depth, width) in enumerate(stages, start=1):
        for number in range(1, depth + 1):
            strides = 2 if stage > 1 and number == 1 else 1
            x = preact_block(
                x, width, strides, conv, dropout=drop, activate=activate, name=f"stage{stage}_block{number}"
            )
    x = activate(blocks.batch_norm(x, name="final_bn"), name="final")
    x = blocks.global_pool(x)
    return keras.Model(inputs, blocks.logits(x, num_classes, seeds), name=name)


@register_model("preact_resnet18")
def preact_resnet18(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    pooling: str | None = None,
    pool_size: int = 3,
    dropout: float = 0.0,
    sigma: float = 0.0,
    with_noise_layers: bool = False,
    activation: str = "relu",
    seed: int | None = None,
) -> keras.Model:
    """Builds the pre-activation ResNet-18 of adversarial training, with a normalisation before the last pooling.

    Args:
        num_classes: Number of logits.
        input_shape: Shape of one image, `(height, width, channels)`.
        pooling: None, `"kap"` or `"kmp"`, after every convolution.
        pool_size: Side of the pooling window on the channel grid.
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
        He et al., 2016, https://arxiv.org/abs/1603.05027; Rice et al., 2020, https://arxiv.org/abs/2002.11569
    """
    return preact_network(
        "preact_resnet18",
        num_classes,
        input_shape,
        64,
        [(2, 64), (2, 128), (2, 256), (2, 512)],
        pooling=pooling,
        pool_size=pool_size,
        dropout=dropout,
        sigma=sigma,
        with_noise_layers=with_noise_layers,
        activation=activation,
        seed=seed,
    )
