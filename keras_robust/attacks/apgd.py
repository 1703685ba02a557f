"""Auto-PGD: projected gradient ascent that sets its own step size."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_robust import backend, losses, norms
from keras_robust.attacks import apgd_l1
from keras_robust.attacks.base import Attack, Predictor
from keras_robust.attacks.segments import project, run_segments
from keras_robust.checks import Tensor, check_choice, check_epsilon, check_positive_integer
from keras_robust.norms import per_example

LOSSES = ("cross_entropy", "dlr", "margin", "targeted_dlr", "targeted_margin")
_ENDS = (2, 4, 8, 14, 23, 42, 58, 71, 81)  # short at first: most images of an undefended model break at once


class _State(NamedTuple):
    """What APGD remembers of each row; the first axis of every field is the batch."""

    x_adv: Tensor
    x_previous: Tensor
    gradient: Tensor
    loss: Tensor  # of the iterate before the current one
    x_best: Tensor
    best_gradient: Tensor
    score: Tensor  # loss of x_best
    done: Tensor  # whether a misclassified iterate was seen
    step_size: Tensor
    rises: Tensor  # how often the loss grew since the last check
    score_at_check: Tensor
    halved: Tensor  # whether the last check reduced the step size
    density: Tensor  # L1: share of the features that a step moves
    support: Tensor  # L1: features of x_best that differ from x, at the last check


@dataclasses.dataclass(frozen=True)
class APGD(Attack):
    """Climbs the loss with momentum and a step size that halves when progress stalls.

    At fixed checkpoints, rows whose loss grew too rarely halve their step and go back to their best point. An
    image is put aside once a misclassified iterate is seen; otherwise all steps run.

    Differs from the code: rows that are never misclassified return their highest-loss point, not the clean image;
    with `eot` above 1 an iterate counts as misclassified by its mean logits, and its loss is the mean.

    Args:
        norm: Shape of the ball, 'Linf', 'L2' or 'L1'.
        epsilon: Radius in pixel units; `8 / 255`, not 8.
        steps: Gradient steps from each start; the last iterate is scored too.
        restarts: Random starts (of each target class), each on the images that are not misclassified yet.
        loss: 'cross_entropy', 'dlr', 'margin', 'targeted_dlr' or 'targeted_margin'. With too few classes for the
            denominator (two for 'dlr', two or three for 'targeted_dlr') the margin of the logits is used.
        targets: Target classes of the targeted losses: the classes ranked next on the clean image, one after the
            other; at most all of them.
        eot: Passes over which each gradient is averaged; more than 1 for randomised models only.
        rho: Share of the steps between two checkpoints that must raise the loss.
        large_epsilon_schedule: L1 only: 30 % of the steps at 3 epsilon, 30 % at 2 epsilon, the rest at epsilon,
            each from the projected best point of the one before.

    Call arguments:
        See `Attack`.

    Returns:
        Images of the shape of `x`, within `epsilon` of it: a misclassified iterate if any was seen, otherwise the
        iterate of the highest loss.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Croce and Hein, 2020, https://arxiv.org/abs/2003.01690 (algorithm 1); for L1, Croce and Hein, 2021,
        https://arxiv.org/abs/2103.01208
    """

    norm: str = "Linf"
    epsilon: float = 8 / 255
    steps: int = 100
    restarts: int = 1
    loss: str = "cross_entropy"
    targets: int = 9
    eot: int = 1
    rho: float = 0.75
    large_epsilon_schedule: bool = False

    def __post_init__(self):
        norms.get(self.norm)
        check_epsilon(self.epsilon, self.norm)
        for name in ("steps", "restarts", "targets", "eot"):
            check_positive_integer(name, getattr(self, name))
        check_choice("loss", self.loss, LOSSES)
        if not 0 < self.rho < 1:
            raise ValueError(f"`rho` must lie in (0, 1), both excluded. Received: rho={self.rho!r}.")
        if self.large_epsilon_schedule and self.norm != "L1":
            raise ValueError(
                "`large_epsilon_schedule=True` is for the norm 'L1' alone. "
                f"Received: norm={self.norm!r}. Leave it False."
            )

    @property
    def targeted(self) -> bool:
        """Whether each stage has a target class."""
        return self.loss.startswith("targeted_")

    def stages(self, num_classes: int) -> int:
        """Returns the number of restarts, times that of target classes where there are any."""
        return self.restarts * (min(self.targets, num_classes - 1) if self.targeted else 1)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Draws the start: a point on the sphere of radius 1; for L1 Gaussian noise, to be projected."""
        if self.norm == "Linf":
            start = rng.uniform(-1.0, 1.0, shape)
            start /= np.abs(start).max()
        else:
            start = rng.standard_normal(shape)
            start /= np.linalg.norm(start) if self.norm == "L2" else 1.0
        return {"start": start.astype("float32")}

    def search(
        self, predictor: Predictor, x: Tensor, y: Tensor, noise: dict[str, Tensor], stage: int
    ) -> tuple[Tensor, Tensor]:
        """Climbs from one start, towards one target class where there are any; the score is the loss."""
        target = y
        if self.targeted:
            logits = predictor.predict(ops.convert_to_numpy(x), len(x))
            target = ranked_targets(logits, y, stage // self.restarts)
        # Epsilon, the steps and the target go in as tensors: the same code serves them all.
        key = ("apgd", self.norm, self.loss, self.eot)
        iterate = predictor.loop(key, lambda *tensors: _iterate(self.norm, self.loss, self.eot, *tensors))
        check = predictor.compiled((key, "check"), lambda _, *tensors: _check(self.norm, *tensors))
        phases = [(self.epsilon, self.steps)]
        if self.large_epsilon_schedule:
            part = math.ceil(0.3 * self.steps)
            last = max(self.steps - 2 * part, 1)
            phases = [(3 * self.epsilon, part), (2 * self.epsilon, part), (self.epsilon, last)]
        scale = self.epsilon if self.norm != "L1" else 1.0
        x_best = x + scale * noise["start"]
        tick = stage * (self.steps + len(phases)) * self.eot
        for phase, (epsilon, steps) in enumerate(phases):
            last = phase == len(phases) - 1
            # Outside the final ball nothing counts yet; a randomised model misclassifies by luck: all steps run.
            early = _ENDS if last and self.eot == 1 else ()
            begins, patience = _blocks(self.norm, steps, self.rho, early)
            numbers = ops.convert_to_tensor(np.array([epsilon, last], "float32"))
            fixed = (numbers, ops.convert_to_tensor(tick, "int32"))

            def advance(problem, state, start, end, begins=begins, patience=patience, fixed=fixed):
                passes = (begins[end] - begins[start]) * len(problem[0]) * self.eot
                predictor.count(forward=passes, backward=passes)
                settled, values = state.done, tuple(state)
                for block in range(start, end):
                    values = iterate(begins[block], begins[block + 1], values, settled, problem, *fixed)
                    if patience[block] >= 0:
                        allowed = ops.convert_to_tensor(patience[block], "float32")
                        values = check(values, problem[0], allowed, fixed[0][0])
                return _State(*values)

            start = project(predictor, self.norm, x_best, x, epsilon)
            resumed = self.large_epsilon_schedule
            state = _first_state(x, start, epsilon if self.norm == "L1" else 2 * epsilon, resumed)
            ends = [block for block, begin in enumerate(begins[:-1]) if begin in early]
            x_best, score = run_segments(advance, (x, y, target), state, [*ends, len(patience)])
            tick += (steps + 1) * self.eot
        return x_best, score


def ranked_targets(logits: np.ndarray, y: Tensor, rank: int) -> Tensor:
    """Returns a target class for each image: the one of that rank on the clean image, the true class left out.

    Args:
        logits: Logits of the clean images, shape `(batch, classes)`.
        y: Labels, shape `(batch,)`.
        rank: 0 for the most likely of the other classes.

    Returns:
        Integer classes, shape `(batch,)`.
    """
    order = np.argsort(-logits, axis=1, kind="stable")
    others = order[order != ops.convert_to_numpy(y)[:, None]].reshape(len(order), -1)
    return ops.convert_to_tensor(others[:, rank].astype("int32"))


def checkpoints(steps: int) -> list[tuple[int, int]]:
    """Returns the steps after which the step size is checked, and the steps since the check before.

    The first check comes after 22 % of the steps; the distance then shrinks by 3 % of the steps, down to 6 %.
    """
    period = max(int(0.22 * steps), 1)
    shrink, least = max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)
    found, step = [], period
    while step <= steps:
        found.append((step, period))
        period = max(period - shrink, least)
        step += period
    return found


def _blocks(norm, steps, rho, ends):
    """Cuts the iterations 0 to `steps` into blocks that end with a check of the step size or at one of `ends`.

    Returns the first iteration of each block, and one past the last, and the rises of the loss up to which each
    block's check halves the step; -1 where there is no check.
    """
    if norm == "L1":
        every = max(int(0.04 * steps), 1)
        allowed = {step + 1: 0.0 for step in range(every, steps + 1, every)}
    else:
        allowed = {step + 1: rho * period for step, period in checkpoints(steps)}
    stops = sorted({*allowed, *(end for end in ends if end <= steps), steps + 1})
    return [0, *stops], [allowed.get(stop, -1.0) for stop in stops]


def _first_state(x, start, step_size, resumed):
    zero = np.zeros(len(x), "float32")
    features = math.prod(x.shape[1:])
    support = zero + features
    if resumed:
        support = ops.cast(apgd_l1.support(start, x), "float32")
    blank, none = ops.zeros_like(x), ops.convert_to_tensor(zero)
    infinite = ops.convert_to_tensor(zero + np.inf)
    return _State(
        x_adv=start,
        x_previous=start,
        gradient=blank,  # so that iteration 0 stays where it is and scores the start
        loss=infinite,
        x_best=start,
        best_gradient=blank,
        score=-infinite,
        done=ops.convert_to_tensor(zero > 0),
        step_size=ops.convert_to_tensor((zero + step_size).astype("float32")),
        rises=none,
        score_at_check=-infinite,
        halved=ops.convert_to_tensor(zero == 0),
        density=support / (1.5 * features) if resumed else ops.convert_to_tensor(zero + np.float32(0.2)),
        support=ops.convert_to_tensor(support),
    )


def _objective(loss, logits, y, target):
    classes = logits.shape[-1]
    if loss == "cross_entropy":
        return losses.cross_entropy(logits, y)
    if loss == "dlr" and classes > 2:
        return losses.dlr(logits, y)
    if loss in ("dlr", "margin"):
        return losses.margin(logits, y)
    if loss == "targeted_dlr" and classes > 3:
        return losses.targeted_dlr(logits, y, target)
    return losses.targeted_margin(logits, y, target)


def _iterate(norm, loss, eot, logits, index, values, settled, problem, numbers, first_tick):
    """Runs one iteration; iteration 0 scores the start. Rows settled before this segment keep what they have."""
    x, y, target = problem
    epsilon, counts = numbers[0], numbers[1] > 0

    def evaluate(x_adv, tick):
        def total(images):
            outputs = logits(images, tick)
            loss_each = _objective(loss, outputs, y, target)
            return ops.sum(loss_each), (loss_each, outputs)

        (_, (loss_each, outputs)), gradient = backend.value_and_grad(total, x_adv, has_aux=True)
        return loss_each, outputs, gradient

    s = _State(*values)
    x_adv = _STEPS[norm](x, epsilon)(s, index)
    tick = first_tick + index * eot
    found = evaluate(x_adv, tick)
    if eot > 1:

        def add(draw, sums):
            return tuple(a + b for a, b in zip(sums, evaluate(x_adv, tick + draw), strict=True))

        found = tuple(each / eot for each in ops.fori_loop(1, eot, add, found))
    loss_new, outputs, gradient = found
    wrong = ops.not_equal(ops.cast(ops.argmax(outputs, axis=-1), y.dtype), y) & counts

    # A misclassified point beats all others, and among equals the higher loss wins.
    better = ~settled & ((wrong & ~s.done) | (ops.equal(wrong, s.done) & (loss_new > s.score)))
    better_image = per_example(better, x)
    s = s._replace(
        x_adv=x_adv,
        x_previous=s.x_adv,
        gradient=gradient,
        rises=s.rises + ops.cast(loss_new > s.loss, "float32"),
        loss=loss_new,
        x_best=ops.where(better_image, x_adv, s.x_best),
        best_gradient=ops.where(better_image, gradient, s.best_gradient),
        score=ops.where(better, loss_new, s.score),
        done=s.done | wrong,
    )
    return tuple(s)


def _check(norm, values, x, allowed, epsilon):
    """Halves the step size of rows whose loss grew too rarely, and sends them back to their best point."""
    s = _State(*values)
    if norm == "L1":
        return tuple(apgd_l1.check(s, x, epsilon))
    stuck = ~s.halved & (s.score_at_check >= s.score)
    halve = (s.rises <= allowed) | stuck
    halve_image = per_example(halve, x)
    s = s._replace(
        x_adv=ops.where(halve_image, s.x_best, s.x_adv),
        gradient=ops.where(halve_image, s.best_gradient, s.gradient),
        step_size=ops.where(halve, 0.5 * s.step_size, s.step_size),
        halved=halve,
        score_at_check=s.score,
        rises=ops.zeros_like(s.rises),
    )
    return tuple(s)


def _with_momentum(x, moved, s, index):
    # The first step has no momentum, but its weight is 1 all the same (algorithm 1, line 3).
    weight = ops.cast(ops.where(index > 1, 0.75, 1.0), x.dtype)
    return s.x_adv + weight * (moved - s.x_adv) + 0.25 * (s.x_adv - s.x_previous)


def _linf_step(x, epsilon):
    low, high = ops.maximum(x - epsilon, 0.0), ops.minimum(x + epsilon, 1.0)

    def step(s, index):
        moved = ops.clip(s.x_adv + per_example(s.step_size, x) * ops.sign(s.gradient), low, high)
        return ops.clip(_with_momentum(x, moved, s, index), low, high)

    return step


def _l2_step(x, epsilon):
    def step(s, index):
        direction = norms.L2.steepest(s.gradient)
        moved = norms.L2.project(s.x_adv + per_example(s.step_size, x) * direction, x, epsilon)
        return norms.L2.project(_with_momentum(x, moved, s, index), x, epsilon)

    return step


_STEPS: dict[str, Callable] = {"Linf": _linf_step, "L2": _l2_step, "L1": apgd_l1.sparse_step}
