import json
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_robust import zoo
from keras_robust.training.recipe import load_recipe
from keras_robust.zoo import registry
from keras_robust.zoo.entry import Entry, sha256

NAME = "kap_cnn_digits.test"
SAME_LOGITS = 1e-5  # float32 rounding of the same operations


def edit(folder, change):
    path = folder / "entry.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_loaded_model_gives_the_logits_of_the_trained_one(trained_entry, own_zoo):
    _, logits, x = trained_entry
    for source in (NAME, own_zoo, str(own_zoo)):
        model = zoo.load(source)
        received = keras.ops.convert_to_numpy(model(x, training=False))
        np.testing.assert_allclose(received, logits, atol=SAME_LOGITS * np.abs(logits).max())


def test_an_entry_computes_in_float32_whatever_keras_is_set_to(folder):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = zoo.load(folder)
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy(before)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


def test_other_bytes_of_the_same_length_are_refused_before_use(folder, monkeypatch):
    path = folder / "model.weights.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    expected = sha256(path)
    path.write_bytes(content)
    monkeypatch.setattr(keras.Model, "load_weights", lambda *_: pytest.fail("unverified weights were read"))
    with pytest.raises(ValueError, match=f"{sha256(path)}, expected {expected}"):
        zoo.load(folder)


def test_a_truncated_probe_is_refused(folder):
    path = folder / "probe.npz"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"SHA-256 of probe\.npz"):
        zoo.load(folder)


def test_the_probe_notices_another_architecture_with_weights_of_the_same_shapes(folder):
    edit(folder, lambda content: content["model"]["arguments"].update(pooling="kmp"))
    with pytest.raises(ValueError, match="is not the one that was trained"):
        zoo.load(folder)
    assert zoo.load(folder, verify=False) is not None


def test_weights_that_do_not_fit_are_a_clear_error(folder):
    edit(folder, lambda content: content["model"]["arguments"].update(depth=3))
    with pytest.raises(ValueError, match="does not fit the model"):
        zoo.load(folder)


def test_absent_weights_say_how_to_get_them(folder):
    (folder / "model.weights.h5").unlink()
    with pytest.raises(ValueError, match="keras-robust train"):
        zoo.load(folder)


def test_a_pickle_in_the_probe_is_never_opened(folder):
    path = folder / "probe.npz"
    np.savez(path, inputs=np.array([{"a": 1}], dtype=object), logits=np.zeros(1))

    def change(content):
        content["probe"] |= {"sha256": sha256(path), "bytes": path.stat().st_size}

    edit(folder, change)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        zoo.load(folder)


@pytest.mark.once
def test_an_unknown_name_suggests_close_ones(own_zoo):
    with pytest.raises(ValueError, match=r"Did you mean 'kap_cnn_digits\.test'"):
        zoo.load("kap_cnn_digits.tset")


@pytest.mark.once
@pytest.mark.parametrize("name", ["..", "a.b..c", "Kap.x", "kap", ".hidden.x", "a.b%2f", "a b.c", ""])
def test_a_name_that_could_leave_the_zoo_is_refused(own_zoo, name):
    with pytest.raises(ValueError, match=r"architecture_dataset\.tag"):
        zoo.load(name)


@pytest.mark.once
def test_a_file_name_in_an_entry_cannot_leave_its_folder(folder):
    edit(folder, lambda content: content["weights"].update(file="../model.weights.h5"))
    with pytest.raises(ValueError, match=r"weights\.file"):
        zoo.load(folder)


@pytest.mark.once
def test_an_absent_folder_and_a_folder_without_entry_are_named(tmp_path):
    with pytest.raises(ValueError, match="absent"):
        zoo.load(tmp_path / "none")
    with pytest.raises(ValueError, match=r"entry\.json"):
        zoo.load(tmp_path)


@pytest.mark.once
def test_an_entry_with_a_recipe_only_says_to_train_it(own_zoo):
    (own_zoo / "entry.json").unlink()
    with pytest.raises(ValueError, match="keras-robust train"):
        zoo.load(NAME)


@pytest.mark.once
def test_list_entries_filters(own_zoo):
    def names(**filters):
        return [entry.name for entry in zoo.list_entries(**filters)]

    backend = Entry.load(own_zoo).metrics[0].environment.backend
    assert names() == [NAME]
    assert names(dataset="digits", threat="linf", backend=backend) == [NAME]
    assert names(threat="gaussian_noise") == [NAME]
    other = "jax" if backend == "torch" else "torch"
    assert names(dataset="mnist") == names(threat="L2") == names(backend=other) == []
    for unknown in ({"backend": "tf"}, {"threat": "l3"}):
        with pytest.raises(ValueError, match="must be one of"):
            names(**unknown)


@pytest.mark.once
def test_a_folder_of_another_name_than_its_entry_is_named(own_zoo):
    other = own_zoo.rename(own_zoo.parent / "my_digits.copy")
    with pytest.raises(ValueError, match=rf"my_digits\.copy with the entry '{NAME}'\. Rename"):
        zoo.list_entries()
    assert Entry.load(other).name == NAME  # a downloaded folder has the name of its commit


@pytest.mark.once
def test_a_citation_names_the_weights_and_the_papers(own_zoo):
    text = zoo.citation(NAME)
    assert "arxiv.org/abs/2210.00062" in text
    assert Entry.load(own_zoo).weights.sha256 in text


@pytest.mark.once
def test_committed_entries_are_valid_and_their_cards_current():
    from keras_robust.zoo.card import card_is_current

    for name, folder in registry.folders().items():
        entry = Entry.load(folder)
        assert entry.name == name == Path(folder).name
        assert entry.training.kernels == load_recipe(folder).training.weights
        assert card_is_current(folder), f"{folder}: run `keras-robust report --write`"


@pytest.mark.parametrize("name", sorted(registry.folders()))
def test_committed_entries_load_and_match_their_probe(name):
    zoo.load(registry.find(name))
