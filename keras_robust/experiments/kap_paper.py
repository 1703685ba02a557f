"""The numbers of the kernel average pooling paper, in per cent: Bashivan et al., https://arxiv.org/abs/2210.00062.

Its figures have none. Columns are names that the measures give, without those that the paper leaves out.
"""

from collections.abc import Mapping, Sequence

ATTACKS = ("clean", "PGD L2 1", "AutoAttack L2 1", "AutoAttack L2 1, square alone")

TABLE_1: Mapping[str, Mapping[str, Sequence[float]]] = {
    "cifar10": {
        "standard": (94.89, 0.0, 0.0, 2.26),
        "noise_sigma0.1": (88.44, 9.51, 7.05, 34.64),
        "at": (80.95, 38.14, 36.75, 56.02),
        "trades": (81.79, 52.29, 49.64, 63.93),
        "kap_sigma0.1": (80.00, 63.07, 19.44, 20.1),
        "kap_sigma0.2": (72.21, 59.90, 31.28, 32.24),
    },
    "cifar100": {
        "standard": (74.30, 0.0, 0.0, 0.61),
        "noise_sigma0.1": (60.05, 5.24, 4.80, 19.38),
        "at": (52.31, 16.97, 16.12, 28.25),
        "trades": (54.17, 27.24, 25.06, 35.51),
        "kap_sigma0.1": (45.70, 31.30, 8.46, 9.0),
        "kap_sigma0.2": (37.30, 30.25, 11.74, 12.4),
    },
}

TABLE_2_COLUMNS = ("none", "activation", "input", "both")
"""Which noise is on; that the second row is the activations' is read from the text, the marks are lost."""

TABLE_2: Mapping[str, Sequence[float]] = {
    "noise_sigma0.1": (6.10, 11.20, 24.4, 27.1),
    "kap_sigma0.1": (21.70, 47.80, 67.30, 67.40),
    "at": (37.60, 37.60, 50.60, 50.40),
}

# The head of the table says PGD-Linf; the text and Table A1 say PGD-L2.
TABLE_3: Mapping[str, Mapping[str, Sequence[float]]] = {
    "tiny_imagenet": {
        "standard": (57.36, 3.63, 3.0, 29.60),
        "noise_sigma0.1": (57.80, 4.36, 4.73, 29.86),
        "at": (54.00, 30.03, 29.53, 44.40),
        "kap_sigma0.1": (33.60, 30.16, 16.16, 17.13),
    },
    "imagenet": {
        "standard": (69.80, 0.13, 0.0, 37.40),
        "noise_sigma0.1": (48.40, 6.03, 4.90, 33.93),
        "fast_at": (51.06, 7.33, 7.23, 6.70),
        "kap_sigma0.1": (12.10, 9.23, 4.83, 5.16),
        "wide_fast_at": (63.76, 15.00, 15.46, 16.40),
        "wide_kap_sigma0.1": (37.40, 34.93, 26.73, 27.71),
    },
}

TABLE_A2: Mapping[str, Sequence[float]] = {"standard": (12.5, 9.43), "at": (100.75, 9.43), "kap": (14.5, 12.34)}
"""Seconds of a training epoch and milliseconds of a batch at inference: ResNet-18, CIFAR-10, one A100."""

TABLE_A3: Mapping[str, Mapping[str, float]] = {
    "kap_sigma0.1": {"standard": 77.1, "at": 65.4},
    "kap_sigma0.2": {"standard": 71.8, "at": 62.0},
}
"""Accuracy of the first network on images that AutoAttack L2 1 crafted on the second, CIFAR-10."""


def fractions(names: Sequence[str], percent: Sequence[float]) -> dict[str, float]:
    """Returns the paper's numbers by name, as fractions."""
    return {name: value / 100 for name, value in zip(names, percent, strict=True)}
