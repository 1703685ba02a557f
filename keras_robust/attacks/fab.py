"""Fast adaptive boundary attack: looks for the closest adversarial image."""

import dataclasses
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_robust import backend, losses, norms
from keras_robust.attacks.apgd import ranked_targets
from keras_robust.attacks.base import Attack, Predictor
from keras_robust.attacks.hyperplane import project_on_hyperplane
from keras_robust.attacks.segments import project, run_segments
from keras_robust.checks import Tensor, check_epsilon, check_positive_integer
from keras_robust.norms import flat, per_example

_START_EPSILON = {"Linf": 0.3, "L2": 1.0, "L1": 5.0}  # of random starts where `epsilon` is None, as in the code
_ENDS = (3, 6, 12, 25, 50, 75)  # the first adversarial images come early, and shrink slowly
_FAR = 1e10  # distance of a row that has no adversarial image yet


class _State(NamedTuple):
    """What FAB remembers of each row; the first axis of every field is the batch."""

    x_adv: Tensor
    x_best: Tensor  # closest adversarial image; the last iterate where there is none
    score: Tensor  # minus the distance of x_best, -1e10 where it is not adversarial
    done: Tensor  # whether the distance is at most epsilon
    multipliers: Tensor  # of the last two projections, shape `(batch, 2)`: the next ones start from them


@dataclasses.dataclass(frozen=True)
class FAB(Attack):
    """Walks along the decision boundary to the closest misclassified image.

    Each step linearises the boundary, projects the iterate and the clean image on it within [0, 1], moves to a mix
    of the two, and, where it is misclassified, goes back towards the clean image.

    Differs from the code: a row is finished once an adversarial image lies within `epsilon`.

    Args:
        norm: Shape of the ball, 'Linf', 'L2' or 'L1'.
        epsilon: Radius in pixel units; `8 / 255`, not 8. None looks for the closest adversarial image at any
            distance, and returns it.
        steps: Steps from each start; each takes a gradient and one more forward pass.
        restarts: Starts (of each target class): the first is the clean image, the others are random, half of
            epsilon away.
        targeted: Whether each stage linearises the boundary to one target class, at the cost of one backward
            pass a step. Otherwise each step looks at all classes, at one forward and backward pass a class.
        targets: Target classes: those ranked next on the clean image, one after the other; at most all of them.
        alpha_max: Largest weight of the clean image's projection in the mix.
        eta: Overshoot of the projections.
        beta: Share of the perturbation that is kept where the iterate is misclassified.

    Call arguments:
        See `Attack`.

    Returns:
        Images of the shape of `x`: the closest adversarial image found; where that is outside the ball, or there
        is none, its (or the last iterate's) projection on the ball. With `epsilon=None` nothing is projected.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Croce and Hein, 2020, https://arxiv.org/abs/1907.02044 (algorithm 1)
    """

    norm: str = "Linf"
    epsilon: float | None = None
    steps: int = 100
    restarts: int = 1
    targeted: bool = True
    targets: int = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __post_init__(self):
        norms.get(self.norm)
        check_epsilon(self.epsilon, self.norm, optional=True)
        for name in ("steps", "restarts", "targets"):
            check_positive_integer(name, getattr(self, name))
        for name in ("alpha_max", "beta"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise ValueError(f"`{name}` must lie in (0, 1]. Received: {name}={value!r}.")
        if not self.eta >= 1:
            raise ValueError(f"`eta` must be at least 1, the projection itself. Received: eta={self.eta!r}.")

    @property
    def minimal(self) -> bool:  # type: ignore[override]
        """Whether the attack looks for the closest adversarial image."""
        return self.epsilon is None

    def stages(self, num_classes: int) -> int:
        """Returns the number of restarts, times that of target classes where there are any."""
        return self.restarts * (min(self.targets, num_classes - 1) if self.targeted else 1)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Draws the direction of a random start, of length 1; nothing where all starts are clean images."""
        if self.restarts == 1:
            return {}
        if self.norm == "Linf":
            start = rng.uniform(-1.0, 1.0, shape)
            start /= np.abs(start).max()
        else:
            start = rng.standard_normal(shape)
            start /= np.linalg.norm(start.ravel(), 2 if self.norm == "L2" else 1)
        return {"start": start.astype("float32")}

    def search(
        self, predictor: Predictor, x: Tensor, y: Tensor, noise: dict[str, Tensor], stage: int
    ) -> tuple[Tensor, Tensor]:
        """Walks from one start, towards one target class where there are any; the score is minus the distance."""
        logits = predictor.predict(ops.convert_to_numpy(x), len(x))
        target = y
        if self.targeted:
            target = ranked_targets(logits, y, stage // self.restarts)
        key = ("fab", self.norm, self.targeted, self.alpha_max, self.eta, self.beta)
        run = predictor.loop(key, self._step)
        radius = ops.convert_to_tensor(-1.0 if self.epsilon is None else self.epsilon, "float32")
        passes = 1 if self.targeted else logits.shape[1]

        def advance(problem, state, start, end):
            images = (end - start) * len(problem[0])
            predictor.count(forward=images * (passes + 1), backward=images * passes)
            return _State(*run(start, end, tuple(state), state.done, problem, radius))

        wrong = logits.argmax(1) != ops.convert_to_numpy(y)  # the closest adversarial image is the image itself
        state = _State(
            x_adv=self._start(x, noise, stage),
            x_best=x,
            score=ops.convert_to_tensor(np.where(wrong, 0.0, -_FAR).astype("float32")),
            done=ops.convert_to_tensor(wrong & (self.epsilon is not None)),
            multipliers=ops.zeros((len(x), 2), "float32"),
        )
        early = [end for end in _ENDS if end < self.steps] if self.epsilon is not None else []
        x_best, score = run_segments(advance, (x, y, target), state, [*early, self.steps])
        if self.epsilon is not None:
            x_best = project(predictor, self.norm, x_best, x, self.epsilon)
        return x_best, score

    def _start(self, x, noise, stage):
        if stage % self.restarts == 0:
            return x
        radius = _START_EPSILON[self.norm] if self.epsilon is None else self.epsilon
        return ops.clip(x + 0.5 * radius * noise["start"], 0.0, 1.0)

    def _step(self, logits, index, values, settled, problem, radius):
        """Runs one step; rows settled before this segment keep what they have."""
        del index
        s = _State(*values)
        x, y, target = problem
        linearise = _towards_target if self.targeted else _towards_nearest
        value, gradient = linearise(logits, s.x_adv, y, target, self.norm)

        def part(name, function):
            return logits.part(("hyperplane", self.norm, name), lambda _, *tensors: function(*tensors))

        planes = part("planes", _planes)(s.x_adv, x, value, gradient, s.multipliers)
        moves, multipliers = project_on_hyperplane(self.norm, *planes, part)
        key = ("fab move", self.norm, self.alpha_max, self.eta, self.beta)
        return logits.part(key, self._move)(values, settled, x, y, moves, multipliers, radius)

    def _move(self, logits, values, settled, x, y, moves, multipliers, radius):
        """Moves to a mix of the iterate's and the clean image's projections, and keeps it where it is better."""
        s, norm = _State(*values), norms.get(self.norm)
        here, clean = flat(s.x_adv), flat(x)
        lengths = [ops.maximum(norm.length(moves[index]), 1e-8) for index in (0, 1)]
        alpha = ops.minimum(lengths[0] / (lengths[0] + lengths[1]), self.alpha_max)[:, None]
        mixed = (1.0 - alpha) * (here + self.eta * moves[0]) + alpha * (clean + self.eta * moves[1])
        x_adv = ops.reshape(ops.clip(mixed, 0.0, 1.0), ops.shape(x))

        outputs = logits(x_adv)
        wrong = ops.not_equal(ops.cast(ops.argmax(outputs, axis=-1), y.dtype), y)
        score = ops.where(wrong, -norm.length(x_adv - x), -_FAR)
        better = ~settled & (score >= s.score) & (wrong | (s.score <= -_FAR))
        back = ops.cast(ops.where(wrong, self.beta, 1.0), x.dtype)
        return (
            x + per_example(back, x) * (x_adv - x),
            ops.where(per_example(better, x), x_adv, s.x_best),
            ops.where(better, score, s.score),
            s.done | (wrong & (score >= -radius)),
            ops.transpose(multipliers),
        )


def _planes(x_adv, x, value, gradient, multipliers):
    """Returns the points to project, the hyperplane's normal, what is missing at each, and the guesses."""
    weights, here, clean = flat(gradient), flat(x_adv), flat(x)
    values = ops.stack([value, value + ops.sum(weights * (clean - here), axis=1)])
    return ops.stack([here, clean]), weights, values, ops.transpose(multipliers)


def _towards_target(logits, x_adv, y, target, norm):
    """Returns how far the target's logit is above the true one, and the gradient of that."""
    del norm
    return logits.part("fab target", _difference)(x_adv, y, target)


def _difference(logits, x_adv, y, target):
    def total(images):
        difference = losses.targeted_margin(logits(images), y, target)
        return ops.sum(difference), difference

    (_, value), gradient = backend.value_and_grad(total, x_adv, has_aux=True)
    return value, gradient


def _predict(logits, x):
    return logits(x)


def _towards_nearest(logits, x_adv, y, target, norm):
    """Returns the same for the class whose linearised boundary is the nearest, found class by class."""
    del target

    def visit(index, best):
        candidate = ops.cast(ops.zeros_like(y) + index, y.dtype)
        value, gradient = _towards_target(logits, x_adv, y, candidate, norm)
        distance = ops.abs(value) / (_dual_length(norm, gradient) + 1e-12)
        distance = ops.where(ops.equal(candidate, y), _FAR, distance)
        nearer = distance < best[0]
        return (
            ops.where(nearer, distance, best[0]),
            ops.where(nearer, value, best[1]),
            ops.where(per_example(nearer, x_adv), gradient, best[2]),
        )

    zeros = ops.zeros_like(flat(x_adv)[:, 0])
    count = logits.part("predict", _predict)(x_adv).shape[-1]
    _, value, gradient = ops.fori_loop(0, count, visit, (zeros + 2 * _FAR, zeros, ops.zeros_like(x_adv)))
    return value, gradient


def _dual_length(norm, gradient):
    return {"Linf": norms.L1, "L2": norms.L2, "L1": norms.Linf}[norm].length(gradient)
