"""Certified accuracy against the radius: numbers, table, figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_robust.certification.smoothing import Certificates
from keras_robust.checks import Tensor, check_labels


def certified_accuracy(certificates: Certificates, y: Tensor, radii: Sequence[float]) -> np.ndarray:
    """Computes the fraction of images that are right, with a certificate of at least each radius.

    Args:
        certificates: What `SmoothedClassifier.certify` returned.
        y: Integer labels, shape `(images,)`.
        radii: L2 radii in pixel units.

    Returns:
        Fractions of the shape of `radii`; an image on which the classifier abstained counts as wrong.

    Raises:
        ValueError: If the labels do not fit the certificates.
    """
    y = check_labels(y, len(certificates.prediction))
    right = certificates.prediction == y
    return np.array([float(np.mean(right & (certificates.radius >= radius))) for radius in radii])


def certified_accuracy_table(
    curves: Mapping[str, Certificates], y: Tensor, radii: Sequence[float]
) -> dict[str, Any]:
    """Tabulates certified accuracy for several models or noise levels, ready for JSON.

    Args:
        curves: Certificates of each model, by its name.
        y: Integer labels, shape `(images,)`, the same for all.
        radii: L2 radii in pixel units.

    Returns:
        The radii, and for each name its accuracies, average certified radius (0 where wrong), fraction of
        abstentions, and the settings `sigma`, `n`, `alpha` and `images`.
    """
    y = check_labels(y, len(y))
    rows = {}
    for name, each in curves.items():
        rows[name] = {
            "accuracy": certified_accuracy(each, y, radii).tolist(),
            "average_radius": float(np.mean(np.where(each.prediction == y, each.radius, 0.0))),
            "abstained": float(np.mean(each.prediction < 0)),
            "sigma": each.sigma,
            "n": each.n,
            "alpha": each.alpha,
            "images": len(y),
        }
    return {"radii": [float(radius) for radius in radii], "curves": rows}


def certified_accuracy_figure(table: Mapping[str, Any]) -> Any:
    """Draws certified accuracy against the radius.

    Args:
        table: What `certified_accuracy_table` returned.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib. Install it with: pip install 'keras-robust[plots]'") from error
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, curve in table["curves"].items():
        axes.plot(table["radii"], curve["accuracy"], label=name)
    axes.set(xlabel="L2 radius (pixel units)", ylabel="certified accuracy", ylim=(0, 1), xlim=(0, None))
    axes.legend()
    return figure
