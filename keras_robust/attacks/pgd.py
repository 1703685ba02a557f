"""Projected gradient ascent."""

import dataclasses
from collections.abc import Callable

import numpy as np
from keras import ops

from keras_robust import backend, losses, norms
from keras_robust.attacks.base import Attack, Predictor
from keras_robust.checks import Tensor, check_choice, check_epsilon, check_positive_integer

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": losses.cross_entropy,
    "margin": losses.margin,
    "dlr": losses.dlr,
}


@dataclasses.dataclass(frozen=True)
class PGD(Attack):
    """Climbs the loss by projected gradient steps inside an Lp ball.

    Madry's attack: repeat a step of fixed length along the gradient (see `Norm.step`), then return to the ball and
    to [0, 1]. For evaluation prefer `AutoAttack`; PGD alone overstates robustness.

    Args:
        norm: Shape of the ball, 'Linf', 'L2' or 'L1'.
        epsilon: Radius in pixel units; `8 / 255`, not 8.
        step_size: Length of a step in pixel units of the norm; `2.5 * epsilon / steps` by default.
        steps: Gradient steps; the last iterate is scored too.
        random_start: Whether to start at random inside the ball: uniform for Linf, uniform length along a random
            direction for L2 and L1. Otherwise the start is the clean image, which is never returned unless its
            gradient is zero.
        restarts: Random starts, each on the images that are not misclassified yet.
        loss: 'cross_entropy', 'margin' or 'dlr' (three classes or more).
        eot: Passes over which each gradient is averaged; more than 1 for randomised models only.

    Call arguments:
        See `Attack`.

    Returns:
        Images of the shape of `x`, within `epsilon` of it: a misclassified iterate if any was seen, otherwise the
        iterate of the highest loss.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Madry et al., 2018, https://arxiv.org/abs/1706.06083 (section 2.1)
    """

    norm: str = "Linf"
    epsilon: float = 8 / 255
    step_size: float | None = None
    steps: int = 10
    random_start: bool = True
    restarts: int = 1
    loss: str = "cross_entropy"
    eot: int = 1

    def __post_init__(self):
        norms.get(self.norm)
        check_epsilon(self.epsilon, self.norm)
        for name in ("steps", "restarts", "eot"):
            check_positive_integer(name, getattr(self, name))
        check_choice("loss", self.loss, tuple(LOSSES))
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(
                "`step_size` must be a positive number in pixel units, or None for 2.5 * epsilon / steps. "
                f"Received: step_size={self.step_size!r}."
            )
        if self.restarts > 1 and not self.random_start:
            raise ValueError(
                "`restarts` above 1 needs `random_start=True`: without it every restart takes the same path. "
                f"Received: restarts={self.restarts}."
            )

    def stages(self, num_classes: int) -> int:
        """Returns the number of restarts."""
        if self.loss == "dlr" and num_classes < 3:
            raise ValueError(
                "`loss='dlr'` needs a model of at least three classes. "
                f"Received: {num_classes} logits. Use loss='margin'."
            )
        return self.restarts

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Draws the start of one image as a point of the unit ball."""
        return {"start": norms.get(self.norm).draw(rng, shape)} if self.random_start else {}

    def search(
        self, predictor: Predictor, x: Tensor, y: Tensor, noise: dict[str, Tensor], stage: int
    ) -> tuple[Tensor, Tensor]:
        """Climbs from one start; the score is the loss."""
        passes = len(x) * self.steps * self.eot
        predictor.count(forward=passes + len(x) * self.eot, backward=passes)
        # Lengths, steps and the stage go in as tensors: the same code serves every epsilon and number of steps.
        key = ("pgd", self.norm, self.random_start, self.loss, self.eot)
        numbers = ops.convert_to_tensor(np.array([self.epsilon, self._step_size()], "float32"))
        problem = (x, y, numbers, ops.convert_to_tensor(stage * (self.steps + 1), "int32"))
        state = _first_state(x, x)
        if self.random_start:
            state = predictor.compiled((key, "start"), self._traced_start)(x, noise["start"], numbers)
        state = predictor.loop(key, self._traced_step)(0, self.steps, state, *problem)
        last = ops.convert_to_tensor(self.steps, "int32")
        return predictor.compiled((key, "end"), self._traced_end)(state, last, *problem)

    def _step_size(self):
        return 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size

    def _traced_start(self, _, x, start, numbers):
        return _first_state(x, norms.get(self.norm).project(x + numbers[0] * start, x, numbers[0]))

    def _traced_step(self, logits, index, state, x, y, numbers, first_tick):
        score = self._score(logits, y, self._objective(y), first_tick)
        return self._climb(score, state, index, x, numbers[0], numbers[1], self.random_start)

    def _traced_end(self, logits, state, last, x, y, numbers, first_tick):
        del x, numbers
        return _finish(self._score(logits, y, self._objective(y), first_tick), state, last)

    def _objective(self, y):
        return lambda outputs: LOSSES[self.loss](outputs, y)

    def _score(self, logits, y, objective, first_tick=0):
        """Returns a function of images and a step: total loss, loss of each and whether each is misclassified."""

        def score(images, index):
            tick = (first_tick + index) * self.eot
            outputs = [logits(images, tick + draw) for draw in range(self.eot)]
            loss = sum(objective(each) for each in outputs) / self.eot
            predicted = ops.cast(ops.argmax(sum(outputs), axis=-1), "int32")
            return ops.sum(loss), (loss, predicted != ops.cast(y, "int32"))

        return score

    def _climb(self, score, state, index, x, epsilon, step_size, start_counts):
        """Scores the current images, remembers the best, and takes one step."""
        images, best = state
        (_, (loss, broken)), gradient = backend.value_and_grad(
            lambda each: score(each, index), images, has_aux=True
        )
        seen = _better(images, loss, broken, best)
        if not start_counts:  # the first iterate is the clean image
            seen = tuple(ops.where(index > 0, new, old) for new, old in zip(seen, best, strict=True))
        norm = norms.get(self.norm)
        return norm.project(norm.step(images, gradient, step_size), x, epsilon), seen

    def perturb(
        self,
        logits: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        y: Tensor,
        start: Tensor | None = None,
        *,
        objective: Callable[[Tensor], Tensor] | None = None,
        keep_best: bool = True,
        epsilon: float | Tensor | None = None,
        step_size: float | Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Climbs from given starts; pure, so that a training step may call it.

        Args:
            logits: Pure function of images and an integer scalar `tick`, which moves the seeds of a randomised
                model on and which other models ignore. Returns logits, shape `(batch, classes)`.
            x: Clean images, shape `(batch, height, width, channels)`, in [0, 1].
            y: Labels, shape `(batch,)`.
            start: Points of the unit ball, of the shape of `x`, such as `norms.get(norm).sample` draws; None
                starts at the clean images.
            objective: Function of logits that returns the loss of each example, shape `(batch,)`, instead of
                `loss`; TRADES climbs the KL divergence from the clean prediction.
            keep_best: Whether to return the best iterate, for one more forward pass. False returns the last, as
                adversarial training does.
            epsilon: Radius instead of the attack's own, such as a variable that a schedule sets.
            step_size: Length of a step instead of the attack's own.

        Returns:
            The images found, and the loss of each, shape `(batch,)`; with `keep_best=False`, the highest loss of
            the iterates before the last.
        """
        epsilon = self.epsilon if epsilon is None else epsilon
        step_size = self._step_size() if step_size is None else step_size
        score = self._score(logits, y, objective or self._objective(y))

        def climb(index, state):
            return self._climb(score, state, index, x, epsilon, step_size, start is not None)

        images = x if start is None else norms.get(self.norm).project(x + epsilon * start, x, epsilon)
        state = _first_state(x, images)
        if backend.loops_on_host() and self.steps <= _UNROLLED:
            for index in range(self.steps):
                state = climb(ops.convert_to_tensor(index, "int32"), state)
        else:
            state = ops.fori_loop(0, self.steps, climb, state)
        if not keep_best:
            return state[0], state[1][1]
        return _finish(score, state, self.steps)


_UNROLLED = 10  # steps; more would make the compiled training step too large


def _first_state(x, images):
    zeros = ops.zeros_like(norms.flat(x)[:, 0])
    return images, (x, zeros - np.inf, zeros > 0)


def _better(images, loss, broken, best):
    ahead = (broken & ~best[2]) | ((broken == best[2]) & (loss > best[1]))
    pairs = zip((images, loss, broken), best, strict=True)
    return tuple(ops.where(norms.per_example(ahead, new), new, old) for new, old in pairs)


def _finish(score, state, steps):
    """Scores the last iterate too; returns the best images and their loss."""
    images, best = state
    _, (loss, broken) = score(images, steps)
    return _better(images, loss, broken, best)[:2]
