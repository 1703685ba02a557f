import keras
import numpy as np
import pytest

from keras_robust import norms
from keras_robust.attacks import FAB, Predictor
from tests.attacks.linear import closest_distance, linear_model

SHAPE = (6, 6, 3)


def _data(classes, count=16):
    model, weights, bias = linear_model(classes, SHAPE, seed=0)
    x = np.clip(np.random.default_rng(1).uniform(-0.2, 1.2, (count, *SHAPE)), 0, 1).astype("float32")
    y = (x.reshape(count, -1) @ weights + bias).argmax(1).astype("int32")
    return model, x, y, weights, bias


def _exact(norm, x, y, weights, bias):
    """Distance to the nearest class region of a linear model, a lower bound with many classes."""
    distances = []
    for other in range(weights.shape[1]):
        distance = closest_distance(norm, x, weights.T[other] - weights.T[y], bias[other] - bias[y])
        distances.append(np.where(y == other, np.inf, distance))
    return np.min(distances, axis=0)


def _length(norm, delta):
    return keras.ops.convert_to_numpy(norms.get(norm).length(delta))


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_fab_finds_the_closest_adversarial_image_of_a_linear_model(norm, targeted):
    model, x, y, weights, bias = _data(2)
    x_adv = FAB(norm, steps=50, targeted=targeted)(model, x, y)
    assert np.all(Predictor.of(model).predict(x_adv).argmax(1) != y)
    exact = _exact(norm, x, y, weights, bias)
    assert (_length(norm, x_adv - x) / exact).max() <= 1.01  # issue B asks for 1 %
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_fab_over_all_targets_finds_the_nearest_of_several_classes(norm):
    model, x, y, weights, bias = _data(4)
    x_adv = FAB(norm, steps=50)(model, x, y)
    exact = _exact(norm, x, y, weights, bias)
    assert (_length(norm, x_adv - x) / exact).max() <= 1.02  # another class may cover the nearest point


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_fab_breaks_the_rows_whose_boundary_is_within_epsilon(norm):
    model, x, y, weights, bias = _data(3)
    exact = _exact(norm, x, y, weights, bias)
    epsilon = float(np.median(exact))
    x_adv = FAB(norm, epsilon)(model, x, y)
    broken = Predictor.of(model).predict(x_adv).argmax(1) != y
    assert np.all(broken[exact < 0.98 * epsilon])
    assert not np.any(broken[exact > epsilon])
    assert _length(norm, x_adv - x).max() <= epsilon * (1 + 1e-5)
    assert _length(norm, x_adv - x).min() > 0.5 * epsilon * exact.min() / exact.max()  # never the clean image


def test_fab_stops_early_where_all_rows_are_within_epsilon():
    model, x, y, weights, bias = _data(2)
    epsilon = float(1.1 * _exact("L2", x, y, weights, bias).max())
    predictor = Predictor.of(model)
    predictor.backward_passes = 0
    FAB("L2", epsilon)(model, x, y)
    assert predictor.backward_passes <= 12 * len(x)


def test_fab_returns_a_misclassified_clean_image_as_it_is():
    model, x, y, _, _ = _data(2)
    x_adv = FAB("L2", steps=5)(model, x, 1 - y)
    np.testing.assert_array_equal(x_adv, x)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_fab_restarts_from_random_points_do_no_harm(norm):
    model, x, y, _, _ = _data(3)
    once = FAB(norm, steps=10)(model, x, y)
    twice = FAB(norm, steps=10, restarts=2)(model, x, y)
    assert np.all(_length(norm, twice - x) <= _length(norm, once - x) * (1 + 1e-5))


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 9])
def test_fab_takes_every_other_class_as_target_where_there_are_few(classes):
    model, x, y, _, _ = _data(classes, count=1)
    attack = FAB("Linf", steps=5)
    assert attack.stages(classes) == classes - 1
    assert np.all(Predictor.of(model).predict(attack(model, x, y)).argmax(1) != y)


@pytest.mark.once
@pytest.mark.parametrize("options", [{"norm": "L0"}, {"epsilon": 8}, {"steps": 0}, {"beta": 0.0}, {"eta": 0.9}])
def test_fab_names_a_wrong_option(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        FAB(**options)
