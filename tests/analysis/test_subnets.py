"""Subnet analysis against networks whose subnets are known."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_robust import models
from keras_robust.analysis import (
    BlockVulnerability,
    block_vulnerability,
    block_vulnerability_figure,
    subnet_accuracies,
    subnet_accuracy_figure,
)
from keras_robust.attacks import FGSM
from keras_robust.layers import SubnetGate, SubnetSpace, subnet

CLASSES = 4


def told_by_channels():
    """A first block whose paths are alike, and a second in which each of four channels tells one class."""
    inputs = keras.Input((1, 1, CLASSES))
    paths = []
    for number, name in enumerate(("left", "right")):
        path = layers.Conv2D(CLASSES, 1, use_bias=False, name=name)(inputs)
        paths.append(SubnetGate("block1", number, ends_path=True, name=f"{name}_gate")(path))
    x = layers.Add(name="add")(paths)
    x = layers.Conv2D(CLASSES, 1, use_bias=False, name="channels")(x)
    x = SubnetGate("block2", 0, layer="channels", name="channel_gate")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, layers.Dense(CLASSES + 1, name="logits")(x))
    for name in ("left", "right", "channels"):
        model.get_layer(name).set_weights([np.eye(CLASSES)[None, None]])
    # What no channel tells is of the class that no image has.
    model.get_layer("logits").set_weights([np.eye(CLASSES, CLASSES + 1), np.eye(CLASSES + 1)[CLASSES] * 0.1])
    return model


def one_of_each():
    return np.eye(CLASSES, dtype="float32")[:, None, None, :], np.arange(CLASSES)


def test_a_block_matters_by_what_it_alone_loses():
    first, second = block_vulnerability(told_by_channels(), *one_of_each(), subnets=5)
    assert (first.block, first.error, first.deviation, first.downsamples) == ("block1", 0.0, 0.0, False)
    assert (second.block, second.error, second.deviation) == ("block2", 0.5, 0.0)


@pytest.mark.parametrize("pooling", [None, "kap"])
def test_blocks_that_stride_downsample_whether_kernels_are_averaged_or_not(pooling):
    model = models.build("resnet8", 2, (4, 4, 3), planes=(4, 4, 4), pooling=pooling, seed=0)
    found = block_vulnerability(model, np.zeros((2, 4, 4, 3), "float32"), np.array([0, 1]), subnets=1)
    assert [row.downsamples for row in found] == [False, True, True]


def test_every_subnet_that_keeps_half_of_the_channels_tells_half_of_the_classes():
    x, y = one_of_each()
    found = subnet_accuracies(told_by_channels(), {"clean": x, "dark": 0 * x}, y, rho=0.5, subnets=6)
    np.testing.assert_array_equal(found["clean"], [0.5] * 6)
    np.testing.assert_array_equal(found["dark"], [0.0] * 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y[:, None]), r"shape \(4,\)"),
        (lambda x, y: (x, np.eye(CLASSES)), r"argmax"),
        (lambda x, y: ((255 * x).astype("uint8"), y), r"in \[0, 1\]"),
    ],
)
def test_labels_and_images_of_another_form_are_refused(change, message):
    x, y = change(*one_of_each())
    with pytest.raises(ValueError, match=message):
        block_vulnerability(told_by_channels(), x, y, subnets=1)
    with pytest.raises(ValueError, match=message):
        subnet_accuracies(told_by_channels(), {"noisy": x}, y, subnets=1)


def test_noise_that_is_not_clipped_is_measured():
    x, y = one_of_each()
    found = subnet_accuracies(told_by_channels(), {"noisy": 1.5 * x - 0.1}, y, rho=0.5, subnets=1)
    np.testing.assert_array_equal(found["noisy"], [0.5])


def test_the_same_seed_measures_the_same_subnets(rng):
    model = told_by_channels()
    images = rng.random((40, 1, 1, CLASSES)).astype("float32")
    labels = images.argmax(-1).ravel()
    runs = [subnet_accuracies(model, {"clean": images}, labels, rho=0.5, subnets=4, seed=s) for s in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0]["clean"], runs[1]["clean"])
    assert not np.array_equal(runs[0]["clean"], runs[2]["clean"])
    space = SubnetSpace(model, rho=0.5)
    with subnet(model, space.highest(np.random.default_rng(0).random(space.size))):
        expected = np.mean(np.argmax(ops.convert_to_numpy(model(images)), -1) == labels)
    assert runs[0]["clean"][0] == expected


def test_an_attack_is_made_against_each_subnet():
    x, y = one_of_each()
    attack = FGSM(norm="Linf", epsilon=1.0)
    found = subnet_accuracies(told_by_channels(), {"clean": 0.9 * x}, y, rho=0.5, subnets=2, attack=attack)
    np.testing.assert_array_equal(found["clean"], [0.5, 0.5])
    np.testing.assert_array_equal(found["attacked"], [0.0, 0.0])
    with pytest.raises(ValueError, match="images named 'clean'"):
        subnet_accuracies(told_by_channels(), {"noisy": x}, y, attack=attack)


@pytest.mark.once
def test_figures_show_every_model_and_mark_the_blocks_that_reduce_the_image(tmp_path):
    pytest.importorskip("matplotlib")
    found = {"clean": np.array([0.1, 0.5, 0.9]), "noisy": np.array([0.0, 0.2, 0.4])}
    figure = subnet_accuracy_figure({"standard": found, "enhanced": found})
    assert [axes.get_title() for axes in figure.axes] == ["clean", "noisy"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["standard", "enhanced"]
    figure.savefig(tmp_path / "accuracy.png")
    rows = [BlockVulnerability(f"block{n}", 0.1 * n, 0.01, downsamples=n == 2) for n in (1, 2, 3)]
    figure = block_vulnerability_figure({"standard": rows})
    plotted, *marks = figure.axes[0].get_lines()
    np.testing.assert_allclose(plotted.get_ydata(), [0.1, 0.2, 0.3])
    assert [list(mark.get_xdata()) for mark in marks] == [[1, 1]]
    figure.savefig(tmp_path / "blocks.png")
