"""Long device loops cut into segments, between which the host puts finished rows aside."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_robust import norms
from keras_robust.attacks.base import Predictor
from keras_robust.checks import Tensor

_SMALLEST = 8  # rows: to compile for smaller batches would cost more than it saves


class Outcome(NamedTuple):
    """What a loop found for each row, in the rows' first order.

    Attributes:
        x_best: Best images, shape `(batch, height, width, channels)`.
        score: Their scores, shape `(batch,)`.
    """

    x_best: Tensor
    score: Tensor


def run_segments(
    advance: Callable[[Any, Any, int, int], Any],
    problem: tuple[Tensor, ...],
    state: Any,
    ends: Sequence[int],
) -> Outcome:
    """Runs a loop over iterations in segments; after each, rows that are done leave the batch.

    The rows that go on are packed into the smallest of a few batch sizes, so that a compiled `advance` is traced
    a few times only. A row's outcome does not depend on the others, as long as `advance` leaves `x_best` and
    `score` of rows alone that are done when it starts.

    Args:
        advance: Function `(problem, state, start, end) -> state` that runs the iterations `start` to `end - 1`.
        problem: Tensors that the loop does not change, each with a batch axis.
        state: Named tuple of tensors, each with a batch axis; `x_best`, `score` and `done` are read here.
        ends: Iteration after the last one of each segment, rising.

    Returns:
        The best image of each row and its score.
    """
    first = size = len(problem[0])
    rows = np.arange(size)  # row of the first batch that each row of `state` is, padding left out
    x_best, score = np.empty(problem[0].shape, "float32"), np.empty(size, "float32")
    start = 0
    for end in ends:
        state = advance(problem, state, start, end)
        start = end
        if end == ends[-1]:
            break
        left = np.flatnonzero(~ops.convert_to_numpy(state.done)[: len(rows)])
        if not len(left):
            break
        keep = _padded(left, first)
        if len(keep) < size:
            _store(state, rows, x_best, score)
            problem = tuple(_take(tensor, keep) for tensor in problem)
            state = type(state)(*(_take(tensor, keep) for tensor in state))
            rows, size = rows[left], len(keep)
    _store(state, rows, x_best, score)
    return Outcome(ops.convert_to_tensor(x_best), ops.convert_to_tensor(score))


def project(predictor: Predictor, norm: str, x_adv: Tensor, x: Tensor, epsilon: float) -> Tensor:
    """Returns `Norm.project` of that name, compiled once for each shape: its loops are slow outside."""
    run = predictor.compiled(("project", norm), lambda _, *tensors: norms.get(norm).project(*tensors))
    return run(x_adv, x, ops.convert_to_tensor(epsilon, "float32"))


def _store(state, rows, x_best, score):
    x_best[rows] = ops.convert_to_numpy(state.x_best)[: len(rows)]
    score[rows] = ops.convert_to_numpy(state.score)[: len(rows)]


def _padded(rows, first):
    """Pads rows, by copies of the last one, to the smallest fixed part of the first batch size that holds them."""
    sizes = (-(-first // divisor) for divisor in (1, 2, 4, 8, 16))
    size = min(size for size in sizes if size >= max(len(rows), min(_SMALLEST, first)))
    return np.pad(rows, (0, size - len(rows)), mode="edge")


def _take(tensor, rows):
    # On the host: a gather on the device would be compiled anew for each pair of sizes.
    return ops.convert_to_tensor(ops.convert_to_numpy(tensor)[rows])
