"""Projection on a hyperplane inside the box [0, 1], for three norms, without a sort."""

from collections.abc import Callable

from keras import ops

from keras_robust.checks import Tensor

_HALVINGS = 16  # of the bracket of the L1 threshold: the distance is then exact to some 1e-4
_MOST_ROUNDS = 60  # of Newton's method, which ends after some 5 to 10
_SETTLED = 1e-6  # relative rise of the multiplier below which Newton's method has ended
_TINY, _HUGE = 1e-30, 1e30


def project_on_hyperplane(norm: str, points: Tensor, weights: Tensor, values: Tensor) -> Tensor:
    """Returns the smallest move, in the norm, that takes points to a hyperplane and keeps them in [0, 1].

    The move of a feature is `min(multiplier * scale, room)` towards the hyperplane, with `scale` 1 for Linf and
    `|weight|` for L2. What the moves gain is a concave piecewise linear function of the multiplier, on which
    Newton's method climbs from 0 to the exact solution in a few rounds. For L1 the features of the largest weights
    move to the face of the box, up to a threshold found by bisection, at which the rest is shared out.

    Args:
        norm: 'Linf', 'L2' or 'L1'.
        points: Points in [0, 1], shape `(..., features)`.
        weights: Normal vectors, of a shape that broadcasts against `points`.
        values: `weights @ point - offset`, what the move has to bring to 0, shape `(...)`.

    Returns:
        The moves, of the shape of `points`. Where the box does not reach the hyperplane, the move to the corner
        nearest to it.

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
    return downhill * _AMOUNTS[norm](slope, room, need)


def _linf_amount(slope, room, need):
    def round_trip(multiplier):
        free = ops.where(room > multiplier[..., None], slope, 0.0)
        return ops.sum((slope - free) * room, axis=-1), ops.sum(free, axis=-1)

    return ops.minimum(_newton(round_trip, need)[..., None], room)


def _l2_amount(slope, room, need):
    def round_trip(multiplier):
        free = ops.where(room > multiplier[..., None] * slope, slope, 0.0)
        return ops.sum((slope - free) * room, axis=-1), ops.sum(free * slope, axis=-1)

    return ops.minimum(_newton(round_trip, need)[..., None] * slope, room)


def _newton(round_trip: Callable, need: Tensor) -> Tensor:
    """Climbs to the multiplier at which the gain meets the need; large where it never does.

    `round_trip(multiplier)` gives what the features at the face of the box gain, and the slope of the others.
    """

    def improve(multiplier, _):
        stopped, slope = round_trip(multiplier)
        # The tangent of a concave function lies above it: from 0 it never leads past the solution.
        found = ops.clip((need - stopped) / (slope + _TINY), multiplier, _HUGE)
        return found, ops.any(found > multiplier * (1.0 + _SETTLED))

    start = (ops.zeros_like(need), ops.any(need >= 0.0))
    multiplier, _ = ops.while_loop(lambda _, moved: moved, improve, start, maximum_iterations=_MOST_ROUNDS)
    return multiplier


def _l1_amount(slope, room, need):
    gain = slope * room

    def above(threshold):
        return ops.sum(ops.where(slope > threshold[..., None], gain, 0.0), axis=-1)

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        enough = above(middle) >= need
        return ops.where(enough, middle, low), ops.where(enough, high, middle)

    low, high = ops.fori_loop(0, _HALVINGS, halve, (ops.zeros_like(need), ops.ones_like(need)))
    whole = slope > high[..., None]
    partial = (slope > low[..., None]) & ~whole
    first, both = above(high), above(low)
    share = ops.clip((need - first) / (both - first + _TINY), 0.0, 1.0)
    return ops.where(whole, room, ops.where(partial, share[..., None] * room, 0.0))


_AMOUNTS = {"Linf": _linf_amount, "L2": _l2_amount, "L1": _l1_amount}
