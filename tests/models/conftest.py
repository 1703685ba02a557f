"""Fixtures of the models' tests."""

import keras
import numpy as np
import pytest


@pytest.fixture
def numpy_weights(monkeypatch):
    """Draws initial weights with NumPy: JAX compiles a generator for each shape, which takes most of a build."""
    generator = np.random.default_rng(0)

    def draw(self, shape, dtype=None):
        bound = np.prod(shape[:-1]) ** -0.5
        return generator.uniform(-bound, bound, shape).astype(dtype or "float32")

    for initializer in (keras.initializers.RandomUniform, keras.initializers.VarianceScaling):
        monkeypatch.setattr(initializer, "__call__", draw)
