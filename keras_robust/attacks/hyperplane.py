"""Projection on a hyperplane inside the box [0, 1], for three norms, without a sort."""

from collections.abc import Callable

from keras import ops

from keras_robust.checks import Tensor

_MOST_ROUNDS = 60  # of Newton's method, which ends after some 5 to 10, or 2 or 3 from a good guess
_SETTLED = 1e-6  # relative change of the multiplier below which Newton's method has ended
_MOST_HALVINGS = 20  # of the bracket of the L1 threshold
_NARROW = 1e-3  # relative width of that bracket at which it is shared out; the distance is then closer than that
_TINY, _HUGE = 1e-30, 1e30


def project_on_hyperplane(
    norm: str, points: Tensor, weights: Tensor, values: Tensor, guess: Tensor
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

    Returns:
        The moves, of the shape of `points`, and the multipliers, to be the next guess. Where the box does not
        reach the hyperplane, the move to the corner nearest to it.

    Reference:
        Croce and Hein, 2020, https://arxiv.org/abs/1907.02044 (section 2)
    """
    slope = ops.abs(weights)
    largest = ops.max(slope, axis=-1, keepdims=True) + _TINY
    slope = slope / largest  # squares of the gradients of a confident model would underflow
    values = values / largest[..., 0]
    downhill = -ops.sign(weights) * ops.where(values >= 0, 1.0, -1.0)[..., None]
    need = ops.abs(values)
    room = ops.where(downhill > 0, 1.0 - points, points)
    amount, multiplier = _AMOUNTS[norm](slope, room, need, guess)
    return downhill * amount, multiplier


def _linf_amount(slope, room, need, guess):
    gain = slope * room

    def tangent(multiplier):
        free = room > multiplier[..., None]
        return ops.sum(ops.where(free, 0.0, gain), axis=-1), ops.sum(ops.where(free, slope, 0.0), axis=-1)

    multiplier = _newton(tangent, need, guess)
    return ops.minimum(multiplier[..., None], room), multiplier


def _l2_amount(slope, room, need, guess):
    gain, square = slope * room, slope * slope

    def tangent(multiplier):
        free = room > multiplier[..., None] * slope
        return ops.sum(ops.where(free, 0.0, gain), axis=-1), ops.sum(ops.where(free, square, 0.0), axis=-1)

    multiplier = _newton(tangent, need, guess)
    return ops.minimum(multiplier[..., None] * slope, room), multiplier


def _newton(tangent: Callable, need: Tensor, guess: Tensor) -> Tensor:
    """Finds the multiplier at which the gain meets the need; huge where it never does.

    `tangent(multiplier)` gives what the features at the face of the box gain, and the slope of the others.
    """

    def improve(multiplier, _):
        stopped, slope = tangent(multiplier)
        # The tangent of a concave function lies above it: after one round the solution is approached from below.
        found = ops.clip((need - stopped) / (slope + _TINY), 0.0, _HUGE)
        return found, ops.any(ops.abs(found - multiplier) > _SETTLED * multiplier)

    start = (guess, ops.any(need >= 0.0))
    multiplier, _ = ops.while_loop(lambda _, moved: moved, improve, start, maximum_iterations=_MOST_ROUNDS)
    return multiplier


def _l1_amount(slope, room, need, guess):
    gain = slope * room

    def above(threshold):
        return ops.sum(ops.where(slope > threshold[..., None], gain, 0.0), axis=-1)

    def halve(low, high, middle):
        enough = above(middle) >= need
        low, high = ops.where(enough, middle, low), ops.where(enough, high, middle)
        return low, high, 0.5 * (low + high)

    def wide(low, high, middle):
        return ops.any((high - low > _NARROW * high) & (high > 1e-6))

    # The guess is most often near: two looks beside it replace most of the halvings.
    low, high, _ = halve(ops.zeros_like(need), ops.ones_like(need), ops.minimum(0.95 * guess, 1.0))
    low, high, middle = halve(low, high, ops.maximum(ops.minimum(1.05 * guess, high), low))
    start = (low, high, middle)
    low, high, _ = ops.while_loop(wide, halve, start, maximum_iterations=_MOST_HALVINGS)
    whole = slope > high[..., None]
    partial = (slope > low[..., None]) & ~whole
    first, both = above(high), above(low)
    share = ops.clip((need - first) / (both - first + _TINY), 0.0, 1.0)
    return ops.where(whole, room, ops.where(partial, share[..., None] * room, 0.0)), high


_AMOUNTS = {"Linf": _linf_amount, "L2": _l2_amount, "L1": _l1_amount}
