"""The wheel, as a user gets it: built, unpacked elsewhere, used with one backend only."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from keras_robust import zoo
from keras_robust.zoo import registry, results
from tests.hidden import HIDE

LARGEST_WHEEL = 20_000_000
LARGEST_WEIGHTS = 1_550_000

USE = (
    HIDE
    + """
import json
import keras
import numpy as np
import keras_robust
from keras_robust import zoo
model = zoo.load("kap_cnn_digits.noise_sigma0.1")
try:
    large = zoo.load({large!r}, cache_dir="cache", local_files_only=True)
    error = ""
except (ValueError, OSError) as caught:
    error = str(caught)
print(json.dumps({{
    "from": keras_robust.__file__,
    "entries": [entry.name for entry in zoo.list_entries()],
    "logits": np.asarray(keras.ops.convert_to_numpy(model(np.zeros((1, 8, 8, 1), "float32")))).shape,
    "error": error,
}}))
"""
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason="the wheel is built without network, by the hatchling that is here")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", folder, results.checkout()], check=True, timeout=300)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
@pytest.mark.once
def test_the_wheel_holds_every_entry_and_no_large_weights(wheel):
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    assert wheel.stat().st_size < LARGEST_WHEEL
    for entry in zoo.list_entries():
        inside = f"keras_robust/zoo_data/{entry.name}"
        assert {
            f"{inside}/{name}" for name in ("entry.json", "recipe.toml", "card.md", "probe.npz")
        } <= sizes.keys()
        assert (f"{inside}/{entry.weights.file}" in sizes) == (entry.weights.bytes <= LARGEST_WEIGHTS)
    assert {"keras_robust/zoo/leaderboard.html", "keras_robust_command.py"} <= sizes.keys()
    assert not [name for name in sizes if name.startswith(("tests/", "scripts/"))]


@pytest.mark.slow
@pytest.mark.once
def test_the_sdist_holds_the_weights_of_the_wheel_alone(tmp_path):
    pytest.importorskip("hatchling", reason="the sdist is built without network, by the hatchling that is here")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", tmp_path]
    subprocess.run(build, cwd=results.checkout(), check=True, timeout=300)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for entry in zoo.list_entries():
        inside = f"zoo/{entry.name}"
        assert {f"{inside}/{name}" for name in ("entry.json", "recipe.toml", "card.md", "probe.npz")} <= names
        assert (f"{inside}/{entry.weights.file}" in names) == (entry.weights.bytes <= LARGEST_WEIGHTS)
    assert {"scripts/wheel_contents.py", "keras_robust_command.py", "README.md"} <= names


@pytest.mark.slow
@pytest.mark.once
def test_the_wheel_with_one_backend_lists_every_entry_and_loads_a_small_one(wheel, tmp_path):
    installed = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", installed, wheel]
    subprocess.run(install, check=True, timeout=300)
    large = next(entry.name for entry in zoo.list_entries() if entry.weights.bytes > LARGEST_WEIGHTS)
    absent = {"tensorflow", "torch", "jax"} - {os.environ["KERAS_BACKEND"]}
    run = subprocess.run(
        [sys.executable, "-c", USE.format(absent=absent, large=large)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert Path(found["from"]).is_relative_to(installed)
    assert found["entries"] == sorted(entry.name for entry in zoo.list_entries())
    assert found["logits"] == [1, 10]
    assert large in found["error"]
    assert registry.find(large).name == large  # the checkout itself still has it
