"""A small network whose weakest subnet is known, for the tests of searches."""

import keras
import numpy as np
from keras import layers

from keras_robust.layers import SubnetGate, SubnetSpace

CLASSES = 8
WEAK_CHANNELS = (1, 3, 4, 6)  # those of the rare classes
IMAGES = 200
CHANCE = 1 / 140  # one of 2 paths, times one of 70 sets of 4 channels
WEAKEST_ACCURACY = 0.1


def planted_model(l1_misleads):
    """Builds a network of two blocks, and the space of its subnets that keep half.

    Of the first block a subnet keeps one of two paths: the bad one is too weak for the dim half of the images. Of
    the second it keeps 4 of 8 channels, each of which tells one class: the subnet that keeps the channels of the
    four rare classes, a fifth of the images, is the weakest. The whole network tells all images.

    Args:
        l1_misleads: Whether an input that is always 0 has large weights in the weak parts, or in the others.
    """
    weak = np.isin(np.arange(CLASSES), WEAK_CHANNELS)
    inputs = keras.Input((CLASSES + 1,))
    paths = []
    for number, name in enumerate(("bad", "good")):
        path = layers.Dense(CLASSES + 1, use_bias=False, name=name)(inputs)
        paths.append(SubnetGate("block1", number, layer=name, ends_path=True, name=f"{name}_gate")(path))
    x = layers.Dense(CLASSES, use_bias=False, name="channels")(layers.Add(name="add")(paths))
    x = SubnetGate("block2", 0, layer="channels", name="channel_gate")(x)
    x = layers.Dense(CLASSES + 1, name="told")(x)
    outputs = SubnetGate("block2", 0, layer="told", ends_path=True, name="told_gate")(x)
    model = keras.Model(inputs, outputs, name="planted")
    for name, factor, heavy in (("bad", 0.3, l1_misleads), ("good", 1.0, not l1_misleads)):
        kernel = np.diag([factor] * CLASSES + [0.0])
        kernel[CLASSES] = 9.0 if heavy else 0.0
        model.get_layer(name).set_weights([kernel])
    kernel = np.eye(CLASSES + 1, CLASSES)
    kernel[CLASSES] = np.where(weak == l1_misleads, 9.0, 0.0)
    model.get_layer("channels").set_weights([kernel])
    # Class 0 is nobody's: what no channel tells above its bias is told wrong.
    model.get_layer("told").set_weights([10 * np.eye(CLASSES, CLASSES + 1, 1), np.eye(1, CLASSES + 1)[0]])
    return model, SubnetSpace(model, rho=0.5, scope="conv2")


def planted_images():
    """Returns images, shape (200, 9), and labels: 10 of each rare class, 40 of the others, half of them dim."""
    weak = np.isin(np.arange(CLASSES), WEAK_CHANNELS)
    classes = np.repeat(np.arange(CLASSES), np.where(weak, 10, 40))
    x = np.eye(CLASSES, CLASSES + 1, dtype="float32")[classes]
    x[::2] *= 0.3
    return x, (classes + 1).astype("int32")


def is_weakest(masks):
    """Whether these masks are those of the planted subnet."""
    masks = {name: np.asarray(keras.ops.convert_to_numpy(mask)) for name, mask in masks.items()}
    channels = np.flatnonzero(masks["channel_gate"])
    return masks["good_gate"].max() == 0 and tuple(channels) == WEAK_CHANNELS
