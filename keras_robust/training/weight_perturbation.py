"""Offsets that are put on the weights for one training step."""

from collections.abc import Callable

import keras
from keras import ops

from keras_robust import backend
from keras_robust.checks import Tensor, check_positive_integer


class AWP:
    """Perturbs the weights so that the loss of the batch grows, for the step; then takes that off again.

    One step up the gradient of the training objective (cross-entropy on adversarial images, or all of TRADES) with
    respect to the weights, in training mode; for each tensor of two dimensions or more it has the length
    `gamma * ||w||`. Those of one dimension, such as normalisation and most biases, keep their values; a weight
    map's bias of each pixel does not. Running averages and random seeds are untouched.

    Differs from the code: there is no proxy optimizer; its learning rate cancels out of a single step.

    Args:
        gamma: Length of the step, relative to the norm of each tensor: 0.01 for adversarial training, 0.005 for
            TRADES; kept as a Keras variable, `gamma`.
        warmup: Training steps before it acts, counted in the variable `step`. The paper's code has none for
            adversarial training, and 10 epochs for TRADES: 10 times the steps of an epoch.

    Call arguments:
        model: The model in training.
        x: Perturbed images; not used.
        y: Labels; not used.
        loss: Pure function of the list of the trainable variables' values.

    Returns:
        One offset for each trainable variable.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Wu et al., 2020, https://arxiv.org/abs/2004.05884 (equations 8 to 12)
    """

    def __init__(self, gamma: float = 0.01, *, warmup: int = 0):
        if not gamma > 0:
            raise ValueError(
                f"`gamma` must be a positive number; the paper has 0.005 to 0.01. Received: gamma={gamma!r}."
            )
        check_positive_integer("warmup", warmup, minimum=0)
        self.warmup = warmup
        self.gamma = keras.Variable(float(gamma), trainable=False, dtype="float32", name="gamma")
        self.step = keras.Variable(0, trainable=False, dtype="int32", name="step")
        self.variables = (self.gamma, self.step)

    def __call__(
        self, model: keras.Model, x: Tensor, y: Tensor, loss: Callable[[list[Tensor]], Tensor]
    ) -> list[Tensor]:
        """Returns the offsets."""
        weights = [ops.stop_gradient(variable.value) for variable in model.trainable_variables]
        _, gradients = backend.value_and_grad(loss, weights)
        size = ops.where(ops.convert_to_tensor(self.step) >= self.warmup, ops.convert_to_tensor(self.gamma), 0.0)
        self.step.assign(self.step + 1)
        return [_offset(size, weight, gradient) for weight, gradient in zip(weights, gradients, strict=True)]


def _offset(size: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    if len(weight.shape) < 2:
        return ops.zeros_like(weight)
    ratio = _length(weight) / (_length(gradient) + 1e-20)
    return ops.cast(size, weight.dtype) * ratio * gradient


def _length(tensor: Tensor) -> Tensor:
    return ops.sqrt(ops.sum(ops.square(tensor)))
