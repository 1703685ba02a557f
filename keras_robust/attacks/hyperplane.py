"""Projection on a hyperplane inside the box [0, 1], for three norms, without a sort."""

import functools
from collections.abc import Callable

from keras import ops

from keras_robust.checks import Tensor

_MOST_ROUNDS = 60  # of Newton's method, which ends after some 5 to 10, or 2 or 3 from a good guess
_SETTLED = 1e-6  # relative change of the multiplier below which Newton's method has ended
_MOST_HALVINGS = 20  # of the bracket of the L1 threshold
_NARROW = 1e-3  # relative width of that bracket at which it is shared out; the distance is then closer than that
_TINY, _HUGE = 1e-30, 1e30

Part = Callable[[str, Callable], Callable]
"""Gives back a pure function of tensors, compiled; the name tells it from the others."""


def project_on_hyperplane(
    norm: str,
    points: Tensor,
    weights: Tensor,
    values: Tensor,
    guess: Tensor,
    part: Part = lambda name, function: function,
) -> tuple[Tensor, Tensor]:
    """Returns the smallest move, in the norm, that takes points to a hyperplane and keeps them in [0, 1].

    The move of a feature is `min(multiplier * scale, room)` towards the hyperplane, with `scale` 1 for Linf and
    `|weight|` for L2. What the moves gain is a concave piecewise linear function of the multiplier, on which
    Newton's method reaches the exact solution in a few rounds. For L1 the features of the largest weights
    move to the face of the box, up to a threshold found by bisection, at which the rest is shared out.

    Args:
        norm: 'Linf', 'L2' or 'L1'.
        points: Points in [0, 1], shape `(..., features)`.
        weights: Normal vectors, of a shape that broadcasts against `points`.
        values: `weights @ point - offset`, what the move has to bring to 0, shape `(...)`.
        guess: Multipliers (L1: thresholds) of a similar problem, shape `(...)`; zeros where there is none.
        part: Compiles the parts between the looks at whether the multipliers have settled.

    Returns:
        The moves, of the shape of `points`, and the multipliers, to be the next guess. Where the box does not
        reach the hyperplane, the move to the corner nearest to it.

    Reference:
        Croce and Hein, 2020, https://arxiv.org/abs/1907.02044 (section 2)
    """
    *problem, need, downhill = part("problem", functools.partial(_problem, norm))(points, weights, values)
    solution = _SOLVERS[norm](*problem, need, guess, part)
    moves = part("moves", _MOVES[norm])(*problem, need, downhill, *solution)
    return moves, solution[0]


def _problem(norm, points, weights, values):
    """Scales the problem to slopes of at most 1.

    Returns the slopes, the room of each feature, the most that its move gains, what it gains for each unit of the
    multiplier, what the moves have to gain, and their signs.
    """
    slope = ops.abs(weights)
    largest = ops.max(slope, axis=-1, keepdims=True) + _TINY
    slope = slope / largest  # squares of the gradients of a confident model would underflow
    values = values / largest[..., 0]
    above = ops.cast(ops.where(values >= 0, 1.0, -1.0), weights.dtype)  # of two numbers: in Keras's default type
    downhill = -ops.sign(weights) * above[..., None]
    room = ops.where(downhill > 0, 1.0 - points, points)
    return slope, room, slope * room, slope * slope if norm == "L2" else slope, ops.abs(values), downhill


def _linf_move(multiplier, slope):
    del slope
    return multiplier[..., None]


def _l2_move(multiplier, slope):
    return multiplier[..., None] * slope


def _improve(move, slope, room, gain, steep, need, multiplier):
    free = room > move(multiplier, slope)
    stopped = ops.sum(ops.where(free, 0.0, gain), axis=-1)
    slope = ops.sum(ops.where(free, steep, 0.0), axis=-1)
    # The tangent of a concave function lies above it: after one round the solution is approached from below.
    found = ops.clip((need - stopped) / (slope + _TINY), 0.0, _HUGE)
    return found, ops.any(ops.abs(found - multiplier) > _SETTLED * multiplier)


def _newton(move, slope, room, gain, steep, need, guess, part) -> tuple[Tensor]:
    """Finds the multiplier at which the gain meets the need; huge where it never does."""
    problem = slope, room, gain, steep, need
    improve = part("improve", functools.partial(_improve, move))
    multiplier, _ = ops.while_loop(
        lambda _, moved: moved,
        lambda multiplier, _: improve(*problem, multiplier),
        (guess, ops.any(need >= 0.0)),
        maximum_iterations=_MOST_ROUNDS,
    )
    return (multiplier,)


def _newton_moves(move, slope, room, gain, steep, need, downhill, multiplier):
    return downhill * ops.minimum(move(multiplier, slope), room)


def _above(slope, gain, threshold):
    return ops.sum(ops.where(slope > threshold[..., None], gain, 0.0), axis=-1)


def _halve(slope, gain, need, low, high, middle):
    enough = _above(slope, gain, middle) >= need
    low, high = ops.where(enough, middle, low), ops.where(enough, high, middle)
    return low, high, 0.5 * (low + high), ops.any((high - low > _NARROW * high) & (high > 1e-6))


def _bracket(slope, gain, need, guess):
    # The guess is most often near: two looks beside it replace most of the halvings.
    low, high = ops.zeros_like(need), ops.ones_like(need)
    low, high, *_ = _halve(slope, gain, need, low, high, ops.minimum(0.95 * guess, 1.0))
    return _halve(slope, gain, need, low, high, ops.maximum(ops.minimum(1.05 * guess, high), low))


def _bisect(slope, room, gain, steep, need, guess, part) -> tuple[Tensor, Tensor]:
    """Finds thresholds above which the slopes gain too little, and just enough; the first one is the higher."""
    halve = part("halve", _halve)
    low, high, *_ = ops.while_loop(
        lambda low, high, middle, wide: wide,
        lambda low, high, middle, wide: halve(slope, gain, need, low, high, middle),
        part("bracket", _bracket)(slope, gain, need, guess),
        maximum_iterations=_MOST_HALVINGS,
    )
    return high, low


def _bisected_moves(slope, room, gain, steep, need, downhill, high, low):
    whole = slope > high[..., None]
    partial = (slope > low[..., None]) & ~whole
    first, both = _above(slope, gain, high), _above(slope, gain, low)
    share = ops.clip((need - first) / (both - first + _TINY), 0.0, 1.0)
    return downhill * ops.where(whole, room, ops.where(partial, share[..., None] * room, 0.0))


_SOLVERS: dict[str, Callable] = {
    "Linf": functools.partial(_newton, _linf_move),
    "L2": functools.partial(_newton, _l2_move),
    "L1": _bisect,
}
_MOVES: dict[str, Callable] = {
    "Linf": functools.partial(_newton_moves, _linf_move),
    "L2": functools.partial(_newton_moves, _l2_move),
    "L1": _bisected_moves,
}
