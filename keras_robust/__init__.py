"""Noise- and attack-robust image classifiers for Keras 3, and evaluation that can be trusted.

    from keras_robust import attacks, models, zoo

    model = zoo.load("kap_cnn_digits.noise_sigma0.1")
    x_adversarial = attacks.PGD(norm="Linf", epsilon=8 / 255)(model, x, y)

Importing the package registers its layers with Keras. Sub-packages load when they are first used.
"""

import importlib

from keras_robust import layers as layers

__version__ = "0.1.0"

_SUBPACKAGES = (
    "analysis",
    "attacks",
    "augmentations",
    "certification",
    "corruptions",
    "datasets",
    "evaluation",
    "models",
    "training",
    "zoo",
)


def __getattr__(name: str):
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return [*globals(), *_SUBPACKAGES]
