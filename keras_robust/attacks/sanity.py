"""Checks that tell when an attack's accuracy cannot be trusted; what they find is data, in the result."""

import dataclasses
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from keras_robust import backend, losses
from keras_robust.attacks.base import Predictor
from keras_robust.checks import Tensor, check_images, check_labels, looks_like_softmax

PASSES = 5
_LOGIT_TOLERANCE = 1e-4
_ACCURACY_TOLERANCE = 0.002


@dataclasses.dataclass(frozen=True)
class Flag:
    """Something found that a reader of the accuracy has to know.

    Attributes:
        name: Which check: 'randomized', 'softmax_output', 'zero_gradient', 'square_beats_white_box' or
            'few_classes'.
        value: The number that matters, in the unit that the message states.
        message: What it means and what to do.
        severity: 'warning' where the accuracy may be too high, 'note' where the attack only adapted itself.
    """

    name: str
    value: float
    message: str
    severity: str = "warning"


def check_model(
    model: keras.Model, x: Tensor, y: Tensor, *, targets: int | None = None, batch_size: int = 250
) -> list[Flag]:
    """Runs the checks that come before an attack.

    Args:
        model: Keras model that returns logits, shape `(batch, classes)`.
        x: Clean images, shape `(images, height, width, channels)`, in [0, 1]; the first batch is looked at.
        y: Labels, shape `(images,)`.
        targets: Target classes that the attacks go through, or None where they have no target.
        batch_size: Images of the first batch.

    Returns:
        What was found; empty where all is well.

    Reference:
        Croce and Hein's `checks.py`, https://github.com/fra31/auto-attack. Differs from the code: gradients are
        also those of the cross-entropy, and images are counted, not only noticed.
    """
    x = check_images(x)
    y = check_labels(y, len(x))
    x, y = x[:batch_size], y[:batch_size]
    logits = _logits_of_passes(model, x)
    found = [randomized(logits, y), softmax_output(logits[0])]
    if targets is not None:
        found.append(few_classes(logits.shape[-1], targets))
    # Probabilities are not logits, so their gradients say nothing that the first flag does not.
    names = ("cross_entropy", "dlr") if logits.shape[-1] > 2 else ("cross_entropy",)
    correct = logits[0].argmax(axis=-1) == y  # attacks start from these only
    found += [zero_gradient(name, zero_gradients(model, x, y, name)[correct]) for name in names]
    return [flag for flag in found if flag is not None]


def _logits_of_passes(model, x):
    predictor = Predictor.of(model)
    run = predictor.compiled("logits_at_tick", lambda logits, images, tick: logits(images, tick))
    predictor.count(forward=PASSES * len(x))
    images = ops.convert_to_tensor(x)
    ticks = (ops.convert_to_tensor(tick, "int32") for tick in range(PASSES))
    return np.stack([ops.convert_to_numpy(run(images, tick)) for tick in ticks])


def randomized(logits: np.ndarray, y: np.ndarray) -> Flag | None:
    """Tells whether passes over the same images differ.

    Args:
        logits: Logits of several passes, shape `(passes, batch, classes)`.
        y: Labels, shape `(batch,)`.

    Returns:
        A flag whose value is the largest L2 distance of a pass's normalised logits from the first one's, or None.
    """
    correct = (logits.argmax(axis=-1) == y).sum(axis=1)
    unit = logits / np.maximum(np.linalg.norm(logits, axis=-1, keepdims=True), 1e-10)
    distance = float(np.linalg.norm(unit - unit[0], axis=-1).max())
    if distance <= _LOGIT_TOLERANCE and correct.min() == correct.max():
        return None
    return Flag(
        "randomized",
        distance,
        f"The model is randomised: between {correct.min()} and {correct.max()} of {len(y)} images are correct in "
        f"{len(logits)} passes. Use version='rand', which averages gradients, and evaluate repeatedly.",
    )


def softmax_output(logits: np.ndarray) -> Flag | None:
    """Tells whether the outputs, shape `(batch, classes)`, are probabilities; the value is the largest output."""
    if not looks_like_softmax(logits):
        return None
    return Flag(
        "softmax_output",
        float(logits.max()),
        "The model returns probabilities, which hide gradients from attacks. Remove its softmax.",
    )


def zero_gradients(model: keras.Model, x: np.ndarray, y: np.ndarray, loss: str) -> np.ndarray:
    """Tells at which images the gradient of a loss is zero throughout, shape `(batch,)`.

    Args:
        model: Keras model that returns logits.
        x: Images, shape `(batch, height, width, channels)`, in [0, 1].
        y: Labels, shape `(batch,)`.
        loss: 'cross_entropy', 'margin' or 'dlr'.
    """
    function = {"cross_entropy": losses.cross_entropy, "margin": losses.margin, "dlr": losses.dlr}[loss]

    def zero(logits, images, labels):
        def total(each):
            return ops.sum(function(logits(each), labels))

        gradient = backend.value_and_grad(total, images)[1]
        return ops.all(gradient == 0, axis=tuple(range(1, len(images.shape))))

    predictor = Predictor.of(model)
    predictor.count(forward=len(x), backward=len(x))
    run = predictor.compiled(("zero_gradient", loss), zero)
    return ops.convert_to_numpy(run(ops.convert_to_tensor(x), ops.convert_to_tensor(y)))


def zero_gradient(loss: str, zero: np.ndarray) -> Flag | None:
    """Tells whether some images have no gradient to follow.

    Args:
        loss: Name of the loss.
        zero: Whether the gradient of each image is zero, shape `(images,)`.

    Returns:
        A flag whose value is the share of images without a gradient, a fraction, or None.
    """
    if not zero.any():
        return None
    return Flag(
        "zero_gradient",
        float(zero.mean()),
        f"{zero.sum()} of {len(zero)} images have a zero gradient of the loss '{loss}': gradient attacks "
        "stand still there. Look for rounding, saturation or a non-differentiable layer; trust black-box attacks.",
    )


def square_beats_white_box(accuracies: Mapping[str, float]) -> Flag | None:
    """Tells whether the black-box attack did better than all others, a sign of masked gradients.

    Args:
        accuracies: Accuracy under each attack by name, fractions; 'square' is the black-box one.

    Returns:
        A flag whose value is the lead of Square as a fraction, or None.
    """
    others = [accuracy for name, accuracy in accuracies.items() if name != "square"]
    if "square" not in accuracies or not others:
        return None
    lead = min(others) - accuracies["square"]
    if lead <= _ACCURACY_TOLERANCE:
        return None
    return Flag(
        "square_beats_white_box",
        lead,
        f"Square, which sees no gradient, is ahead of every gradient attack by {100 * lead:.1f} % of the images: "
        "gradients are probably masked. Attack the model adaptively before trusting its accuracy.",
    )


def few_classes(num_classes: int, targets: int) -> Flag | None:
    """Tells whether a model has too few classes for a targeted attack's number of targets.

    Args:
        num_classes: Number of logits.
        targets: Target classes that the attack would go through.

    Returns:
        A flag whose value is the number of classes, or None.
    """
    if targets < num_classes:
        return None
    return Flag(
        "few_classes",
        num_classes,
        f"{num_classes} classes leave {num_classes - 1} targets, not {targets}; targeted attacks take those.",
        severity="note",
    )
