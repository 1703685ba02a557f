"""Accuracy of randomised models: many evaluations of the same images, and an interval."""

import contextlib
import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras import ops
from scipy import stats

from keras_robust import backend
from keras_robust.attacks.base import Predictor, padded_batches
from keras_robust.checks import (
    Tensor,
    check_classes,
    check_finite,
    check_images,
    check_labels,
    check_positive_integer,
)

_FIRST_TICK = 2**20
"""Attacks count their passes from 0: what they found must not be judged on the very noise that they saw."""

NOISE_SETTINGS = {
    "none": (False, False),
    "input": (True, False),
    "activation": (False, True),
    "both": (True, True),
}


@dataclasses.dataclass(frozen=True)
class RepeatedAccuracy:
    """Accuracy over several evaluations of a randomised model.

    Attributes:
        mean: Mean accuracy, a fraction.
        low: Lower end of the 95 % interval of the mean over the model's randomness (Student's t).
        high: Upper end.
        accuracies: Accuracy of each evaluation.
    """

    mean: float
    low: float
    high: float
    accuracies: tuple[float, ...]


def repeated_accuracy(
    model: keras.Model, x: Tensor, y: Tensor, *, repeats: int = 10, batch_size: int = 250
) -> RepeatedAccuracy:
    """Classifies the images several times, with new randomness of the model each time.

    Args:
        model: Keras model that returns logits.
        x: Images, shape `(images, height, width, channels)`, in [0, 1].
        y: Labels, shape `(images,)`.
        repeats: Evaluations, at least 2.
        batch_size: Images a pass.

    Returns:
        The accuracy and its interval; of no width for a model that is not random.

    Raises:
        ValueError: If an argument has the wrong shape, type or range, or a logit is NaN or infinite.
    """
    x = check_images(x)
    y = check_labels(y, len(x))
    check_positive_integer("repeats", repeats, minimum=2)
    check_positive_integer("batch_size", batch_size)
    predictor = Predictor.of(model)
    predictor.prepare(x)
    run = predictor.compiled("repeated", lambda logits, batch, tick: logits(batch, tick))
    correct = np.zeros((repeats, len(x)), bool)
    for number, (rows, batch) in enumerate(padded_batches(len(x), min(batch_size, len(x)))):
        images = ops.convert_to_tensor(x[batch])
        for repeat in range(repeats):
            predictor.count(forward=len(batch))
            tick = ops.convert_to_tensor(_FIRST_TICK + repeat + number * repeats, "int32")
            with backend.full_precision():
                logits = ops.convert_to_numpy(run(images, tick))[: len(rows)]
            check_finite(logits)
            check_classes(y, logits.shape[-1])
            correct[repeat, rows] = logits.argmax(axis=-1) == y[rows]
    accuracies = correct.mean(axis=1)
    mean, half = float(accuracies.mean()), 0.0
    if np.ptp(accuracies) > 0:
        half = float(stats.t.ppf(0.975, repeats - 1) * accuracies.std(ddof=1) / np.sqrt(repeats))
    return RepeatedAccuracy(mean, max(mean - half, 0.0), min(mean + half, 1.0), tuple(map(float, accuracies)))


def accuracy_under_noise(
    model: keras.Model,
    x: Tensor,
    y: Tensor,
    *,
    switch: Callable[..., contextlib.AbstractContextManager],
    repeats: int = 10,
    batch_size: int = 250,
) -> dict[str, RepeatedAccuracy]:
    """Classifies images, made without noise, with the model's noise switched on in turn.

    The KAP paper's table 2: craft `x` on the model as it is, then call this.

    Args:
        model: Keras model with noise layers for inputs and activations.
        x: Images, adversarial for instance, shape `(images, height, width, channels)`, in [0, 1].
        y: Labels, shape `(images,)`.
        switch: `keras_robust.layers.noise_at_inference`, or a function that is called like it.
        repeats: Evaluations of each setting, at least 2.
        batch_size: Images a pass.

    Returns:
        Accuracy without noise, with noise on the `"input"`, on each `"activation"`, and on `"both"`.

    Raises:
        ValueError: If the model lacks one of the two kinds of noise, or an argument is wrong.

    Reference:
        Bashivan et al., 2022, https://arxiv.org/abs/2210.00062 (table 2)
    """
    accuracies = {}
    for name, (inputs, activations) in NOISE_SETTINGS.items():
        with switch(model, inputs=inputs, activations=activations):
            accuracies[name] = repeated_accuracy(model, x, y, repeats=repeats, batch_size=batch_size)
    return accuracies
