import numpy as np
import pytest
from keras import ops

from keras_robust.attacks.hyperplane import project_on_hyperplane

LENGTH = {
    "Linf": lambda moves: np.abs(moves).max(-1),
    "L2": lambda moves: np.linalg.norm(moves, axis=-1),
    "L1": lambda moves: np.abs(moves).sum(-1),
}


def _sorted_solution(norm, point, weights, value):
    """Solves one projection in float64 by sorting the features in the order in which they reach the box."""
    point, weights = point.astype("float64"), weights.astype("float64")
    slope, downhill = np.abs(weights), -np.sign(weights) * (1.0 if value >= 0 else -1.0)
    room = np.where(downhill > 0, 1 - point, point)
    room = np.where(slope > 0, room, 0.0)
    gain, need = slope * room, abs(float(value))
    if gain.sum() <= need:
        return downhill * room
    if norm == "L1":
        order = np.argsort(-slope)
        before = np.cumsum(gain[order]) - gain[order]
        amount = np.empty_like(room)
        amount[order] = np.clip((need - before) / np.maximum(slope[order], 1e-300), 0, room[order])
        return downhill * amount
    scale = np.where(norm == "Linf", 1.0, slope)
    reach = np.where(slope > 0, room / np.maximum(scale, 1e-300), 1e300)  # the multiplier at which each one stops
    order = np.argsort(reach)
    stopped = np.concatenate([[0.0], np.cumsum(gain[order])])[:-1]
    moving = np.cumsum((slope * scale)[order][::-1])[::-1]
    gains = stopped + reach[order] * moving  # at each breakpoint; rises
    first = np.argmax(gains >= need)
    return downhill * np.minimum((need - stopped[first]) / moving[first] * scale, room)


def _cases(rng, features, heavy):
    points = np.clip(rng.uniform(-0.3, 1.3, (2, 12, features)), 0, 1).astype("float32")
    weights = rng.standard_normal((12, features)) * (rng.uniform(0, 1, (12, features)) > 0.2)
    if heavy:  # like real gradients: a few features count
        weights = weights * np.exp(3 * rng.standard_normal((12, features)))
    reach = (np.abs(weights) * 0.5).sum(-1)
    values = reach * rng.uniform(-1.0, 1.0, (2, 12)) ** 3
    return points, weights.astype("float32"), values.astype("float32")


def _project(norm, points, weights, values, guess=None):
    guess = np.zeros_like(values) if guess is None else guess
    tensors = map(ops.convert_to_tensor, (points, weights, values, guess))
    moves, multipliers = project_on_hyperplane(norm, *tensors)
    return ops.convert_to_numpy(moves), ops.convert_to_numpy(multipliers)


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("features", [5, 300])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_projection_agrees_with_the_sorted_solution(norm, features, heavy, rng):
    points, weights, values = _cases(rng, features, heavy)
    found, _ = _project(norm, points, weights, values)
    for side in (0, 1):
        for row in range(12):
            exact = _sorted_solution(norm, points[side, row], weights[row], values[side, row])
            move = found[side, row].astype("float64")
            length, best = LENGTH[norm](move), LENGTH[norm](exact)
            assert length <= best * 1.002 + 1e-6  # the L1 threshold is bracketed, not exact
            left, least = (values[side, row] + move @ weights[row], values[side, row] + exact @ weights[row])
            # float32 sums of `features` terms
            assert abs(left - least) <= 1e-5 * np.abs(weights[row]).sum() + 1e-6
            moved = points[side, row] + move
            assert moved.min() >= -1e-6
            assert moved.max() <= 1 + 1e-6


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_projection_survives_tiny_and_zero_weights(norm):
    points = np.full((3, 4), 0.5, "float32")
    weights = np.array([[0, 0, 0, 0], [1e-25, 2e-25, 0, 0], [1, 2, 0, 0]], "float32")
    values = np.array([1.0, 0.3e-25, 0.3], "float32")
    moves, _ = _project(norm, points, weights, values)
    assert np.all(moves[0] == 0)
    np.testing.assert_allclose(moves[1], moves[2], rtol=1e-4)  # the scale of the weights does not matter
    np.testing.assert_allclose(moves[2] @ weights[2], -0.3, rtol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 0.5, 1.02, 30.0])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_projection_does_not_depend_on_the_guess(norm, factor, rng):
    case = _cases(rng, 50, heavy=True)
    moves, multipliers = _project(norm, *case)
    again, _ = _project(norm, *case, guess=(multipliers * factor).astype("float32"))
    np.testing.assert_allclose(LENGTH[norm](again), LENGTH[norm](moves), rtol=1e-3, atol=1e-6)
