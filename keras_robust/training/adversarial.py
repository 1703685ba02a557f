"""Adversarial examples made inside the compiled training step."""

import keras
import numpy as np
from keras import ops

from keras_robust import backend, losses, norms
from keras_robust.attacks.pgd import LOSSES, PGD
from keras_robust.checks import check_choice
from keras_robust.prediction import Predictor
from keras_robust.training.labels import integer_labels
from keras_robust.training.logits import at_most_float32
from keras_robust.training.perturbations import Perturbation

MODEL_MODES = ("eval", "train")
START_DEVIATION = 0.001
"""Standard deviation, in pixel units, of the noise from which the KL divergence is climbed (TRADES)."""


class Adversarial(Perturbation):
    """Replaces each image by the last iterate of projected gradient ascent on the loss of the model in training.

    Madry's adversarial training: `RobustTrainer(model, perturbations=[Adversarial()])` trains on these images
    alone. The search runs inside the compiled step and leaves running averages, dropout seeds and every other
    variable of the model as they are. The result is clipped to [0, 1]: put noise after it in the list, not before.

    Args:
        norm: Shape of the ball, 'Linf', 'L2' or 'L1'.
        epsilon: Radius in pixel units, `8 / 255`, not 8; kept as a Keras variable, `epsilon`, that a callback may
            set.
        step_size: Length of a step in pixel units of the norm; None for `2.5 * epsilon / steps`, the usual 2/255
            for 8/255 in 10 steps, which follows `epsilon`. Usual for L2 is 128/255 with steps of 15/255.
        steps: Gradient steps.
        random_start: Whether to start at random inside the ball (see `PGD`), with `loss='kl'` at normal noise of
            standard deviation 0.001; otherwise at the image.
        loss: 'cross_entropy', 'margin', 'dlr', or 'kl': the divergence KL(p(x) || p(x_adv)), which needs no label.
        model_mode: 'eval' searches on the model as it predicts, as TRADES and the KAP paper's baselines do.
            'train' searches with the batch's own statistics, dropout and noise, as the code of Rice et al., of
            Fast-AT and of the EWS paper does; each step then draws noise anew.

    Call arguments:
        See `Perturbation`.

    Returns:
        Images of the shape of `x`, within `epsilon` of it, in [0, 1].

    Raises:
        ValueError: If an argument is out of range, or 'kl' is to start at the image, where its gradient is zero.

    Reference:
        Madry et al., 2018, https://arxiv.org/abs/1706.06083 (equation 2.1);
        Rice et al., 2020, https://arxiv.org/abs/2002.11569 (settings)
    """

    adversarial = True

    def __init__(
        self,
        *,
        norm: str = "Linf",
        epsilon: float = 8 / 255,
        step_size: float | None = None,
        steps: int = 10,
        random_start: bool = True,
        loss: str = "cross_entropy",
        model_mode: str = "eval",
    ):
        check_choice("loss", loss, (*LOSSES, "kl"))
        check_choice("model_mode", model_mode, MODEL_MODES)
        if loss == "kl" and not random_start:
            raise ValueError(
                "`loss='kl'` needs `random_start=True`: at the image itself the divergence has no gradient. "
                "Received: random_start=False."
            )
        self.norm = norm
        self.step_size = step_size
        self.steps = steps
        self.random_start = random_start
        self.loss = loss
        self.model_mode = model_mode
        own_loss = "cross_entropy" if loss == "kl" else loss
        self._attack = PGD(norm, epsilon, step_size, steps, random_start, loss=own_loss)
        self.epsilon = keras.Variable(float(epsilon), trainable=False, dtype="float32", name="epsilon")
        self.variables = (self.epsilon,)

    @classmethod
    def fast(cls, *, epsilon: float = 8 / 255) -> "Adversarial":
        """Returns the single step of Fast-AT: random start, then 1.25 epsilon along the sign of the gradient.

        Train it with the cyclic schedule, `Triangle`. It can break down, suddenly, into a model that resists one
        step and nothing else: watch the accuracy under PGD, for instance with `RobustEarlyStopping`.

        Args:
            epsilon: Radius of the Linf ball in pixel units.

        Returns:
            The perturbation.

        Reference:
            Wong et al., 2020, https://arxiv.org/abs/2001.03994 (algorithm 3)
        """
        return cls(epsilon=epsilon, step_size=1.25 * epsilon, steps=1, model_mode="train")

    def __call__(self, model, x, y, seed):
        """Returns the adversarial images."""
        predictor = Predictor.of(model)
        variables = predictor.variables()
        training = self.model_mode == "train"
        dtype, x = x.dtype, at_most_float32(x)  # the logits are float32
        epsilon = ops.cast(self.epsilon, x.dtype)

        def logits(images, tick):
            # A tick of 0 would be the noise of the training pass itself.
            return predictor.logits(variables, images, tick + 1 if training else None, training=training)

        objective = None
        if self.loss == "kl":
            clean = ops.stop_gradient(logits(x, self.steps))

            def objective(outputs):
                return losses.kl(clean, outputs)

        step_size = self.step_size if self.step_size is not None else 2.5 * epsilon / self.steps
        found, _ = self._attack.perturb(
            logits,
            x,
            integer_labels(y),
            self._start(x, epsilon, seed),
            objective=objective,
            keep_best=False,
            epsilon=epsilon,
            step_size=step_size,
        )
        return ops.cast(found, dtype)

    def _start(self, x, epsilon, seed):
        """Where to start, as points of the unit ball."""
        if not self.random_start:
            return None

        def normal(shape):
            return ops.cast(backend.normal(shape, seed.next()), x.dtype)

        if self.loss != "kl":
            return norms.get(self.norm).sample(ops.shape(x), normal)
        return START_DEVIATION * normal(ops.shape(x)) / ops.maximum(epsilon, np.finfo("float32").tiny)

    def __repr__(self) -> str:
        return f"Adversarial(norm={self.norm!r}, steps={self.steps}, loss={self.loss!r})"
