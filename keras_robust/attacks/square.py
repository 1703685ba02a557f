"""Square attack: random search over square windows, without gradients."""

import dataclasses
import functools
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_robust import backend, losses, norms
from keras_robust.attacks.base import Attack
from keras_robust.attacks.segments import run_segments
from keras_robust.attacks.square_moves import (
    SPREAD,
    plan_windows,
    propose,
    starting_pattern,
    window_contents,
    window_pattern,
)
from keras_robust.checks import Tensor, check_epsilon, check_positive_integer

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_SEGMENT = 250  # queries between two looks at which rows are broken


class _State(NamedTuple):
    """What Square remembers of each row; the first axis of every field is the batch."""

    x_best: Tensor
    score: Tensor  # margin of x_best
    done: Tensor  # whether x_best is misclassified


@dataclasses.dataclass(frozen=True)
class Square(Attack):
    """Random search that changes one square window of the perturbation at a time and keeps what raises the margin.

    Needs no gradient: where it breaks images that the gradient attacks do not, gradients are masked. Rows are
    dropped, and the rest is packed into smaller batches, as soon as they are broken.

    Differs from the reference code: each image draws windows of its own (there, one window serves the whole
    batch), so that an image's result does not depend on its neighbours. Queries are computed in full float32 on
    accelerators too: where products are rounded to TensorFloat-32, gains drown in the rounding and images that are
    not robust are left.

    Args:
        norm: Shape of the ball, `"Linf"`, `"L2"` or `"L1"`.
        epsilon: Radius in pixel units; `8 / 255`, not 8.
        queries: Proposals tried on each image and restart.
        restarts: Independent searches on what is not broken yet.
        initial_fraction: Share of the pixels in the first windows; halved at queries 10, 50, 200, 500, 1000,
            2000, 4000, 6000 and 8000.
        resc_schedule: Whether to stretch that schedule, made for 10000 queries, to `queries`.
        all_positions: Whether windows may reach the last row and column, which matters for small images.
            In the reference code, and so in `AutoAttack`, they never do.

    Call arguments:
        model: Keras model that returns logits, shape `(batch, classes)`.
        x: Clean images, shape `(batch, height, width, channels)`, in [0, 1].
        y: Integer labels, shape `(batch,)`.

    Returns:
        Images of the shape of `x`, within `epsilon` of it; the point of largest margin for rows not broken.

    Raises:
        ValueError: If an option or the pixels of `x` are out of range, or `x` are no images.

    Reference:
        Andriushchenko et al., 2020, https://arxiv.org/abs/1912.00049 (algorithms 1 to 3)
    """

    norm: str
    epsilon: float
    queries: int = 5000
    restarts: int = 1
    initial_fraction: float = 0.8
    resc_schedule: bool = False
    all_positions: bool = True

    def __post_init__(self):
        norms.get(self.norm)
        check_epsilon(self.epsilon, self.norm)
        check_positive_integer("queries", self.queries)
        check_positive_integer("restarts", self.restarts)
        if not 0.0 < self.initial_fraction <= 1.0:
            raise ValueError(
                "`initial_fraction` is a share of the pixels and must lie in (0, 1]. "
                f"Received: initial_fraction={self.initial_fraction!r}. The paper's is 0.8."
            )

    def stages(self, num_classes):
        """Number of restarts."""
        return self.restarts

    def draw(self, rng, shape):
        """Draws the starting pattern, and for each query window positions, signs and orientation."""
        if len(shape) != 3:
            raise ValueError(
                "Square needs images of shape (batch, height, width, channels). "
                f"Received: images of shape {shape}. Reshape them, or use PGD or APGD."
            )
        if keras.config.image_data_format() != "channels_last":
            raise ValueError(
                "Square needs images of shape (batch, height, width, channels), to tell rows from channels. "
                f"Received: keras.config.image_data_format()={keras.config.image_data_format()!r}. Set it to "
                "'channels_last' and put keras.layers.Permute((3, 1, 2)) before the model, or use PGD or APGD."
            )
        windows = 1 if self.norm == "Linf" else 2
        signs = shape[2] if windows == 1 else shape[2] + 1  # the last one: turned or not
        return {
            "start": starting_pattern(self.norm, rng, shape),
            # Compact: a position is a share of the room that the window has, in units of 1 / SPREAD.
            "positions": rng.integers(0, SPREAD, (self.queries, 2 * windows), dtype=np.int16),
            "signs": (2 * rng.integers(0, 2, (self.queries, signs), dtype=np.int8) - 1),
        }

    def search(self, predictor, x, y, noise, stage):
        """Attacks one batch; broken rows leave it between segments. The score is the margin."""
        norm, epsilon = norms.get(self.norm), ops.convert_to_tensor(self.epsilon, "float32")
        begin = predictor.compiled(("square start", self.norm), lambda *tensors: _begin(norm, *tensors))
        key = ("square", self.norm, self.all_positions)
        run = predictor.compiled(key, lambda *tensors: _run(norm, self.all_positions, *tensors))
        first_tick = stage * (self.queries + 1)

        def advance(problem, state, start, end):
            size = self._size(start, x.shape[1:3])
            pattern = ops.convert_to_tensor(window_pattern(self.norm, size, min(x.shape[1:3])))
            numbers = [ops.convert_to_tensor(v, "int32") for v in (start, end, size, first_tick)]
            predictor.count(forward=(end - start) * len(problem[0]))
            return run(problem, state, pattern, *numbers, epsilon)

        predictor.count(forward=len(x))
        # A segment looks at `_SEGMENT` draws, however short it is: the last ones need something behind them.
        drawn = (ops.pad(noise[name], ((0, 0), (0, _SEGMENT), (0, 0))) for name in ("positions", "signs"))
        problem = (x, y, *drawn)
        with backend.full_precision():
            state = begin(x, y, noise["start"], ops.convert_to_tensor(first_tick, "int32"), epsilon)
            return run_segments(advance, problem, _State(*state), self._ends(x.shape[1:3]))

    def _ends(self, shape) -> list[int]:
        """Query after the last one of each segment; in a segment all windows have one size."""
        ends, start = [], 0
        for query in range(1, self.queries + 1):
            # Short at first: most images of an undefended model break at once.
            last = query == self.queries or query - start == min(max(start, 10), _SEGMENT)
            if last or self._size(query, shape) != self._size(start, shape):
                ends.append(start := query)
        return ends

    def _size(self, query, shape) -> int:
        at = int(query / self.queries * 10000) if self.resc_schedule else query
        fraction = self.initial_fraction / 2 ** sum(at > step for step in _HALVINGS)
        size = round(float(np.sqrt(fraction * shape[0] * shape[1])))
        size = max(size, 1) if self.norm == "Linf" else max(size, 3) | 1  # odd: the pattern has a centre
        return min(size, *shape)


def _begin(norm, logits, x, y, pattern, tick, epsilon):
    scale = 1.0 if norm.name == "L1" else epsilon  # the L1 reference projects the tiles as they are
    best = norm.project(x + scale * ops.cast(pattern, x.dtype), x, epsilon)
    margin = losses.margin(logits(best, tick), y)
    return best, margin, margin > 0


def _run(norm, all_positions, logits, problem, state, pattern, start, end, size, first_tick, epsilon):
    """Tries queries start to end - 1 on a batch; rows already broken stay as they are."""
    query = logits.part(("square query", norm.name), functools.partial(_query, norm))
    x, y, *drawn = problem
    drawn = [ops.slice(each, (0, start, 0), (x.shape[0], _SEGMENT, each.shape[2])) for each in drawn]
    windows = plan_windows(norm, x, *drawn, size, all_positions=all_positions)
    contents = window_contents(norm, x, pattern, epsilon)
    tick = first_tick + start + 1

    def body(k, each):
        return query(*each, x, y, [kind[k] for kind in windows], contents, epsilon, tick + k)

    best, margin = ops.fori_loop(0, end - start, body, (state.x_best, state.score))
    return _State(best, margin, margin > 0)


def _query(norm, logits, best, margin, x, y, windows, contents, epsilon, tick):
    proposal = propose(norm, x, best, windows, contents, epsilon)
    value = losses.margin(logits(proposal, tick), y)
    accept = ops.logical_and(value > margin, margin <= 0)
    return ops.where(norms.per_example(accept, x), proposal, best), ops.where(accept, value, margin)
