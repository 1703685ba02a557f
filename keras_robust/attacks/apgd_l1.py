"""What Auto-PGD does differently for L1 balls: sparse steps, and checks that set how sparse they are.

Reference:
    Croce and Hein, 2021, https://arxiv.org/abs/2103.01208 (sections 3.2 and 3.3)
"""

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from keras_robust.checks import Tensor
from keras_robust.norms import L1, flat, per_example

_HALVINGS = 24  # of the bracket of a threshold; what is left of it is below the rounding of a float32 gradient


def sparse_step(x: Tensor, epsilon: Tensor) -> Callable[[Any, Tensor], Tensor]:
    """Returns the step of APGD for L1: equal moves of the features with the largest gradient, then projection."""

    def step(s, index):
        del index  # no momentum
        magnitude = ops.abs(flat(s.gradient))
        threshold = largest_threshold(magnitude, s.density)
        sign = ops.where(magnitude >= threshold[:, None], ops.sign(flat(s.gradient)), 0.0)
        scale = s.step_size / (ops.sum(ops.abs(sign), axis=1) + 1e-10)
        moved = s.x_adv + ops.reshape(scale[:, None] * sign, ops.shape(x))
        return L1.project(moved, x, epsilon)

    return step


def largest_threshold(magnitude: Tensor, density: Tensor) -> Tensor:
    """Returns the value that at least a share of the features reach, found by bisection instead of a sort.

    Args:
        magnitude: Non-negative numbers, shape `(batch, features)`.
        density: Share of the features of each row, shape `(batch,)`; at least one feature is counted.

    Returns:
        Threshold of each row, shape `(batch,)`.
    """
    features = magnitude.shape[1]
    count = ops.maximum(features - ops.floor((1.0 - density) * features), 1.0)

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        enough = ops.sum(ops.cast(magnitude >= middle[:, None], "float32"), axis=1) >= count
        return ops.where(enough, middle, low), ops.where(enough, high, middle)

    high = ops.max(magnitude, axis=1)
    low, _ = ops.fori_loop(0, _HALVINGS, halve, (ops.zeros_like(high), high))
    return low


def support(x_adv: Tensor, x: Tensor) -> Tensor:
    """Counts the features of each row of `x_adv` that differ from `x`, shape `(batch,)`."""
    return ops.sum(ops.cast(ops.not_equal(flat(x_adv), flat(x)), "float32"), axis=1)


def check(s: Any, x: Tensor, epsilon: Tensor) -> Any:
    """Sets how sparse the next steps are, from how sparse the best point is, and the step size.

    Rows whose best point became sparser by 5 % or more go back to it with the full step; others shorten the step.
    """
    features = math.prod(x.shape[1:])
    count = support(s.x_best, x)
    sparser = count < 0.95 * s.support
    sparser_image = per_example(sparser, x)
    shorter = ops.clip(s.step_size / 1.5, 0.1 * epsilon, epsilon)
    return s._replace(
        x_adv=ops.where(sparser_image, s.x_best, s.x_adv),
        gradient=ops.where(sparser_image, s.best_gradient, s.gradient),
        step_size=ops.where(sparser, epsilon, shorter),
        density=count / (1.5 * features),
        support=count,
    )
