import json

import numpy as np
import pytest

from keras_robust.attacks import FGSM
from keras_robust.attacks.transfer import transfer
from keras_robust.evaluation import DataFingerprint
from keras_robust.evaluation.transfer import save_transfer_figure, save_transfer_table, transfer_table
from tests.attacks.contract import contract_data, contract_model

ATTACK = FGSM("Linf", 0.04)


@pytest.fixture(scope="module")
def models():
    first, second = contract_model(), contract_model()
    noise = np.random.default_rng(0)
    for variable in second.trainable_variables:
        variable.assign(variable + noise.normal(0, 0.05, variable.shape).astype("float32"))
    return {"first": first, "second": second}


def test_the_table_holds_every_pair(models):
    x, y = contract_data(models["first"])
    table = transfer_table(models, ATTACK, x, y, data=DataFingerprint.of(x, y))
    for source, row in table["accuracy"].items():
        for target, value in row.items():
            pair = transfer(models[source], models[target], ATTACK, x, y)
            assert value == pair.target_adversarial
            assert table["clean"][target] == pair.target_clean
    assert table["attack"]["epsilon"] == 0.04
    assert table["images"] == len(y)


def test_images_crafted_before_a_kill_are_not_crafted_again(models, tmp_path, monkeypatch):
    x, y = contract_data(models["first"])
    rest = {"data": DataFingerprint.of(x, y), "state": tmp_path / "state"}
    whole = transfer_table(models, ATTACK, x, y, **rest)
    monkeypatch.setattr(FGSM, "__call__", None)  # a second run has nothing left to craft
    assert transfer_table(models, ATTACK, x, y, **rest) == whole


def test_the_fingerprint_is_held_against_the_images(models, tmp_path):
    x, y = contract_data(models["first"])
    with pytest.raises(ValueError, match=rf"Expected: data\.count={len(x)}\. Received: data\.count=2\."):
        transfer_table(models, ATTACK, x, y, data=DataFingerprint.of(x[:2], y[:2]))
    data = DataFingerprint.of(x, y)
    transfer_table(models, ATTACK, x, y, data=data, state=tmp_path)
    other = transfer_table(models, ATTACK, x[::-1], y[::-1], data=data, state=tmp_path)
    assert other["accuracy"] == transfer_table(models, ATTACK, x[::-1], y[::-1], data=data)["accuracy"]


def test_the_seed_may_be_numpys(models, tmp_path):
    x, y = contract_data(models["first"])
    options = {"data": DataFingerprint.of(x, y), "state": tmp_path / "state"}
    table = transfer_table(models, ATTACK, x, y, seed=np.int64(3), **options)
    assert table == transfer_table(models, ATTACK, x, y, seed=3, **options)
    save_transfer_table(table, tmp_path / "transfer.json")
    assert json.loads((tmp_path / "transfer.json").read_text())["seed"] == 3


def test_table_and_figure_are_written(models, tmp_path):
    pytest.importorskip("matplotlib")
    x, y = contract_data(models["first"])
    table = transfer_table(models, ATTACK, x, y, data=DataFingerprint.of(x, y))
    save_transfer_table(table, tmp_path / "transfer.json")
    save_transfer_figure(table, tmp_path / "transfer.png")
    assert json.loads((tmp_path / "transfer.json").read_text()) == table
    assert (tmp_path / "transfer.png").read_bytes().startswith(b"\x89PNG")
