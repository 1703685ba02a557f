"""Entries keep their numbers when their weights are compressed, and lose them when kernels are rounded."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from keras_robust.training.recipe import load_recipe
from keras_robust.zoo.card import card_is_current, write_card
from keras_robust.zoo.entry import Entry, Weights, sha256

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[1]
NAME = "kap_cnn_digits.noise_sigma0.1"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "scripts" / "compress_weights.py"))


@pytest.fixture
def folder(tmp_path):
    """An entry whose weights are as Keras writes them, not compressed."""
    folder = Path(shutil.copytree(ROOT / "zoo" / NAME, tmp_path / NAME))
    path = folder / "model.weights.h5"
    values = arrays(path)
    with h5py.File(path, "r+") as file:
        for name, value in values.items():
            attributes = dict(file[name].attrs)
            del file[name]
            file.create_dataset(name, data=value).attrs.update(attributes)
    Entry.load(folder).model_copy(update={"weights": Weights.of(path)}).save(folder)
    write_card(folder)
    return folder


def arrays(path):
    found = {}

    def read(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(read)
    return found


def test_compressed_entry_has_the_same_values_and_numbers(script, folder):
    before, values = Entry.load(folder), arrays(folder / "model.weights.h5")
    script["compress"](folder)
    after = Entry.load(folder)
    assert after.weights.bytes == (folder / "model.weights.h5").stat().st_size < before.weights.bytes
    assert after.weights.sha256 == sha256(folder / "model.weights.h5")
    assert after.model_copy(update={"weights": before.weights}) == before
    assert card_is_current(folder)
    for name, value in arrays(folder / "model.weights.h5").items():
        np.testing.assert_array_equal(value, values.pop(name), strict=True)
    assert not values


def test_compressing_twice_changes_nothing(script, folder):
    script["compress"](folder)
    once = {path.name: path.read_bytes() for path in folder.iterdir()}
    script["compress"](folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == once


def test_recipe_and_log_say_that_kernels_are_rounded(script, folder):
    before = Entry.load(folder)
    script["round_kernels"](folder, "bfloat16")
    recipe, log = load_recipe(folder), json.loads((folder / "training_log.json").read_text())
    assert recipe.training.weights == "bfloat16"
    assert log["recipe_digest"] == recipe.digest() != before.training.recipe_digest
    assert log["kernels_rounded"] == {"to": "bfloat16", "from_sha256": before.weights.sha256}
    for name, value in arrays(folder / "model.weights.h5").items():
        if value.ndim > 1:
            assert not (value.view("uint32") & 0xFFFF).any(), name
    with pytest.raises(ValueError, match="measure the entry anew"):
        script["round_kernels"](folder, "bfloat16")


def test_a_recipe_that_cannot_say_so_is_an_error_and_nothing_changes(script, folder):
    path = folder / "recipe.toml"
    path.write_text(path.read_text().replace("[training]\n", "[training]  # see the paper\n"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="line `\\[training\\]` of its own"):
        script["round_kernels"](folder, "bfloat16")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_without_an_entry_is_a_message_and_no_traceback(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compress_weights.py", str(tmp_path / "absent")])
    with pytest.raises(SystemExit):
        script["main"]()
    assert str(tmp_path / "absent") in capsys.readouterr().err


def test_weights_of_another_training_are_left_alone(script, folder):
    path = folder / "model.weights.h5"
    path.write_bytes(path.read_bytes() + b"0")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for call in (lambda: script["compress"](folder), lambda: script["round_kernels"](folder, "float16")):
        with pytest.raises(ValueError, match="SHA-256 of its entry"):
            call()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_published_weights_are_left_alone(script, folder):
    entry = Entry.load(folder)
    published = entry.weights.model_copy(update={"repository": "someone/net", "revision": "0" * 40})
    entry.model_copy(update={"weights": published}).save(folder)
    with pytest.raises(ValueError, match="must stay as they are"):
        script["compress"](folder)
