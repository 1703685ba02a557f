"""Optimizers and batch normalisation against PyTorch's own, number by number."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_robust import pipeline
from keras_robust.training import SGD, Adam, PiecewiseConstant
from keras_robust.training.recipe import parse_recipe

STEPS = 50
ROUNDING = 2e-5  # float32, accumulated over 50 steps of numbers of size 1


def problem():
    """A start, and gradients that depend on the weights, for two variables."""
    rng = np.random.default_rng(0)
    starts = [rng.standard_normal((4, 3)).astype("float32"), rng.standard_normal(3).astype("float32")]
    targets = [rng.standard_normal(start.shape).astype("float32") for start in starts]
    return starts, targets, rng.uniform(0.5, 2.0, STEPS).astype("float32")


def ours(optimizer):
    starts, targets, curvatures = problem()
    variables = [keras.Variable(start) for start in starts]
    optimizer.build(variables)
    for curvature in curvatures:
        gradients = [
            ops.convert_to_tensor(curvature * (ops.convert_to_numpy(variable.value) - target))
            for variable, target in zip(variables, targets, strict=True)
        ]
        optimizer.apply(gradients, variables)
    return [ops.convert_to_numpy(variable.value) for variable in variables]


def pytorchs(make, milestones=(), max_norm=None):
    torch = pytest.importorskip("torch")
    starts, targets, curvatures = problem()
    weights = [torch.nn.Parameter(torch.from_numpy(start.copy())) for start in starts]
    optimizer = make(torch.optim, weights)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(milestones), gamma=0.1)
    for curvature in curvatures:
        for weight, target in zip(weights, targets, strict=True):
            weight.grad = float(curvature) * (weight.detach() - torch.from_numpy(target))
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(weights, max_norm)
        optimizer.step()
        schedule.step()
    return [weight.detach().numpy() for weight in weights]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=ROUNDING)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_fifty_steps_of_sgd_equal_pytorchs(momentum, nesterov, weight_decay):
    options = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    expected = pytorchs(lambda optim, weights: optim.SGD(weights, lr=0.05, **options))
    assert_same(ours(SGD(0.05, **options)), expected)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_fifty_steps_of_adam_equal_pytorchs(weight_decay):
    expected = pytorchs(lambda optim, weights: optim.Adam(weights, lr=0.05, weight_decay=weight_decay))
    assert_same(ours(Adam(0.05, weight_decay=weight_decay)), expected)


def test_sgd_with_momentum_equals_pytorchs_when_the_learning_rate_falls():
    options = {"momentum": 0.9, "weight_decay": 0.01}
    expected = pytorchs(lambda optim, weights: optim.SGD(weights, lr=0.1, **options), milestones=(10, 30))
    assert_same(ours(SGD(PiecewiseConstant(0.1, [10, 30], 0.1), **options)), expected)


def test_a_recipe_that_bounds_the_gradient_does_what_pytorch_does():
    options = {"momentum": 0.9, "weight_decay": 0.1}
    table = {"name": "sgd", "learning_rate": 0.05, "max_gradient_norm": 0.5, **options}
    content = {"name": "a.b", "dataset": {"name": "digits"}, "model": {"builder": "resnet8"}, "optimizer": table}
    recipe = parse_recipe(content | {"training": {"epochs": 1, "batch_size": 1}})
    expected = pytorchs(lambda optim, weights: optim.SGD(weights, lr=0.05, **options), max_norm=0.5)
    assert_same(ours(pipeline.make_optimizer(recipe, [STEPS])), expected)


def test_kerass_own_sgd_differs_so_the_oracle_can_tell():
    expected = pytorchs(lambda optim, weights: optim.SGD(weights, lr=0.05, momentum=0.9, weight_decay=0.1))
    found = ours(keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=0.1))
    assert max(np.abs(one - other).max() for one, other in zip(found, expected, strict=True)) > 100 * ROUNDING


def test_one_update_of_batch_normalization_equals_pytorchs_but_for_its_unbiased_variance():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(1.0, 2.0, (8, 5, 5, 3)).astype("float32")
    layer = keras.layers.BatchNormalization(epsilon=1e-5, momentum=0.9)
    output = ops.convert_to_numpy(layer(ops.convert_to_tensor(x), training=True))
    reference = torch.nn.BatchNorm2d(3)
    expected = reference(torch.from_numpy(x.transpose(0, 3, 1, 2))).detach().numpy().transpose(0, 2, 3, 1)
    count = x.size // 3
    # PyTorch keeps n / (n - 1) times the variance that it normalises with; Keras keeps the variance itself.
    variance = (reference.running_var.numpy() - 0.9) * (count - 1) / count + 0.9
    np.testing.assert_allclose(output, expected, atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean.numpy(), reference.running_mean.numpy(), atol=1e-6)
    np.testing.assert_allclose(layer.moving_variance.numpy(), variance, atol=1e-6)


@pytest.mark.parametrize(
    "optimizer", [SGD(0.2, 0.9, True, 1e-4), Adam(0.01, weight_decay=1e-4), SGD(PiecewiseConstant(0.1, [3]))]
)
def test_an_optimizer_survives_serialisation(optimizer):
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(copy) is type(optimizer)
    assert copy.get_config() == optimizer.get_config()


@pytest.mark.parametrize("make", [SGD, Adam])
def test_variables_that_are_excluded_do_not_decay(make):
    optimizer = make(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    variables = [keras.Variable(np.ones(2, "float32"), name=name) for name in ("kernel", "bias")]
    optimizer.build(variables)
    optimizer.apply([ops.zeros(2), ops.zeros(2)], variables)
    kernel, bias = (ops.convert_to_numpy(variable.value) for variable in variables)
    assert (kernel < 1).all()
    np.testing.assert_array_equal(bias, 1)
