"""The densely connected network of the weight map paper."""

import keras
from keras import layers

from keras_robust.models import blocks
from keras_robust.models.registry import register_model

_STEM, _GROWTH, _GROUPS = 16, 8, (2, 4, 8, 16)


@register_model("wm_densenet")
def wm_densenet(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    layer: str = "smoothing",
    alternate: bool = False,
    seed: int | None = None,
) -> keras.Model:
    """Builds 30 dense layers of growth 8 after a stem of 16 channels, of convolutions or weight maps.

    Each 3 x 3 layer, followed by a ReLU, adds its 8 channels to all channels before it. A 2 x 2 max-pool stands
    between the groups of 2, 4, 8 and 16 layers. There is no bottleneck, no transition and no normalisation.

    Args:
        num_classes: Number of logits.
        input_shape: Shape of one image, `(height, width, channels)`.
        layer: `"conv"`, `"smoothing"` or `"unsharp"`.
        alternate: Whether only every second layer is a weight map; the stem is a convolution then.
        seed: Seed of the initial weights.

    Returns:
        Keras model from pixels in [0, 1] to logits.

    Raises:
        ValueError: If an option is out of range, or the image is too small for the max-pools.

    Reference:
        Amer and Maul, 2019, https://arxiv.org/abs/1905.00568 (table 3)
    """
    kinds = blocks.alternating(layer, alternate)
    if min(input_shape[:2]) < 8:
        raise ValueError(f"Three max-pools need images of at least 8 x 8. Received: input_shape={input_shape}.")
    seeds = blocks.Seeds(seed)

    def spatial(x, width, name):
        kind = next(kinds)
        x = blocks.conv_or_map(x, kind, width, 3, padding=1, seeds=seeds, name=f"{name}_{kind}")
        return layers.ReLU(name=f"{name}_relu")(x)

    inputs = keras.Input(input_shape, name="images")
    x = spatial(inputs, _STEM, "stem")
    for group, count in enumerate(_GROUPS, start=1):
        if group > 1:
            x = layers.MaxPooling2D(2, data_format=blocks.DATA_FORMAT, name=f"group{group}_max_pool")(x)
        for position in range(1, count + 1):
            name = f"group{group}_layer{position}"
            x = layers.Concatenate(axis=-1, name=f"{name}_concatenate")([x, spatial(x, _GROWTH, name)])
    x = blocks.global_pool(x)
    return keras.Model(inputs, blocks.logits(x, num_classes, seeds), name="wm_densenet")
