"""The list of what the zoo has in a shorter training is whole, and its table is that of the measured costs."""

import json
import runpy
from pathlib import Path

import pytest

from keras_robust.zoo.entry import Entry

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "scripts" / "results"
NAME = "preact_resnet18_cifar10.at_ews"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "scripts" / "epoch_costs.py"))


@pytest.fixture(scope="module")
def costs():
    return json.loads((RESULTS / "epoch_costs.json").read_text(encoding="utf-8"))


def test_every_network_in_a_shorter_training_is_listed_with_the_command_of_the_papers(script, costs):
    expected = {name: script["plan"](name, command, recipe) for name, command, recipe in script["networks"]()}
    assert {name: {key: cost[key] for key in expected[name]} for name, cost in costs.items()} == expected
    lacking = {recipe.parent.name for recipe in (ROOT / "zoo").glob("*/recipe.toml")}
    lacking -= {entry.parent.name for entry in (ROOT / "zoo").glob("*/entry.json")}
    lacking -= {weights.parent.name for weights in (ROOT / "zoo").glob("*/model.weights.h5")}
    assert lacking <= set(costs)


def test_the_command_of_a_row_of_table_4_trains_that_network_alone(script, monkeypatch):
    table_4 = runpy.run_path(str(ROOT / "scripts" / "ews" / "table_4.py"))
    found = []
    results = table_4["main"].__globals__
    monkeypatch.setitem(results, "run_study", lambda rows, *_, **__: found.append(rows) or {})
    monkeypatch.setitem(results, "write_results", lambda *_, **__: None)
    commands = {name: command for name, command, _ in script["large_networks"]() if "table_4.py" in command}
    assert len(commands) == 2
    for name, command in commands.items():
        table_4["main"](command.split("table_4.py ")[1].split())
        assert [row.recipe.name for row in found.pop()] == [name]
    with pytest.raises(SystemExit):
        table_4["main"](["--rows", "at_ews", "at_esw"])


def test_a_network_in_the_papers_length_leaves_the_list(script, tmp_path, monkeypatch):
    entry = Entry.load(ROOT / "zoo" / NAME)
    for epochs, listed in ((199, True), (200, False)):
        training = entry.training.model_copy(update={"epochs": epochs})
        entry.model_copy(update={"training": training}).save(tmp_path)
        monkeypatch.setitem(script["networks"].__globals__, "folders", lambda: {NAME: tmp_path})
        names = [name for name, _, _ in script["networks"]()]
        assert (NAME in names) == listed
        assert "resnet18_cifar10.standard" in names  # which this zoo lacks


def test_a_longer_training_of_its_own_name_counts(script, tmp_path, monkeypatch):
    entry = Entry.load(ROOT / "zoo" / NAME)
    entries = {NAME: 5, f"{NAME}_150_epochs": 150, f"{NAME}_too": 200}
    for name, epochs in entries.items():
        training = entry.training.model_copy(update={"epochs": epochs})
        (tmp_path / name).mkdir()
        entry.model_copy(update={"training": training}).save(tmp_path / name)
    zoo = {name: tmp_path / name for name in entries}
    monkeypatch.setitem(script["networks"].__globals__, "folders", lambda: zoo)
    assert script["epochs_in_zoo"](NAME) == 150


def test_the_committed_table_is_that_of_the_measured_costs(script, costs):
    assert (RESULTS / "epoch_costs.md").read_text(encoding="utf-8") == script["table"](costs)
