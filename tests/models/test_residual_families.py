"""The residual families: published parameter counts, shapes, gates that cut and leave no weight behind."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_robust import models
from keras_robust.layers import SubnetSpace, subnet, subnet_gates
from keras_robust.models import blocks

PARAMETERS = {
    # He's CIFAR family with projections (option B): option A's 269,722 and 853,018, plus 2,752.
    ("resnet20", (32, 32, 3), 10): 272_474,
    ("resnet56", (32, 32, 3), 10): 855_770,
    # As published with the PyTorch code of each.
    ("resnet50", (32, 32, 3), 10): 23_520_842,
    ("resnet50", (224, 224, 3), 1000): 25_557_032,
    ("preact_resnet18", (32, 32, 3), 10): 11_172_170,
    # Xie et al., table 7: 34.4 million; the others as published with torchvision.
    ("resnext29", (32, 32, 3), 10): 34_426_698,
    ("resnext50_32x4d", (224, 224, 3), 1000): 25_028_904,
    ("mobilenet_v2", (224, 224, 3), 1000): 3_504_872,
    ("wide_resnet", (32, 32, 3), 10): 36_479_194,
    ("wide_resnet34", (32, 32, 3), 10): 46_160_474,
}
SMALL = {
    "resnet8": {"planes": (4, 6, 8)},
    "resnet18": {"planes": (4, 6, 8, 10)},
    "resnet50": {"planes": (4, 5, 6, 7)},
    "wide_resnet": {"depth": 10, "width": 1},
}


@pytest.mark.once
@pytest.mark.parametrize("case", PARAMETERS, ids=lambda case: f"{case[0]}_{case[2]}")
def test_a_network_has_the_parameters_of_the_reference(case, monkeypatch):
    # Drawing tens of millions of weights takes longer than counting them.
    monkeypatch.setattr(blocks, "initializers", lambda *_: {"kernel_initializer": "zeros"})
    name, input_shape, num_classes = case
    options = {"stem": "imagenet"} if num_classes == 1000 else {}
    if name == "wide_resnet34":
        name, options = "wide_resnet", {"depth": 34}
    model = models.build(name, num_classes, input_shape, **options)
    assert sum(math.prod(v.shape) for v in model.trainable_variables) == PARAMETERS[case]


@pytest.mark.once
def test_the_stages_have_the_depths_and_sizes_of_their_names():
    model = models.build("resnet20", 10, (32, 32, 3))
    assert [model.get_layer(f"stage{s}_block3_relu2").output.shape[1:] for s in (1, 2, 3)] == [
        (32, 32, 16),
        (16, 16, 32),
        (8, 8, 64),
    ]
    wide = models.build("wide_resnet", 10, (32, 32, 3), depth=16, width=2)
    assert [wide.get_layer(f"stage{s}_block2_add").output.shape[1:] for s in (1, 2, 3)] == [
        (32, 32, 32),
        (16, 16, 64),
        (8, 8, 128),
    ]


@pytest.mark.once
def test_weights_of_resnet18_lie_in_the_files_as_they_did_before_it_had_gates():
    # Layers in the order in which weight files count them: a change makes older files unreadable.
    model = models.build("resnet18", 10, (32, 32, 3), planes=(4, 4, 6, 6))
    convolutions = [layer.name for layer in model.layers if "Conv2D" in type(layer).__name__]
    stage = ["stage2_block1_conv1", "stage2_block1_conv2", "stage2_block1_shortcut", "stage2_block2_conv1"]
    assert convolutions[5:9] == stage
    assert len(convolutions) == 20


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "gates", "decisions", "skips", "first"),
    [
        # Three gates in each of three blocks; channels of two layers each and two projections.
        ("resnet8", 9, 8, 3, "conv1"),
        ("resnet18", 24, 19, 8, "conv1"),
        ("resnet50", 64, 52, 16, "conv1"),
        ("resnext29", 36, 30, 9, "conv1"),
        # Expanded and projected channels of 17 blocks; 10 of these have a skip, all of them identities.
        ("mobilenet_v2", 44, 34, 10, "depthwise"),
        ("wide_resnet", 9, 8, 3, "conv1"),  # of width 1: the first stage is not projected
    ],
)
def test_every_convolution_of_a_block_is_a_decision(name, gates, decisions, skips, first):
    model = models.build(name, 10, (32, 32, 3), **SMALL.get(name, {}))
    assert len(subnet_gates(model)) == gates
    space = SubnetSpace(model, rho=0.7)
    assert len(space.decisions) == decisions
    layers = {layer.name: layer for layer in model.layers}
    for decision in space.decisions:
        assert layers[decision.layer].output.shape[-1] == decision.count
    both = SubnetSpace(model, rho=0.5)
    assert len(both.decisions) == decisions + skips
    code = SubnetSpace(model, rho=0.5, scope="conv2")
    assert len(code.decisions) == len(code.blocks) + skips
    assert {d.layer.split("_")[-1] for d in code.decisions if d.layer} == {first}


def test_a_block_without_its_residual_passes_its_skip_on(rng):
    model = models.build("resnet8", 10, (8, 8, 3), planes=(4, 4, 4), seed=0)
    x = rng.random((2, 8, 8, 3)).astype("float32")
    zeros = ops.zeros((4,))
    with subnet(model, {f"stage{s}_block1_residual_gate": zeros for s in (1, 2, 3)}):
        inner = [model.get_layer("stem_relu").output, model.get_layer("stage1_block1_relu2").output]
        before, after = keras.Model(model.input, inner)(x)
    np.testing.assert_array_equal(ops.convert_to_numpy(after), ops.convert_to_numpy(before))


@pytest.mark.parametrize("name", SMALL)
def test_a_subnet_of_every_family_has_its_own_logits(name, rng):
    model = models.build(name, 10, (16, 16, 3), seed=0, **SMALL[name])
    x = ops.convert_to_tensor(rng.random((2, 16, 16, 3)).astype("float32"))
    space = SubnetSpace(model, rho=0.5)
    whole = ops.convert_to_numpy(model(x))
    with subnet(model, space.highest(rng.random(space.size))):
        cut = ops.convert_to_numpy(model(x))
    assert np.isfinite(cut).all()
    assert np.abs(cut - whole).max() > 1e-4
    with subnet(model, {name: ops.ones((gate.channels,)) for name, gate in space.gates.items()}):
        np.testing.assert_array_equal(ops.convert_to_numpy(model(x)), whole)


@pytest.mark.parametrize(
    ("name", "options", "last"),
    [
        ("mobilenet_v2", {}, "stage2_block2_add"),
        ("resnext29", {"groups": 2, "group_width": 64, "planes": (4, 5, 6)}, "stage1_block1_add"),
    ],
)
@pytest.mark.usefixtures("numpy_weights")
def test_masks_act_in_blocks_with_grouped_and_depthwise_convolutions(name, options, last, rng):
    model = models.build(name, 10, (8, 8, 3), seed=0, **options)
    # The first blocks are enough: TensorFlow compiles every grouped convolution anew, and untrained, the depth of
    # MobileNetV2 leaves next to nothing of a signal.
    front = keras.Model(model.input, model.get_layer(last).output)
    x = ops.convert_to_tensor(rng.random((2, 8, 8, 3)).astype("float32"))
    space = SubnetSpace(model, rho=0.5)
    whole = ops.convert_to_numpy(front(x))
    with subnet(model, space.highest(rng.random(space.size))):
        assert np.abs(ops.convert_to_numpy(front(x)) - whole).max() > 1e-4
    with subnet(model, {name: ops.ones((gate.channels,)) for name, gate in space.gates.items()}):
        np.testing.assert_array_equal(ops.convert_to_numpy(front(x)), whole)


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wide_resnet", {"depth": 30}, r"`depth` must be 6 n \+ 4"),
        ("wide_resnet", {"width": 0}, "`width` must be an integer of at least 1"),
        ("resnext29", {"group_width": 12}, "`groups` times `group_width` must be a multiple of 64"),
        ("resnet20", {"planes": (16, 32)}, "channels of three stages"),
        ("resnet20", {"dropout": 1.0}, r"`dropout` must be .* in \[0, 1\)"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, 10, (32, 32, 3), **options)


@pytest.mark.once
def test_dropout_ends_each_residual_and_adds_no_parameters():
    model = models.build("resnet8", 10, (8, 8, 3), dropout=0.2)
    drops = [layer.name for layer in model.layers if "Dropout" in type(layer).__name__]
    assert drops == [f"stage{stage}_block1_dropout" for stage in (1, 2, 3)]
    plain = models.build("resnet8", 10, (8, 8, 3))
    assert len(model.trainable_variables) == len(plain.trainable_variables)
