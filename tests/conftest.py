"""Fixtures of the whole suite; `KERAS_BACKEND` selects the backend that a run tests."""

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import numpy as np
import pytest


def pytest_addoption(parser):
    parser.addoption("--data-dir", default=os.environ.get("TFDS_DATA_DIR"), help="folder of TensorFlow Datasets")
    parser.addoption("--first-backend", action="store_true", help="run also the tests that need one backend only")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--first-backend"):
        return
    skip = pytest.mark.skip(reason="does not depend on the backend; runs with --first-backend")
    for item in items:
        if "once" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture
def rng():
    """NumPy generator of a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def data_dir(request):
    """Folder of TensorFlow Datasets; the test is skipped where it holds no data."""
    folder = request.config.getoption("--data-dir")
    if folder is None or not (Path(folder) / "cifar10").is_dir():
        pytest.skip("real data sets are absent; name their folder with --data-dir or TFDS_DATA_DIR")
    return str(Path(folder).resolve())
