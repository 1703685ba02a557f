"""The surgery examples run: pooling changes the networks, folding does not, and nothing is left to pool."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from keras_robust.layers import KAP, GaussianNoise
from tests.models.conftest import numpy_weights  # noqa: F401

FLOAT32_ROUNDING = 2e-5  # of the largest logit (tiny in a MobileNet of random weights), after some ten layers
SCRIPT = Path(__file__).parents[1] / "scripts" / "insert_kap_examples.py"


@pytest.fixture(scope="module")
def examples():
    spec = importlib.util.spec_from_file_location("insert_kap_examples", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Every convolution; attention and the two dense layers of each block, and Swin's merging of patches. The surgery's
# own tests have MobileNet on each backend.
NETWORKS = [pytest.param("mobilenet", 35, marks=pytest.mark.once), ("vit", 6), ("swin", 13)]


@pytest.mark.parametrize(("name", "pools"), NETWORKS)
@pytest.mark.usefixtures("numpy_weights")
def test_pooling_changes_a_network_and_folding_keeps_its_logits(examples, name, pools):
    (model, pooled, folded), (plain, moved, same) = examples.run(name)
    assert np.abs(moved - plain).max() > 1e-3 * np.abs(plain).max()
    np.testing.assert_allclose(same, moved, atol=FLOAT32_ROUNDING * np.abs(moved).max())
    assert sum(isinstance(layer, KAP) for layer in pooled._flatten_layers()) == pools
    assert sum(isinstance(layer, GaussianNoise) for layer in pooled.layers) == pools + 1
    assert not any(isinstance(layer, KAP) for layer in folded._flatten_layers())
    assert len(folded.trainable_variables) == len(model.trainable_variables)
