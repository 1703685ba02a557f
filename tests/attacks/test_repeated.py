"""Accuracy over several evaluations."""

import keras
import numpy as np
import pytest

from keras_robust.attacks import Square, repeated_accuracy
from keras_robust.prediction import Predictor


def test_logits_and_labels_that_are_none_are_errors_not_an_accuracy():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    x = np.random.default_rng(0).random((6, 4), dtype="float32")
    with pytest.raises(ValueError, match=r"Labels must lie in \[0, 4\]"):
        repeated_accuracy(model, x, np.full(6, 5), repeats=2)
    model.layers[-1].bias.assign(np.full(5, np.nan))
    with pytest.raises(ValueError, match="must return finite logits"):
        repeated_accuracy(model, x, np.zeros(6, int), repeats=2)


def test_the_noise_is_none_that_an_attack_saw(monkeypatch):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    ticks, predictor = [], Predictor.of(model)

    def compiled(key, function):
        def run(x, tick):
            ticks.append(int(tick))
            return np.zeros((len(x), 3))

        return run

    monkeypatch.setattr(predictor, "compiled", compiled)
    repeated_accuracy(model, np.zeros((6, 4), "float32"), np.zeros(6, int), repeats=3, batch_size=2)
    assert len(set(ticks)) == 9
    assert min(ticks) > 20 * Square("Linf", 0.1).queries  # the most passes of one attack, stage by stage
