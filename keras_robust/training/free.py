"""Adversarial training that replays each batch and keeps its perturbation from step to step."""

import keras
import numpy as np
from keras import ops

from keras_robust import backend, losses
from keras_robust.checks import check_epsilon
from keras_robust.prediction import Predictor
from keras_robust.training.labels import integer_labels
from keras_robust.training.logits import at_most_float32
from keras_robust.training.perturbations import Perturbation


class FreeAdversarial(Perturbation):
    """Adds a perturbation that grows by one sign step with each training step and outlives its batch.

    Train on `ReplayedBatches`: each batch comes `replays` times in a row, and the epochs are divided by that. The
    images of a step are those that the step before led to; the gradient of the same pass, in training mode, leads
    to the next.

    Differs from the authors' code: the gradient of the images is a pass of its own, because Keras's training step
    returns none; a step costs about two plain ones. It is taken at the clipped images, so that each pixel's
    perturbation moves, as in algorithm 1; theirs is taken through the clip, so that those of clipped pixels stay.

    Args:
        batch_shape: Shape of a batch, `(batch, height, width, channels)`; a smaller batch uses the first rows.
        epsilon: Radius of the Linf ball in pixel units; kept as a Keras variable, `epsilon`.
        step_size: Length of a step in pixel units; None for `epsilon`, the paper's.

    Raises:
        ValueError: If an argument is out of range, or a batch is larger than `batch_shape`.

    Reference:
        Shafahi et al., 2019, https://arxiv.org/abs/1904.12843 (algorithm 1)
    """

    adversarial = True

    def __init__(self, batch_shape: tuple[int, ...], *, epsilon: float = 8 / 255, step_size: float | None = None):
        check_epsilon(epsilon, "Linf")
        if step_size is not None and not step_size > 0:
            raise ValueError(
                "`step_size` must be a positive number in pixel units, or None for epsilon. "
                f"Received: step_size={step_size!r}."
            )
        self.step_size = step_size
        self.epsilon = keras.Variable(float(epsilon), trainable=False, dtype="float32", name="epsilon")
        self.delta = keras.Variable(np.zeros(batch_shape, "float32"), trainable=False, name="delta")
        self.variables = (self.epsilon, self.delta)

    def __call__(self, model, x, y, seed):
        """Returns the perturbed images, and moves the perturbation on."""
        if x.shape[0] is not None and x.shape[0] > self.delta.shape[0]:
            raise ValueError(
                f"A batch must have at most the {self.delta.shape[0]} images of `batch_shape`. "
                f"Received: {x.shape[0]} images. Make the perturbation with the batch size of the training."
            )
        dtype, x = x.dtype, at_most_float32(x)
        count = ops.shape(x)[0]
        epsilon = ops.convert_to_tensor(self.epsilon)
        delta = ops.convert_to_tensor(self.delta)
        x_adv = ops.clip(x + delta[:count], 0.0, 1.0)
        predictor = Predictor.of(model)
        variables, y = predictor.variables(), integer_labels(y)

        def loss(images):
            # The seeds stay where they are: dropout and noise are those of the training pass that follows.
            return ops.sum(losses.cross_entropy(predictor.logits(variables, images, training=True), y))

        _, gradient = backend.value_and_grad(loss, x_adv)
        step_size = epsilon if self.step_size is None else self.step_size
        moved = delta[:count] + step_size * ops.sign(gradient)
        moved = ops.maximum(ops.minimum(moved, epsilon), -epsilon)
        self.delta.assign(ops.reshape(ops.concatenate([moved, delta[count:]]), self.delta.shape))
        return ops.cast(x_adv, dtype)

    def __repr__(self) -> str:
        return f"FreeAdversarial({tuple(self.delta.shape)})"
