import itertools
import math

import keras
import numpy as np
import pytest

from keras_robust import models
from keras_robust.layers import KAP, GaussianNoise

CONVOLUTIONS = 20  # the stem, two in each of eight blocks, and three projections


@pytest.fixture(scope="module")
def resnet18():
    return models.build("resnet18", 10, (32, 32, 3), pooling="kap", sigma=0.1, seed=0)


@pytest.mark.once
def test_resnet18_has_the_parameters_of_the_reference(resnet18):
    assert sum(math.prod(v.shape) for v in resnet18.trainable_variables) == 11_173_962


@pytest.mark.once
def test_pooling_and_noise_follow_every_convolution_and_the_shortcut(resnet18):
    pools = [layer for layer in resnet18._flatten_layers() if isinstance(layer, KAP)]
    noises = [layer for layer in resnet18.layers if isinstance(layer, GaussianNoise)]
    assert len(pools) == CONVOLUTIONS
    assert [layer.role for layer in noises] == ["input"] + ["activation"] * CONVOLUTIONS
    names = [layer.name for layer in resnet18.layers]
    for unit in ("stem", "stage1_block1_conv1", "stage1_block2_conv2", "stage2_block1_shortcut"):
        order = [names.index(name) for name in (unit, f"{unit}_noise", f"{unit}_bn")]
        assert order == sorted(order)
        chain = [resnet18.get_layer(name) for name in (unit, f"{unit}_noise", f"{unit}_bn")]
        assert chain[0].averaging.pool_size == 3
        for before, after in itertools.pairwise(chain):
            assert after.input is before.output


@pytest.mark.once
def test_grids_of_128_and_512_channels_are_rectangles(resnet18):
    grids = {layer._built_grid for layer in resnet18._flatten_layers() if isinstance(layer, KAP)}
    assert grids == {(8, 8), (8, 16), (16, 16), (16, 32)}


@pytest.mark.once
def test_resnet18_halves_the_image_three_times_after_the_cifar_stem(resnet18):
    sizes = [resnet18.get_layer(f"stage{stage}_block2_relu2").output.shape[1] for stage in (1, 2, 3, 4)]
    assert sizes == [32, 16, 8, 4]


@pytest.mark.once
def test_imagenet_stem_takes_a_quarter_and_the_planes_of_the_paper():
    model = models.build(
        "resnet18", 200, (128, 128, 3), stem="imagenet", planes=(64, 144, 256, 529), pooling="kap"
    )
    sizes = [model.get_layer(f"stage{stage}_block2_relu2").output.shape[1:] for stage in (1, 2, 3, 4)]
    assert sizes == [(32, 32, 64), (16, 16, 144), (8, 8, 256), (4, 4, 529)]
    assert model.output_shape == (None, 200)


@pytest.mark.once
def test_imagenet_resnet18_has_the_parameters_of_the_reference():
    model = models.build("resnet18", 1000, (224, 224, 3), stem="imagenet")
    assert sum(math.prod(v.shape) for v in model.trainable_variables) == 11_689_512


def parameters_of_basic_blocks(depths, planes, classes, stem):
    """Counts by hand: kernels, two numbers a normalised channel, and the last layer."""
    count = stem**2 * 3 * planes[0] + 2 * planes[0]
    before = planes[0]
    for stage, (depth, width) in enumerate(zip(depths, planes, strict=True)):
        for number in range(depth):
            count += 9 * before * width + 9 * width**2 + 4 * width
            if number == 0 and stage > 0:
                count += before * width + 2 * width
            before = width
    return count + (before + 1) * classes


PAPER, CODE, WIDE_X4 = (64, 128, 256, 512), (64, 144, 256, 529), (256, 576, 1024, 2116)
FAMILY = [
    ((2, 2, 2, 2), PAPER, 100, "cifar"),
    ((1, 1, 1, 1), PAPER, 100, "cifar"),
    ((3, 4, 6, 3), PAPER, 100, "cifar"),
    ((2, 2, 2, 2), (128, 256, 512, 1024), 100, "cifar"),
    ((2, 2, 2, 2), CODE, 200, "imagenet"),
    ((1, 1, 1, 1), WIDE_X4, 1000, "imagenet"),
]


@pytest.mark.once
@pytest.mark.parametrize(("depths", "planes", "classes", "stem"), FAMILY)
def test_the_family_has_the_parameters_counted_by_hand(depths, planes, classes, stem, monkeypatch):
    # Drawing 190 million weights takes longer than building the rest.
    zeros = lambda self, shape, dtype=None: np.zeros(shape, "float32")  # noqa: E731
    monkeypatch.setattr(keras.initializers.RandomUniform, "__call__", zeros)
    model = models.build("resnet18", classes, (64, 64, 3), depths=depths, planes=planes, stem=stem, pooling="kap")
    expected = parameters_of_basic_blocks(depths, planes, classes, 3 if stem == "cifar" else 7)
    assert sum(math.prod(v.shape) for v in model.trainable_variables) == expected


@pytest.mark.once
def test_depths_of_3_4_6_3_are_resnet34():
    assert parameters_of_basic_blocks((3, 4, 6, 3), PAPER, 1000, 7) == 21_797_672


@pytest.mark.once
@pytest.mark.usefixtures("numpy_weights")
@pytest.mark.parametrize(
    ("builder", "planes", "kap_layers", "pooled"),
    [
        ("resnet18", (4, 6, 8, 16), 2, ["stem", "stage1_block1_conv1"]),
        ("resnet18", (4, 6, 8, 16), [1, 8], ["stem", "stage2_block1_shortcut"]),
        ("resnet18", (4, 6, 8, 16), [20], ["stage4_block2_conv2"]),
        ("resnet8", (4, 6, 8), [9], ["stage3_block1_shortcut"]),
        ("resnet50", (4, 6, 8, 16), [53], ["stage4_block3_conv3"]),
    ],
)
def test_only_the_chosen_convolutions_are_pooled(builder, planes, kap_layers, pooled):
    model = models.build(builder, 10, (16, 16, 3), planes=planes, pooling="kap", kap_layers=kap_layers)
    assert [layer.name for layer in model.layers if getattr(layer, "averaging", None) is not None] == pooled


@pytest.mark.slow
def test_narrow_resnet18_returns_logits(rng):
    model = models.build("resnet18", 10, (32, 32, 3), planes=(4, 6, 8, 16), pooling="kap", sigma=0.1, seed=0)
    logits = model.predict(rng.uniform(size=(2, 32, 32, 3)).astype("float32"), verbose=0)
    assert logits.shape == (2, 10)
    assert np.isfinite(logits).all()
