"""Training losses that replace the compiled one; `RobustTrainer` takes one of them."""

import abc

import keras
from keras import ops

from keras_robust import losses
from keras_robust.checks import Tensor
from keras_robust.training.adversarial import Adversarial
from keras_robust.training.labels import integer_labels
from keras_robust.training.logits import at_least_float32
from keras_robust.training.perturbations import Perturbation

VIEWS = 3
"""Views in a batch of `JensenShannon`: the clean images and two augmentations."""


class Objective(abc.ABC):
    """Loss of a batch.

    State that changes between steps is a Keras variable listed in `variables`; `perturbation` is what the
    objective needs done to the batch, before the trainer's own perturbations.
    """

    variables: tuple[keras.Variable, ...] = ()
    perturbation: Perturbation | None = None

    @abc.abstractmethod
    def __call__(self, model: keras.Model, x: Tensor, y: Tensor, y_pred: Tensor, x_clean: Tensor) -> Tensor:
        """Returns the mean loss of the batch, a scalar.

        Args:
            model: The model in training; calling it with `training=True` updates its running averages.
            x: Perturbed images, shape `(batch, height, width, channels)`.
            y: Integer labels, shape `(batch,)`.
            y_pred: Logits of `x`, shape `(batch, classes)`.
            x_clean: Images before perturbation, of the shape of `x`.
        """


class CrossEntropy(Objective):
    """Cross-entropy with label smoothing and, if asked for, a share of it on the clean images.

    Args:
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1).
        clean_weight: Weight of the clean images' loss; the perturbed ones have the rest. Goodfellow et al. give
            each a half, Madry's adversarial training has 0.

    Raises:
        ValueError: If a share is out of range.

    Reference:
        Szegedy et al., 2016, https://arxiv.org/abs/1512.00567 (section 7, label smoothing);
        Goodfellow et al., 2015, https://arxiv.org/abs/1412.6572 (section 6, clean and adversarial images)
    """

    def __init__(self, *, label_smoothing: float = 0.0, clean_weight: float = 0.0):
        self.label_smoothing = _share("label_smoothing", label_smoothing)
        self.clean_weight = _share("clean_weight", clean_weight)

    def __call__(self, model, x, y, y_pred, x_clean):
        """Returns the loss."""
        y = integer_labels(y)
        loss = ops.mean(losses.cross_entropy(y_pred, y, self.label_smoothing))
        if not self.clean_weight:
            return loss
        clean_logits = at_least_float32(model(x_clean, training=True))
        clean = ops.mean(losses.cross_entropy(clean_logits, y, self.label_smoothing))
        return self.clean_weight * clean + (1.0 - self.clean_weight) * loss


class Trades(Objective):
    """Trains on clean images and keeps the prediction around them: CE(p(x), y) + beta * KL(p(x) || p(x_adv)).

    `RobustTrainer(model, objective=Trades())` needs no perturbation: this one searches for the images that raise
    the divergence most, from normal noise of standard deviation 0.001, on the model as it predicts. Gradients flow
    through both predictions. The running averages see the perturbed batch, then the clean one.

    Differs from the code: the clean images pass through the model once where it passes them twice, and the start
    of the search is clipped to [0, 1].

    Args:
        beta: Weight of the divergence.
        norm: Shape of the ball, 'Linf', 'L2' or 'L1'.
        epsilon: Radius in pixel units; kept as a Keras variable, `perturbation.epsilon`.
        step_size: Length of a step in pixel units of the norm; None for the paper's 0.007 in its own setting
            (Linf, epsilon 0.031, 10 steps) and `2.5 * epsilon / steps` in others. For L2 the paper's code takes
            `2 * epsilon / steps`.
        steps: Gradient steps.
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1).

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Zhang et al., 2019, https://arxiv.org/abs/1901.08573 (equation 5, algorithm 1)
    """

    def __init__(
        self,
        beta: float = 6.0,
        *,
        norm: str = "Linf",
        epsilon: float = 0.031,
        step_size: float | None = None,
        steps: int = 10,
        label_smoothing: float = 0.0,
    ):
        if not beta > 0:
            raise ValueError(f"`beta` must be a positive number; the paper has 6. Received: beta={beta!r}.")
        self.beta = beta
        self.label_smoothing = _share("label_smoothing", label_smoothing)
        if step_size is None and (norm, epsilon, steps) == ("Linf", 0.031, 10):
            step_size = 0.007
        self.perturbation = Adversarial(norm=norm, epsilon=epsilon, step_size=step_size, steps=steps, loss="kl")

    def __call__(self, model, x, y, y_pred, x_clean):
        """Returns the loss."""
        clean = at_least_float32(model(x_clean, training=True))
        natural = losses.cross_entropy(clean, integer_labels(y), self.label_smoothing)
        return ops.mean(natural) + self.beta * ops.mean(losses.kl(clean, y_pred))


class JensenShannon(Objective):
    """Trains on clean images and brings the predictions for three views of each together, as AugMix does.

    CE(p(clean), y) + weight * JS(p(clean); p(view 1); p(view 2)). A batch holds the clean images, then the first
    view of them all, then the second, as `Batches(..., maximum=255, views=(AugMix(), AugMix()))` makes it: one
    pass of the model sees the three, and so do its batch statistics. Gradients flow through all predictions.
    Perturbations act on the whole batch; the accuracy that `fit` reports is that of the three views together.

    Args:
        weight: Factor of the divergence.

    Raises:
        ValueError: If `weight` is not positive, or a batch does not hold three views.

    Reference:
        Hendrycks et al., 2020, https://arxiv.org/abs/1912.02781 (equations 1 and 2)
    """

    def __init__(self, weight: float = 12.0):
        if not weight > 0:
            raise ValueError(f"`weight` must be a positive number; the paper has 12. Received: weight={weight!r}.")
        self.weight = weight

    def __call__(self, model, x, y, y_pred, x_clean):
        """Returns the loss."""
        y = integer_labels(y)
        if y_pred.shape[0] is not None and y_pred.shape[0] % VIEWS:
            raise ValueError(
                "JensenShannon needs batches of three views: clean images, then two augmentations of them all. "
                f"Received: a batch of {y_pred.shape[0]}. Pass views=(AugMix(), AugMix()) to Batches."
            )
        views = ops.reshape(y_pred, (VIEWS, -1, y_pred.shape[-1]))
        labels = ops.reshape(y, (VIEWS, -1))[0]
        divergence = losses.jensen_shannon(*(views[number] for number in range(VIEWS)))
        return ops.mean(losses.cross_entropy(views[0], labels)) + self.weight * ops.mean(divergence)


def _share(name: str, value: float) -> float:
    if not 0.0 <= value < 1.0:
        raise ValueError(f"`{name}` must lie in [0, 1). Received: {name}={value!r}.")
    return value
