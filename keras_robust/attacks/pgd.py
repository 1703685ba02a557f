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
        # Lengths and the stage go in as tensors: the same code serves every epsilon.
        key = ("pgd", self.norm, self.steps, self.random_start, self.loss, self.eot)
        numbers = ops.convert_to_tensor(np.array([self.epsilon, self._step_size()], "float32"))
        run = predictor.compiled(key, self._traced)
        return run(x, y, noise, numbers, ops.convert_to_tensor(stage * (self.steps + 1), "int32"))

    def _step_size(self):
        return 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size

    def _traced(self, logits, x, y, noise, numbers, first_tick):
        def shifted(images, tick):
            return logits(images, first_tick * self.eot + tick)

        return self.perturb(shifted, x, y, noise.get("start"), epsilon=numbers[0], step_size=numbers[1])

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
        norm = norms.get(self.norm)
        epsilon = self.epsilon if epsilon is None else epsilon
        step_size = self._step_size() if step_size is None else step_size
        objective = objective or (lambda outputs: LOSSES[self.loss](outputs, y))

        def evaluate(images, index):
            outputs = [logits(images, index * self.eot + draw) for draw in range(self.eot)]
            loss = sum(objective(each) for each in outputs) / self.eot
            predicted = ops.cast(ops.argmax(sum(outputs), axis=-1), "int32")
            return ops.sum(loss), (loss, predicted != ops.cast(y, "int32"))

        def better(images, loss, broken, best):
            ahead = (broken & ~best[2]) | ((broken == best[2]) & (loss > best[1]))
            pairs = zip((images, loss, broken), best, strict=True)
            return tuple(ops.where(norms.per_example(ahead, new), new, old) for new, old in pairs)

        def climb(index, state):
            images, best = state
            (_, (loss, broken)), gradient = backend.value_and_grad(
                lambda each: evaluate(each, index), images, has_aux=True
            )
            if start is None:  # the first iterate is the clean image, which does not count
                best = tuple(
                    ops.where(index > 0, new, old)
                    for new, old in zip(better(images, loss, broken, best), best, strict=True)
                )
            else:
                best = better(images, loss, broken, best)
            images = norm.project(norm.step(images, gradient, step_size), x, epsilon)
            return images, best

        images = x if start is None else norm.project(x + epsilon * start, x, epsilon)
        zeros = ops.zeros_like(norms.flat(x)[:, 0])
        nothing = (x, zeros - np.inf, zeros > 0)
        images, best = ops.fori_loop(0, self.steps, climb, (images, nothing))
        if not keep_best:
            return images, best[1]
        _, (loss, broken) = evaluate(images, self.steps)
        return better(images, loss, broken, best)[:2]
