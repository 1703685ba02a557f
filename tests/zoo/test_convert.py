import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from keras_robust import models
from keras_robust.zoo.convert import convertible, load_torch_weights, save_torch_weights

PLANES = (8, 12, 16, 20)
SAME_LOGITS = 1e-4  # float32 rounding of 20 layers in another order, relative to the largest logit


@pytest.fixture(scope="module")
def reference():
    """A PyTorch CIFAR ResNet-18 in the field's naming, with the statistics of a trained one."""
    torch = pytest.importorskip("torch")
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self, inputs, width, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.shortcut = nn.Sequential()
            if stride != 1 or inputs != width:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
                )

        def forward(self, x):
            y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
            return functional.relu(y + self.shortcut(x))

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, PLANES[0], 3, 1, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(PLANES[0])
            inputs = PLANES[0]
            for stage, width in enumerate(PLANES, start=1):
                blocks = [Block(inputs, width, 1 if stage == 1 else 2), Block(width, width, 1)]
                setattr(self, f"layer{stage}", nn.Sequential(*blocks))
                inputs = width
            self.linear = nn.Linear(PLANES[-1], 10)

        def forward(self, x):
            y = functional.relu(self.bn1(self.conv1(x)))
            y = self.layer4(self.layer3(self.layer2(self.layer1(y))))
            return self.linear(functional.avg_pool2d(y, 4).flatten(1))

    generator = torch.Generator().manual_seed(0)
    module = ResNet().eval()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith(("running_var", "bn1.weight", "bn2.weight", "shortcut.1.weight")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point():
                tensor.normal_(0, tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.2, generator=generator)
    return module


@pytest.fixture
def state(reference):
    return {name: tensor.numpy().copy() for name, tensor in reference.state_dict().items()}


@pytest.fixture
def images(rng):
    return rng.random((4, 32, 32, 3), dtype="float32")


def build(**options):
    return models.build("resnet18", num_classes=10, input_shape=(32, 32, 3), seed=1, planes=PLANES, **options)


def saved(state, path):
    save_file(state, path)
    return path


def logits(model, x):
    return model.predict(x, verbose=0)  # compiled once: JAX compiles each layer of a bare call


def torch_logits(module, x):
    import torch

    with torch.no_grad():
        return module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


def assert_same(received, expected):
    np.testing.assert_allclose(received, expected, atol=SAME_LOGITS * np.abs(expected).max())


def test_a_pytorch_resnet18_gives_its_logits_in_keras(reference, state, images, tmp_path):
    model = build()
    load_torch_weights(model, saved(state, tmp_path / "net.safetensors"))
    assert_same(logits(model, images), torch_logits(reference, images))


def test_a_keras_resnet18_gives_its_logits_in_pytorch(reference, images, tmp_path):
    import copy

    from safetensors.torch import load_file as load_torch_file

    model = build()
    save_torch_weights(model, tmp_path / "net.safetensors")
    module = copy.deepcopy(reference)
    module.load_state_dict(load_torch_file(tmp_path / "net.safetensors"))
    assert_same(torch_logits(module, images), logits(model, images))


def test_import_and_export_give_the_same_tensors(state, tmp_path):
    model = build()
    load_torch_weights(model, saved(state, tmp_path / "in.safetensors"))
    save_torch_weights(model, tmp_path / "out.safetensors")
    received = load_file(tmp_path / "out.safetensors")
    expected = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert received.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(received[name], value, err_msg=name)


@pytest.mark.once
def test_torchvisions_names_and_data_parallels_prefix_are_understood(state, tmp_path):
    other = {
        f"module.{name}".replace("shortcut.", "downsample.").replace("linear.", "fc."): value
        for name, value in state.items()
    }
    one, two = build(), build()
    load_torch_weights(one, saved(state, tmp_path / "one.safetensors"))
    load_torch_weights(two, saved(other, tmp_path / "two.safetensors"))
    for variable, same in zip(one.variables, two.variables, strict=True):
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(v.value) for v in (variable, same)))


@pytest.mark.once
def test_what_does_not_fit_is_named_and_leaves_the_model_alone(state, tmp_path):
    model = build()
    before = [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in model.variables]
    cases = {
        r"must hold a tensor 'layer2.0.shortcut.0.weight'": {
            name: value for name, value in state.items() if name != "layer2.0.shortcut.0.weight"
        },
        r"Received: also layer5.0.conv1.weight": {**state, "layer5.0.conv1.weight": np.zeros(1, "float32")},
        r"'linear.weight'.*must have the shape \(20, 10\).*Received: shape=\(20, 100\)": {
            **state,
            "linear.weight": np.zeros((100, 20), "float32"),
        },
    }
    for message, tensors in cases.items():
        with pytest.raises(ValueError, match=message):
            load_torch_weights(model, saved(tensors, tmp_path / "bad.safetensors"))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable.value), value)


@pytest.mark.once
def test_a_pickle_is_refused_unread(reference, tmp_path):
    import torch

    path = tmp_path / "net.pt"
    torch.save(reference.state_dict(), path)
    with pytest.raises(ValueError, match=r"must be a safetensors file.*weights_only=True"):
        load_torch_weights(build(), path)
    with pytest.raises(ValueError, match="which is absent"):
        load_torch_weights(build(), tmp_path / "absent.safetensors")


@pytest.mark.once
def test_an_architecture_without_a_table_is_refused(tmp_path):
    model = models.build("kap_cnn", num_classes=10, input_shape=(8, 8, 1))
    with pytest.raises(ValueError, match=convertible()[0]):
        save_torch_weights(model, tmp_path / "net.safetensors")


def preact_reference(names, blocks, stem, planes):
    """A PyTorch pre-activation network; `names` are those of the stages, shortcut, final norm and head."""
    torch = pytest.importorskip("torch")
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self, inputs, width, stride):
            super().__init__()
            self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
            self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1, bias=False)
            if stride != 1 or inputs != width:
                projection = nn.Conv2d(inputs, width, 1, stride, bias=False)
                setattr(self, names["shortcut"], nn.Sequential(projection) if names["nested"] else projection)

        def forward(self, x):
            y = functional.relu(self.bn1(x))
            shortcut = getattr(self, names["shortcut"], None)
            x = x if shortcut is None else shortcut(y)
            return self.conv2(functional.relu(self.bn2(self.conv1(y)))) + x

    module = nn.Module()
    module.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
    inputs, stages = stem, []
    for stage, width in enumerate(planes, start=1):
        layers = [
            Block(inputs if block == 0 else width, width, 2 if stage > 1 and block == 0 else 1)
            for block in range(blocks)
        ]
        stages.append(nn.Sequential(*layers))
        holder = stages[-1]
        if names["stage"] == "block":
            holder = nn.Module()
            holder.layer = stages[-1]
        setattr(module, f"{names['stage']}{stage}", holder)
        inputs = width
    setattr(module, names["final"], nn.BatchNorm2d(inputs))
    setattr(module, names["head"], nn.Linear(inputs, 10))

    def forward(x):
        x = module.conv1(x)
        for stage in stages:
            x = stage(x)
        x = functional.relu(getattr(module, names["final"])(x)).mean((2, 3))
        return getattr(module, names["head"])(x)

    module.forward = forward
    generator = torch.Generator().manual_seed(1)
    for name, tensor in module.eval().state_dict().items():
        if "running_var" in name or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0, tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.2, generator=generator)
    return module


PREACT = {
    "preact_resnet18": (
        {"stage": "layer", "shortcut": "shortcut", "nested": True, "final": "bn", "head": "linear"},
        (2, 64, (64, 128, 256, 512)),
        {},
    ),
    "wide_resnet": (
        {"stage": "block", "shortcut": "convShortcut", "nested": False, "final": "bn1", "head": "fc"},
        (1, 16, (16, 32, 64)),
        {"depth": 10, "width": 1},
    ),
}


@pytest.mark.parametrize("name", PREACT)
def test_pre_activation_networks_of_pytorch_give_their_logits_in_keras_and_back(name, images, tmp_path):
    names, sizes, options = PREACT[name]
    reference = preact_reference(names, *sizes)
    state = {key: tensor.numpy().copy() for key, tensor in reference.state_dict().items()}
    # TRADES's wide networks hold a block that nothing uses.
    unused = {"sub_block1.layer.0.bn1.weight": np.ones(3, "float32")} if name == "wide_resnet" else {}
    model = models.build(name, 10, (32, 32, 3), **options)
    load_torch_weights(model, saved({**state, **unused}, tmp_path / "net.safetensors"))
    assert_same(logits(model, images), torch_logits(reference, images))
    save_torch_weights(model, tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == {key for key in state if not key.endswith("num_batches_tracked")}
    for key, value in back.items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)
