"""The activation is an option of every builder that has one, and changes nothing else."""

import keras
import numpy as np
import pytest

from keras_robust import models

pytestmark = pytest.mark.once

BUILDERS = {
    "kap_cnn": {"depth": 2},
    "kap_ensemble_cnn": {},
    "wm_cnn": {},
    "resnet8": {},
    "resnet50": {"planes": (4, 4, 4, 4)},
    "wide_resnet": {"depth": 10, "width": 1},
}


@pytest.mark.parametrize("name", BUILDERS)
def test_softplus_replaces_every_relu_and_nothing_else(name):
    relu, softplus = (
        models.build(name, 10, (8, 8, 1), seed=0, activation=activation, **BUILDERS[name])
        for activation in ("relu", "softplus")
    )
    activations = {getattr(layer, "activation", None) for layer in softplus.layers}
    assert not any(isinstance(layer, keras.layers.ReLU) for layer in softplus.layers)
    assert keras.activations.relu not in activations
    assert keras.activations.softplus in activations
    assert [type(layer) for layer in relu.layers if layer.weights] == [
        type(layer) for layer in softplus.layers if layer.weights
    ]
    for one, other in zip(relu.get_weights(), softplus.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="`activation`"):
        models.build(name, 10, (8, 8, 1), activation="gelu", **BUILDERS[name])
