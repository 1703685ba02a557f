"""The residual network of the weight map paper."""

import keras
from keras import layers

from keras_robust.models import blocks
from keras_robust.models.registry import register_model

_GROUPS = ((8, 3), (16, 4), (32, 6), (64, 4))


@register_model("wm_resnet")
def wm_resnet(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    layer: str = "smoothing",
    alternate: bool = False,
    seed: int | None = None,
) -> keras.Model:
    """Builds 17 residual blocks of 8, 16, 32 and 64 channels, of convolutions or weight maps.

    A block has two 3 x 3 layers and a ReLU after each, the second one after the sum with the block's input. The
    first layer of the second, third and fourth group halves the image. There is no stem and no normalisation.
    Projections of the shortcuts are always 1 x 1 convolutions.

    Args:
        num_classes: Number of logits.
        input_shape: Shape of one image, `(height, width, channels)`.
        layer: `"conv"`, `"smoothing"` or `"unsharp"`.
        alternate: Whether only the second layer of each block is a weight map.
        seed: Seed of the initial weights.

    Returns:
        Keras model from pixels in [0, 1] to logits.

    Raises:
        ValueError: If an option is out of range.

    Reference:
        Amer and Maul, 2019, https://arxiv.org/abs/1905.00568 (table 2)
    """
    kinds = blocks.alternating(layer, alternate)
    seeds = blocks.Seeds(seed)

    def spatial(x, width, strides, name, position):
        kind = next(kinds)
        name = f"{name}_{kind}{position}"
        return blocks.conv_or_map(x, kind, width, 3, strides=strides, padding=1, seeds=seeds, name=name)

    inputs = keras.Input(input_shape, name="images")
    x = inputs
    for group, (width, count) in enumerate(_GROUPS, start=1):
        for block in range(1, count + 1):
            strides = 2 if group > 1 and block == 1 else 1
            name = f"group{group}_block{block}"
            residual = spatial(x, width, strides, name, 1)
            residual = layers.ReLU(name=f"{name}_relu1")(residual)
            residual = spatial(residual, width, 1, name, 2)
            if strides != 1 or x.shape[-1] != width:
                x = blocks.conv(x, width, 1, strides=strides, seeds=seeds, name=f"{name}_shortcut")
            x = layers.Add(name=f"{name}_add")([residual, x])
            x = layers.ReLU(name=f"{name}_relu2")(x)
    x = blocks.global_pool(x)
    return keras.Model(inputs, blocks.logits(x, num_classes, seeds), name="wm_resnet")
