"""Copies in float32 of models in mixed precision."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_robust.attacks import FGSM, AutoAttack
from keras_robust.attacks.precision import float32_copy


class PlainScale(layers.Layer):
    """Written as one writes it for oneself: no options but its own, no `get_config`."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def call(self, inputs):
        return inputs


@pytest.mark.parametrize("value", [2.0, object()])
def test_a_layer_that_its_configuration_does_not_make_again_is_a_flag_not_a_crash(value):
    half = {"dtype": "mixed_bfloat16"}
    model = keras.Sequential([keras.Input((4,)), PlainScale(value), layers.Dense(3, **half)])
    assert float32_copy(model) is None
    x = np.random.default_rng(0).random((4, 4), dtype="float32")
    attack = AutoAttack("Linf", 0.1, "custom", attacks=[FGSM("Linf", 0.1)])
    flags = attack.run(model, x, np.zeros(4, int)).flags
    assert "low_precision" in [flag.name for flag in flags]
