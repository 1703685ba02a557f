"""Transfer: attack one model with images crafted on another."""

import dataclasses

import keras
import numpy as np

from keras_robust.attacks.base import Attack, Predictor
from keras_robust.checks import Tensor, check_images, check_labels, check_logits


@dataclasses.dataclass(frozen=True)
class TransferResult:
    """Accuracies, as fractions of all images.

    Attributes:
        images: Number of images.
        source_clean: Accuracy of the source on the clean images.
        target_clean: Accuracy of the target on the clean images.
        source_adversarial: Accuracy of the source on the images crafted on it.
        target_adversarial: Accuracy of the target on those images: the number that the protocol reports.
    """

    images: int
    source_clean: float
    target_clean: float
    source_adversarial: float
    target_adversarial: float


def transfer(
    source: keras.Model,
    target: keras.Model,
    attack: Attack,
    x: Tensor,
    y: Tensor,
    *,
    seed: int = 0,
    batch_size: int = 128,
) -> TransferResult:
    """Crafts images on the source model and measures the target model on them.

    A target that does worse here than under an attack on itself has masked gradients. To measure several targets,
    craft once and call `measure_transfer` for each.

    Args:
        source: Keras model that the attack sees.
        target: Keras model that is measured.
        attack: Attack such as `PGD` or `AutoAttack`.
        x: Clean images, shape `(images, height, width, channels)`, in [0, 1].
        y: Integer labels, shape `(images,)`.
        seed: Integer seed of the attack.
        batch_size: Images a pass.

    Returns:
        The accuracies of both models.

    Raises:
        ValueError: If the images, the labels or the logits of a model are out of range.

    Reference:
        The protocol of Table A3 of the kernel average pooling paper, https://arxiv.org/abs/2210.00062
    """
    _logits(target, check_images(x)[:1], "target")  # before the long part
    x_adv = attack(source, x, y, seed=seed, batch_size=batch_size)
    return measure_transfer(source, target, x, x_adv, y, batch_size=batch_size)


def measure_transfer(
    source: keras.Model, target: keras.Model, x: Tensor, x_adv: Tensor, y: Tensor, *, batch_size: int = 250
) -> TransferResult:
    """Measures two models on clean images and on images crafted on the first.

    Args:
        source: Keras model that the images were crafted on.
        target: Keras model that is measured.
        x: Clean images, shape `(images, height, width, channels)`, in [0, 1].
        x_adv: Crafted images of the same shape.
        y: Integer labels, shape `(images,)`.
        batch_size: Images a pass.

    Returns:
        The accuracies of both models.

    Raises:
        ValueError: If the images, the labels or the logits of a model are out of range.
    """
    x, x_adv = check_images(x), check_images(x_adv, "x_adv")
    if x.shape != x_adv.shape:
        raise ValueError(
            f"`x_adv` must have the shape of `x`, {x.shape}. Received: shape={x_adv.shape}. "
            "Give the images that were crafted from `x`, in its order."
        )
    y = check_labels(y, len(x))

    def accuracy(model, name, images):
        logits = _logits(model, images, name, y, batch_size)
        return float((logits.argmax(axis=1) == y).mean())

    return TransferResult(
        images=len(x),
        source_clean=accuracy(source, "source", x),
        target_clean=accuracy(target, "target", x),
        source_adversarial=accuracy(source, "source", x_adv),
        target_adversarial=accuracy(target, "target", x_adv),
    )


def _logits(
    model: keras.Model, x: np.ndarray, name: str, y: np.ndarray | None = None, batch_size: int = 250
) -> np.ndarray:
    if not isinstance(model, keras.Model):
        raise ValueError(f"`{name}` must be a keras.Model. Received: {name} of type {type(model).__name__}.")
    return check_logits(Predictor.of(model).predict(x, batch_size), y)
