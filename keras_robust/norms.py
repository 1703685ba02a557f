"""Norm balls as values: `Linf`, `L2` and `L1` know how to measure, project, step and start at random.

Everything acts on batches, shape `(batch, ...)`, and can be traced by every backend. Distances are in pixel units.
"""

import abc
import math
from collections.abc import Callable

import numpy as np
from keras import ops

from keras_robust.checks import Tensor, check_choice

_TINY = 1e-37  # smaller float32 numbers may be flushed to zero


def flat(x: Tensor) -> Tensor:
    """Reshapes `(batch, ...)` to `(batch, features)`."""
    return ops.reshape(x, (-1, math.prod(x.shape[1:])))  # static features, even where the batch size is unknown


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """Reshapes `(batch,)` so that it broadcasts against `like`, shape `(batch, ...)`."""
    return ops.reshape(values, (-1,) + (1,) * (len(like.shape) - 1))


def _uniform(normal: Tensor) -> Tensor:
    """Turns standard normal numbers into uniform ones on [-1, 1]."""
    return ops.erf(normal * math.sqrt(0.5))


class Norm(abc.ABC):
    """Shape of the ball around an image that an attack may search."""

    name: str

    @abc.abstractmethod
    def length(self, delta: Tensor) -> Tensor:
        """Returns the norm of each row of `delta`, shape `(batch,)`."""

    @abc.abstractmethod
    def project(self, x_adv: Tensor, x: Tensor, epsilon: float | Tensor) -> Tensor:
        """Returns a point inside the ball of radius `epsilon` around `x` and inside [0, 1].

        The Euclidean projection for Linf and L1; for L2 the projection on the ball, then on the box, as
        the reference implementations do. `epsilon` is a number or of shape `(batch,)`.
        """

    @abc.abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """Returns the direction of norm at most 1 along which a linear function grows fastest."""

    @abc.abstractmethod
    def step(self, x: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """Moves `x` by at most `size`, in this norm, so that a function with that gradient grows.

        Linf and L2 take the steepest direction. L1 spreads the step over the 1 % of the features that have the
        largest gradient, and over more where the box [0, 1] leaves them too little room: the steepest direction
        would move one pixel only, again and again. The result may lie outside the ball, and for Linf and L2
        outside the box.

        Reference:
            Tramèr and Boneh, 2019, https://arxiv.org/abs/1904.13000 (the sparse L1 descent attack)
        """

    @abc.abstractmethod
    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draws one point of the unit ball for one image, as PGD starts from."""

    @abc.abstractmethod
    def sample(self, shape: tuple[int, ...], normal: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        """Draws a batch of points as `draw` does, inside a compiled step.

        Args:
            shape: Shape of the batch, `(batch, ...)`.
            normal: Function of a shape that returns new standard normal numbers each time.
        """

    def __repr__(self) -> str:
        return self.name


class _Linf(Norm):
    name = "Linf"

    def length(self, delta):
        return ops.max(ops.abs(flat(delta)), axis=1)

    def project(self, x_adv, x, epsilon):
        radius = per_example(ops.convert_to_tensor(epsilon, x.dtype), x)
        return ops.clip(x + ops.maximum(ops.minimum(x_adv - x, radius), -radius), 0.0, 1.0)

    def steepest(self, gradient):
        return ops.sign(gradient)

    def step(self, x, gradient, size):
        return x + size * self.steepest(gradient)

    def draw(self, rng, shape):
        return rng.uniform(-1.0, 1.0, shape).astype("float32")

    def sample(self, shape, normal):
        return _uniform(normal(shape))


class _L2(Norm):
    name = "L2"

    def length(self, delta):
        return ops.sqrt(ops.sum(ops.square(flat(delta)), axis=1))

    def project(self, x_adv, x, epsilon):
        delta = x_adv - x
        factor = ops.minimum(1.0, epsilon / (self.length(delta) + 1e-12))
        return ops.clip(x + delta * per_example(factor, x), 0.0, 1.0)

    def steepest(self, gradient):
        # Squares of a tiny gradient would vanish: first make its largest entry 1. A zero gradient is divided by 1:
        # XLA turns a / b / c into a / (b * c), which must not be 0 / 0.
        largest = ops.max(ops.abs(flat(gradient)), axis=1)
        gradient = gradient / per_example(ops.where(largest > _TINY, largest, ops.ones_like(largest)), gradient)
        return gradient / per_example(self.length(gradient) + 1e-12, gradient)

    def step(self, x, gradient, size):
        return x + size * self.steepest(gradient)

    def draw(self, rng, shape):
        direction = rng.standard_normal(shape)
        return (direction * (rng.uniform() / np.linalg.norm(direction))).astype("float32")

    def sample(self, shape, normal):
        direction = self.steepest(normal(shape))
        return direction * per_example(ops.abs(_uniform(normal((shape[0],)))), direction)


class _L1(Norm):
    name = "L1"

    def length(self, delta):
        return ops.sum(ops.abs(flat(delta)), axis=1)

    def project(self, x_adv, x, epsilon):
        delta = flat(x_adv - x)
        magnitude = ops.abs(delta)
        room = ops.where(delta > 0, 1.0 - flat(x), flat(x))  # to the face of the box

        # The projection on ball and box is min(max(|delta| - t, 0), room) for the t that meets the radius;
        # its length falls with t piecewise linearly, so bisection finds t without a sort.
        def shrink(threshold):
            return ops.minimum(ops.maximum(magnitude - threshold[:, None], 0.0), room)

        def halve(_, bracket):
            low, high = bracket
            middle = 0.5 * (low + high)
            outside = ops.sum(shrink(middle), axis=1) > epsilon
            return ops.where(outside, middle, low), ops.where(outside, high, middle)

        high = ops.max(magnitude, axis=1)
        inside = ops.sum(ops.minimum(magnitude, room), axis=1) <= epsilon
        _, threshold = ops.fori_loop(0, 30, halve, (ops.zeros_like(high), high))
        shrunk = shrink(ops.where(inside, ops.zeros_like(threshold), threshold))
        return ops.clip(x + ops.reshape(ops.sign(delta) * shrunk, ops.shape(x)), 0.0, 1.0)

    def steepest(self, gradient):
        magnitude = ops.abs(flat(gradient))
        largest = ops.one_hot(ops.argmax(magnitude, axis=1), magnitude.shape[1], dtype=gradient.dtype)
        return ops.reshape(ops.sign(flat(gradient)) * largest, ops.shape(gradient))

    def step(self, x, gradient, size):
        room = flat(ops.where(gradient > 0, 1.0 - x, x))
        magnitude = ops.abs(flat(gradient))
        # A pixel takes an equal share, or what room it has; what it leaves goes on to the next largest gradient.
        share = ops.minimum(room, size / -(-magnitude.shape[1] // 100))

        def spent(threshold):
            return ops.where(magnitude > threshold[:, None], share, ops.zeros_like(share))

        def halve(_, bracket):
            low, high = bracket
            middle = 0.5 * (low + high)
            outside = ops.sum(spent(middle), axis=1) > size
            return ops.where(outside, middle, low), ops.where(outside, high, middle)

        largest = ops.max(magnitude, axis=1)
        low, high = ops.fori_loop(0, 20, halve, (ops.zeros_like(largest), largest))
        sure, last = spent(high), spent(low) - spent(high)  # the last pixels share what is left of the step
        left = size - ops.sum(sure, axis=1)
        part = ops.clip(left / ops.maximum(ops.sum(last, axis=1), 1e-12), 0.0, 1.0)
        return x + ops.reshape(ops.sign(flat(gradient)) * (sure + part[:, None] * last), ops.shape(x))

    def draw(self, rng, shape):
        direction = rng.standard_exponential(shape) * rng.choice((-1.0, 1.0), shape)
        return (direction * (rng.uniform() / np.abs(direction).sum())).astype("float32")

    def sample(self, shape, normal):
        signed = _uniform(normal(shape))
        direction = ops.sign(signed) * -ops.log(ops.maximum(ops.abs(signed), 1e-7))
        factor = ops.abs(_uniform(normal((shape[0],)))) / self.length(direction)
        return direction * per_example(factor, direction)


Linf, L2, L1 = _Linf(), _L2(), _L1()
NORMS: dict[str, Norm] = {norm.name: norm for norm in (Linf, L2, L1)}


def get(name: str) -> Norm:
    """Returns the norm of that name.

    Args:
        name: 'Linf', 'L2' or 'L1'.

    Returns:
        The norm.

    Raises:
        ValueError: If there is no norm of that name.
    """
    check_choice("norm", name, tuple(NORMS))
    return NORMS[name]
