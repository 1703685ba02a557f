"""Accuracy over several evaluations."""

import keras
import numpy as np
import pytest

from keras_robust.attacks import repeated_accuracy


def test_logits_and_labels_that_are_none_are_errors_not_an_accuracy():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    x = np.random.default_rng(0).random((6, 4), dtype="float32")
    with pytest.raises(ValueError, match=r"Labels must lie in \[0, 4\]"):
        repeated_accuracy(model, x, np.full(6, 5), repeats=2)
    model.layers[-1].bias.assign(np.full(5, np.nan))
    with pytest.raises(ValueError, match="must return finite logits"):
        repeated_accuracy(model, x, np.zeros(6, int), repeats=2)
