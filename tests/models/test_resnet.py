import itertools
import math

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


@pytest.mark.slow
def test_narrow_resnet18_returns_logits(rng):
    model = models.build("resnet18", 10, (32, 32, 3), planes=(4, 6, 8, 16), pooling="kap", sigma=0.1, seed=0)
    logits = model.predict(rng.uniform(size=(2, 32, 32, 3)).astype("float32"), verbose=0)
    assert logits.shape == (2, 10)
    assert np.isfinite(logits).all()
