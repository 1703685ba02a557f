import numpy as np
import pytest
from keras import ops
from scipy.special import log_softmax, softmax

from keras_robust import backend, losses

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32 against float64


@pytest.fixture
def case(rng):
    logits = rng.normal(0, 3, (20, 6)).astype("float32")
    return logits, rng.integers(0, 6, 20), (logits.argsort(1)[:, -2])


def value(function, *arguments):
    arguments = [ops.convert_to_tensor(each) for each in arguments]
    return ops.convert_to_numpy(function(*arguments))


def test_cross_entropy_equals_scipy(case):
    logits, y, _ = case
    expected = -log_softmax(logits.astype("float64"), axis=1)[np.arange(20), y]
    np.testing.assert_allclose(value(losses.cross_entropy, logits, y), expected, **CLOSE)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_smoothed_cross_entropy_equals_scipy(case, label_smoothing):
    logits, y, _ = case
    target = (1 - label_smoothing) * np.eye(6)[y] + label_smoothing / 6
    expected = -(target * log_softmax(logits.astype("float64"), axis=1)).sum(axis=1)
    received = value(lambda logits, y: losses.cross_entropy(logits, y, label_smoothing), logits, y)
    np.testing.assert_allclose(received, expected, **CLOSE)


def test_cross_entropy_and_its_gradient_keep_their_precision_where_the_model_is_sure(rng):
    # log-sum-exp minus the true logit would round to 0 from a margin of 17 on, and its gradient to noise.
    logits = rng.normal(0, 1, (8, 6)).astype("float32")
    y = rng.integers(0, 6, 8)
    logits[np.arange(8), y] += np.linspace(10, 70, 8).astype("float32")
    exact = logits.astype("float64")
    odds = np.exp(exact - exact[np.arange(8), y][:, None])
    odds[np.arange(8), y] = 0  # p_j / p_y of the other classes
    slope = odds.copy()
    slope[np.arange(8), y] = -odds.sum(axis=1)

    labels = ops.convert_to_tensor(y)
    every = odds.sum(axis=1, keepdims=True)
    weights = ops.convert_to_tensor((1 / every[:, 0]).astype("float32"))  # else the surest rows would not count
    _, gradient = backend.value_and_grad(
        lambda each: ops.sum(losses.cross_entropy(each, labels) * weights), ops.convert_to_tensor(logits)
    )
    np.testing.assert_allclose(value(losses.cross_entropy, logits, y), np.log1p(every[:, 0]), rtol=1e-3)
    np.testing.assert_allclose(ops.convert_to_numpy(gradient), slope / (1 + every) / every, rtol=1e-3, atol=1e-6)


def test_margin_is_positive_exactly_where_the_prediction_is_wrong(case):
    logits, y, _ = case
    np.testing.assert_array_equal(value(losses.margin, logits, y) > 0, logits.argmax(1) != y)


def test_margin_equals_the_best_other_logit_minus_the_true_one(case):
    logits, y, _ = case
    expected = [np.delete(row, label).max() - row[label] for row, label in zip(logits, y, strict=True)]
    np.testing.assert_allclose(value(losses.margin, logits, y), expected, **CLOSE)


def test_dlr_equals_equation_6(case):
    logits, y, _ = case
    ranked = np.sort(logits, axis=1)[:, ::-1]
    expected = [
        (np.delete(row, label).max() - row[label]) / (top[0] - top[2])
        for row, label, top in zip(logits, y, ranked, strict=True)
    ]
    np.testing.assert_allclose(value(losses.dlr, logits, y), expected, **CLOSE)


def test_targeted_dlr_equals_equation_7(case):
    logits, y, target = case
    ranked = np.sort(logits.astype("float64"), axis=1)[:, ::-1]
    rows = np.arange(20)
    expected = (logits[rows, target] - logits[rows, y]) / (
        ranked[:, 0] - 0.5 * (ranked[:, 2] + ranked[:, 3]) + 1e-12
    )
    np.testing.assert_allclose(value(losses.targeted_dlr, logits, y, target), expected, **CLOSE)


@pytest.mark.parametrize("name", ["dlr", "targeted_dlr"])
def test_difference_of_logits_ratios_do_not_change_with_shift_and_scale(case, name):
    logits, *labels = case
    labels = labels[: 1 if name == "dlr" else 2]
    function = getattr(losses, name)
    moved = value(function, 5 * logits + 2, *labels)
    np.testing.assert_allclose(moved, value(function, logits, *labels), **CLOSE)


def test_kl_equals_numpy_and_vanishes_between_equals(case, rng):
    logits, _, _ = case
    other = rng.normal(0, 3, logits.shape).astype("float32")
    p = softmax(logits.astype("float64"), axis=1)
    expected = (p * (log_softmax(logits.astype("float64"), 1) - log_softmax(other.astype("float64"), 1))).sum(1)
    np.testing.assert_allclose(value(losses.kl, logits, other), expected, **CLOSE)
    np.testing.assert_allclose(value(losses.kl, logits, logits + 1), 0, atol=1e-5)


def test_jensen_shannon_equals_numpy_and_is_symmetric(case, rng):
    logits, _, _ = case
    nets = [logits, *rng.normal(0, 3, (2, *logits.shape)).astype("float32")]
    chances = [softmax(each.astype("float64"), axis=1) for each in nets]
    mixture = np.clip(sum(chances) / 3, 1e-7, 1)
    expected = sum((p * (np.log(p) - np.log(mixture))).sum(1) for p in chances) / 3
    np.testing.assert_allclose(value(losses.jensen_shannon, *nets), expected, **CLOSE)
    np.testing.assert_allclose(value(losses.jensen_shannon, *nets[::-1]), expected, **CLOSE)


def test_losses_stay_finite_for_huge_logits():
    logits, y = np.array([[1e4, -1e4, 0.0, 5.0]], "float32"), np.array([1])
    for function in (losses.cross_entropy, losses.margin, losses.dlr):
        assert np.isfinite(value(function, logits, y)).all()
