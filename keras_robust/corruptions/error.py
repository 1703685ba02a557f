"""One number for a benchmark of corruptions or perturbations, from the errors on its parts.

CIFAR-10-C and CIFAR-100-C report a plain mean (`mean_corruption_error`). ImageNet-C divides by AlexNet's errors
(`alexnet_mean_corruption_error`, known as mCE), and ImageNet-P by AlexNet's flip probabilities
(`mean_flip_rate`, known as mFR). The two kinds are not comparable.

Reference:
    Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261 (section 4)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_robust.corruptions.constants import CORRUPTIONS, SEVERITIES

ALEXNET_ERRORS: dict[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's error on each corruption of ImageNet-C, mean over the five severities."""

PERTURBATIONS: tuple[str, ...] = (
    "gaussian_noise",
    "shot_noise",
    "motion_blur",
    "zoom_blur",
    "snow",
    "brightness",
    "translate",
    "rotate",
    "tilt",
    "scale",
)
"""The ten perturbations of ImageNet-P whose mean is mFR."""

_ALEXNET_FLIPS = (0.2365, 0.3006, 0.0930, 0.0594, 0.1193, 0.0489, 0.1101, 0.1310, 0.0705, 0.2353)
_ALEXNET_TOP5 = (4.77, 5.76, 1.93, 1.34, 2.42, 1.19, 2.63, 2.95, 1.75, 4.48)
ALEXNET_FLIP_PROBABILITIES: dict[str, float] = dict(zip(PERTURBATIONS, _ALEXNET_FLIPS, strict=True))
"""AlexNet's flip probability on each perturbation of ImageNet-P (the paper's draft of September 2018, p. 13)."""
ALEXNET_TOP5_DISTANCES: dict[str, float] = dict(zip(PERTURBATIONS, _ALEXNET_TOP5, strict=True))
"""AlexNet's top-5 distance on each perturbation of ImageNet-P (same source)."""


def mean_corruption_error(errors: Mapping[str, Sequence[float]]) -> float:
    """Computes the plain mean error over 15 corruptions and 5 severities: the convention of CIFAR-10-C and -100-C.

    For ImageNet-C's mCE use `alexnet_mean_corruption_error`.

    Args:
        errors: For each of `CORRUPTIONS`, the error at severities 1 to 5, fractions.

    Returns:
        The mean, a fraction.

    Raises:
        ValueError: If a corruption or a severity is missing or unknown, or an error is not a fraction.
    """
    return float(np.mean(list(_mean_errors(errors).values())))


def alexnet_mean_corruption_error(errors: Mapping[str, Sequence[float]]) -> float:
    """Computes ImageNet-C's mCE: each corruption's error, divided by AlexNet's, averaged over the 15.

    Args:
        errors: For each of `CORRUPTIONS`, the error at severities 1 to 5, fractions.

    Returns:
        The mCE; 1 is AlexNet. Papers print it times 100.

    Raises:
        ValueError: If a corruption or a severity is missing or unknown, or an error is not a fraction.
    """
    means = _mean_errors(errors)
    return float(np.mean([means[name] / ALEXNET_ERRORS[name] for name in CORRUPTIONS]))


def mean_flip_rate(flip_probabilities: Mapping[str, float]) -> float:
    """Computes ImageNet-P's mFR: each flip probability, divided by AlexNet's, averaged over the ten.

    Args:
        flip_probabilities: For each of `PERTURBATIONS`, what `flip_probability` returned, a fraction.

    Returns:
        The mFR; 1 is AlexNet. Papers print it times 100.

    Raises:
        ValueError: If a perturbation is missing or unknown, or a value is not a fraction.
    """
    _check_names("flip_probabilities", flip_probabilities, PERTURBATIONS)
    for name, value in flip_probabilities.items():
        _check_fractions(name, np.asarray(value, "float64"))
    return float(np.mean([flip_probabilities[name] / ALEXNET_FLIP_PROBABILITIES[name] for name in PERTURBATIONS]))


def mean_top5_distance(distances: Mapping[str, float]) -> float:
    """Computes ImageNet-P's mT5D: each top-5 distance, divided by AlexNet's, averaged over the ten.

    Args:
        distances: For each of `PERTURBATIONS`, what `top5_distance` returned.

    Returns:
        The mT5D; 1 is AlexNet.

    Raises:
        ValueError: If a perturbation is missing or unknown.
    """
    _check_names("distances", distances, PERTURBATIONS)
    return float(np.mean([distances[name] / ALEXNET_TOP5_DISTANCES[name] for name in PERTURBATIONS]))


def flip_probability(predictions: Sequence[Sequence[int]] | np.ndarray, *, noise: bool) -> float:
    """Computes how often the prediction changes along a sequence of frames.

    Args:
        predictions: Predicted classes of each sequence, shape `(sequences, frames)`; lengths may differ.
        noise: True for noise, whose frames are each compared with the first; False for perturbations that
            grow in time, where each is compared with the one before.

    Returns:
        The mean over sequences of the fraction of comparisons that differ.

    Raises:
        ValueError: If there is no sequence, or one has fewer than two frames.
    """
    flips = []
    for each in _check_sequences("predictions", predictions):
        frames = _check_frames(np.asarray(each), 1)
        reference = frames[0] if noise else frames[:-1]
        flips.append(np.mean(frames[1:] != reference))
    return float(np.mean(flips))


def top5_distance(logits: Sequence[np.ndarray] | np.ndarray, *, noise: bool) -> float:
    """Computes how much the ranking of the five likeliest classes changes along a sequence of frames.

    Args:
        logits: Logits of each sequence, shape `(sequences, frames, classes)`, at least 5 classes.
        noise: As in `flip_probability`.

    Returns:
        The mean distance, from 0 to 18; AlexNet's has not been divided out.

    Raises:
        ValueError: If there is no sequence, or one has fewer than two frames or five classes.
    """
    distances = []
    for each in _check_sequences("logits", logits):
        frames = _check_frames(np.asarray(each), 2)
        if frames.shape[1] < 5:
            raise ValueError(f"The five likeliest classes need at least 5 logits. Received: {frames.shape[1]}.")
        order = np.argsort(-frames, axis=1, kind="stable")
        rank = np.argsort(order, axis=1, kind="stable")
        best = np.broadcast_to(order[:1], order[1:].shape) if noise else order[:-1]
        later = np.take_along_axis(rank[1:], best[:, :5], axis=1)
        distances.append(np.abs(np.minimum(later, 5) - np.arange(5)).sum(axis=1).mean())
    return float(np.mean(distances))


def _check_sequences(name: str, sequences: Any) -> Any:
    if len(sequences) == 0:
        raise ValueError(f"`{name}` must hold at least one sequence. Received: none.")
    return sequences


def _check_frames(frames: np.ndarray, ndim: int) -> np.ndarray:
    if frames.ndim != ndim or len(frames) < 2:
        raise ValueError(
            f"Each sequence must have {ndim} axes and at least two frames. Received: shape={frames.shape}."
        )
    return frames


def _mean_errors(errors: Mapping[str, Sequence[float]]) -> dict[str, float]:
    _check_names("errors", errors, CORRUPTIONS)
    means = {}
    for name, values in errors.items():
        array = np.asarray(values, "float64")
        if array.shape != (len(SEVERITIES),):
            raise ValueError(
                f"`errors[{name!r}]` must hold the errors at severities 1 to 5. Received: shape={array.shape}."
            )
        _check_fractions(name, array)
        means[name] = float(array.mean())
    return means


def _check_names(argument: str, given: Mapping, expected: tuple[str, ...]) -> None:
    missing, unknown = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing or unknown:
        raise ValueError(
            f"`{argument}` must have one entry for each of {len(expected)} names: {', '.join(expected)}. "
            f"Received: missing {missing}, unknown {unknown}. A mean over part of them is another number."
        )


def _check_fractions(name: str, values: np.ndarray) -> None:
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"Values of {name!r} must be fractions in [0, 1]. Received: {values}. Divide by 100?")
