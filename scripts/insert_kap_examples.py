"""Kernel average pooling and noise put into networks that were made without: a MobileNet, a ViT, a Swin.

    KERAS_BACKEND=jax python scripts/insert_kap_examples.py
    python scripts/insert_kap_examples.py mobilenet --weights imagenet --sigma 0.2

For each network it prints which layers are pooled, how far pooling moves the logits, and that folding does not
move them: inference then costs what the network cost before. Pretrained weights stay, and want fine-tuning,
because pooling has changed what they compute.

What is reached: convolutions, dense layers (patch embedding, MLPs, Swin's merging of patches), `EinsumDense` and
the output projection of `MultiHeadAttention`. What is not: the projections of queries, keys and values, which
Keras keeps inside that layer, and networks of subclassed models, whose graph is not known.
"""

import argparse
import itertools

import keras
import numpy as np
from keras import layers

SIDE, CLASSES, WIDTH, HEADS, WINDOW = 32, 10, 36, 3, 4


def mobilenet(weights=None):
    """MobileNetV2 of `keras.applications`."""
    if weights is not None:
        return keras.applications.MobileNetV2((224, 224, 3), weights=weights, classifier_activation=None)
    return keras.applications.MobileNetV2(
        (SIDE, SIDE, 3), alpha=0.35, weights=None, classes=CLASSES, classifier_activation=None
    )


def vit():
    """Two transformer blocks on patches of 4 x 4 pixels; the first normalisation has a shift for each place."""
    inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(WIDTH, 4, strides=4, name="patches")(inputs)
    x = layers.Reshape((-1, WIDTH))(x)
    x = layers.LayerNormalization(axis=(1, 2), name="places")(x)
    for number in (1, 2):
        x = transformer_block(x, f"block{number}")
    return keras.Model(inputs, head(x), name="vit")


def swin():
    """A block of attention in windows, one in shifted windows, and merged patches before the next two.

    Left out of Swin: the bias by relative place, and the mask where a shifted window wraps around.
    """
    inputs = keras.Input((SIDE, SIDE, 3))
    side, width = SIDE // 2, WIDTH
    x = layers.Conv2D(width, 2, strides=2, name="patches")(inputs)
    for stage in (1, 2):
        if stage > 1:
            x = tiles(x, side, 2)
            side, width = side // 2, 2 * width
            x = layers.Reshape((side, side, 2 * width))(x)
            x = layers.Dense(width, use_bias=False, name=f"stage{stage}_merge")(x)
        for number, shift in ((1, 0), (2, WINDOW // 2)):
            x = rolled(x, -shift) if shift else x
            x = transformer_block(tiles(x, side, WINDOW), f"stage{stage}_block{number}", attention_axes=(2,))
            x = tiles(x, side, WINDOW, back=True)
            x = rolled(x, shift) if shift else x
    return keras.Model(inputs, head(layers.Reshape((-1, width))(x)), name="swin")


def rolled(x, shift):
    return keras.ops.roll(keras.ops.roll(x, shift, axis=1), shift, axis=2)


def tiles(x, side, window, back=False):
    """Cuts an image of tokens into windows, shape `(batch, windows, tokens of a window, channels)`, or back."""
    count, width = side // window, x.shape[-1]
    x = layers.Reshape((count, count, window, window, width) if back else (count, window, count, window, width))(x)
    x = layers.Permute((1, 3, 2, 4, 5))(x)
    return layers.Reshape((side, side, width) if back else (count**2, window**2, width))(x)


def transformer_block(x, name, **options):
    width = x.shape[-1]
    y = layers.LayerNormalization(name=f"{name}_norm1")(x)
    y = layers.MultiHeadAttention(HEADS, width // HEADS, name=f"{name}_attention", **options)(y, y)
    x = layers.Add(name=f"{name}_add1")([x, y])
    y = layers.LayerNormalization(name=f"{name}_norm2")(x)
    y = layers.Dense(4 * width, activation="gelu", name=f"{name}_expand")(y)
    y = layers.Dense(width, name=f"{name}_project")(y)
    return layers.Add(name=f"{name}_add2")([x, y])


def head(x):
    x = layers.GlobalAveragePooling1D(name="pool")(layers.LayerNormalization(name="norm")(x))
    return layers.Dense(CLASSES, name="logits")(x)


def is_projection(layer):
    return layer.name.endswith(("attention", "expand", "project", "merge"))


EXAMPLES = {"mobilenet": (mobilenet, None), "vit": (vit, is_projection), "swin": (swin, is_projection)}


def run(name, sigma=0.1, weights=None):
    """Returns the network, the pooled and noisy one, the folded one, and the logits of each on four images."""
    from keras_robust import models

    build, where = EXAMPLES[name]
    model = build(weights) if weights else build()
    pooled = models.insert_noise(models.insert_kap(model, where=where), sigma, seed=0)
    folded = models.fold_kap(pooled)
    x = np.random.default_rng(0).uniform(size=(4, *model.input_shape[1:])).astype("float32")
    return (model, pooled, folded), [each.predict(x, verbose=0) for each in (model, pooled, folded)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of {', '.join(EXAMPLES)}; by default all")
    parser.add_argument("--sigma", type=float, default=0.1, help="noise in training, input and activations")
    parser.add_argument("--weights", help="file or 'imagenet', for mobilenet")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(EXAMPLES))
    if unknown:
        parser.error(f"no example {unknown[0]!r}: choose from {', '.join(EXAMPLES)}")
    for name in options.names or EXAMPLES:
        weights = options.weights if name == "mobilenet" else None
        (model, pooled, _), logits = run(name, options.sigma, weights)
        noisy = [layer.name.removesuffix("_noise") for layer in pooled.layers if layer.name.endswith("_noise")]
        moved = [float(np.abs(after - before).max()) for before, after in itertools.pairwise(logits)]
        print(f"{name}: {model.count_params()} parameters, {len(noisy) - 1} layers pooled: {', '.join(noisy[1:])}")
        largest = np.abs(logits[0]).max()
        print(f"  logits up to {largest:.2g}: pooling moves them by {moved[0]:.2g}, folding by {moved[1]:.2g}")


if __name__ == "__main__":
    main()
