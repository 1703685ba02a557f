"""The list of what the zoo lacks is whole, and its table is that of the measured costs."""

import json
import runpy
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "scripts" / "results"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "scripts" / "epoch_costs.py"))


@pytest.fixture(scope="module")
def costs():
    return json.loads((RESULTS / "epoch_costs.json").read_text(encoding="utf-8"))


def test_every_network_without_weights_is_listed_with_the_command_that_trains_it(script, costs):
    commands = {name: (command, recipe.training.epochs) for name, command, recipe in script["networks"]()}
    assert {name: (cost["command"], cost["epochs"]) for name, cost in costs.items()} == commands
    lacking = {recipe.parent.name for recipe in (ROOT / "zoo").glob("*/recipe.toml")}
    lacking -= {entry.parent.name for entry in (ROOT / "zoo").glob("*/entry.json")}
    lacking -= {weights.parent.name for weights in (ROOT / "zoo").glob("*/model.weights.h5")}
    assert lacking <= set(costs)


def test_the_committed_table_is_that_of_the_measured_costs(script, costs):
    assert (RESULTS / "epoch_costs.md").read_text(encoding="utf-8") == script["table"](costs)
