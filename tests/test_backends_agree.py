"""The same weights give the same logits and the same deterministic PGD on the three backends."""

import os
import subprocess
import sys

import numpy as np
import pytest

BACKENDS = ("jax", "tensorflow", "torch")
MODELS = {
    "kap_cnn": ("kap_cnn", (32, 32, 3), {"pooling": "kap"}),
    "kmp_cnn": ("kap_cnn", (32, 32, 3), {"pooling": "kmp"}),
    "wm_smoothing": ("wm_cnn", (12, 12, 1), {"layer": "smoothing", "filters": (8, 8, 4)}),
    "wm_unsharp": ("wm_cnn", (12, 12, 1), {"layer": "unsharp", "filters": (8, 8, 4)}),
    "resnet18": ("resnet18", (32, 32, 3), {"pooling": "kap"}),
}
PROGRAM = """
import sys
import numpy as np
from keras_robust import models
from keras_robust.attacks import PGD
from tests.test_backends_agree import MODELS

results = {}
for name, (builder, shape, options) in MODELS.items():
    rng = np.random.default_rng(0)
    model = models.build(builder, num_classes=10, input_shape=shape, **options)
    for weight in model.weights:
        if "seed_generator" in weight.path or not np.issubdtype(weight.numpy().dtype, np.floating):
            continue
        bound = 1 / np.sqrt(max(1, np.prod(weight.shape[:-1]))) if len(weight.shape) > 1 else 0.1
        value = rng.uniform(-bound, bound, weight.shape)
        weight.assign(value + 1.0 if "variance" in weight.path or "gamma" in weight.path else value)
    x = rng.uniform(size=(4, *shape)).astype("float32")
    y = rng.integers(0, 10, 4)
    attack = PGD(norm="L2", epsilon=0.5, step_size=0.1, steps=5, random_start=False)
    results[name + "_logits"] = model.predict(x, verbose=0)
    results[name + "_adversarial"] = attack(model, x, y)
np.savez(sys.argv[1], **results)
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("backends")
    found = {}
    for name in BACKENDS:
        file = folder / f"{name}.npz"
        environment = {**os.environ, "KERAS_BACKEND": name}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(file)],
            cwd=request.config.rootpath,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode and "No module named" in done.stderr:
            pytest.skip(f"{name} is not installed")
        if done.returncode:
            raise RuntimeError(f"{name} failed:\n{done.stderr}")
        found[name] = dict(np.load(file))
    return found


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("other", ["tensorflow", "torch"])
def test_logits_agree_across_backends(outputs, model, other):
    key = f"{model}_logits"
    np.testing.assert_allclose(outputs[other][key], outputs["jax"][key], atol=1e-5, rtol=1e-5)


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("other", ["tensorflow", "torch"])
def test_deterministic_pgd_agrees_across_backends(outputs, model, other):
    key = f"{model}_adversarial"
    # L2 steps are continuous in the gradient, so rounding stays rounding.
    np.testing.assert_allclose(outputs[other][key], outputs["jax"][key], atol=1e-5)
