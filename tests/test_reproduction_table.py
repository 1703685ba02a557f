"""Numbers measured again are set beside the stored ones, and the committed table is that of its file."""

import json
import runpy
import shutil
from pathlib import Path

import pytest

from keras_robust.evaluation.metrics import Metrics
from keras_robust.zoo.entry import Entry
from keras_robust.zoo.registry import list_entries

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "scripts" / "results"
NAME = "cnn_digits.standard"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "scripts" / "reproduction.py"))


@pytest.fixture
def again(tmp_path):
    """A folder of numbers as stored, but for two: one by one image of 360, one by five."""
    metrics = Entry.load(ROOT / "zoo" / NAME).metrics
    for index, fewer in ((0, 1), (1, 5)):
        correct = metrics[index].correct - fewer
        metrics[index] = metrics[index].model_copy(update={"correct": correct, "value": correct / 360})
    folder = tmp_path / "reports" / NAME
    folder.mkdir(parents=True)
    Metrics(metrics=metrics).save(folder / "metrics.json")
    return folder


def test_equal_near_and_other_numbers_are_told_apart(script, again):
    found = script["reproduction"](again, ROOT / "zoo")
    assert found["numbers"] - found["equal"] == 2
    assert found["numbers"] - found["within_half_a_point"] == 1
    (apart,) = found["apart"]
    assert round(360 * (apart["stored"] - apart["again"])) == 5
    (attack,) = found["autoattack"]
    assert attack["stored"] == attack["again"]
    table = script["table"]({NAME: found})
    assert f"- {NAME}, {apart['name']}: " in table
    assert f"{100 * attack['again']:.1f} % of 360 |" in table


def test_the_table_says_whether_the_entry_still_stores_the_numbers(script, again):
    found = script["reproduction"](again, ROOT / "zoo")
    assert script["table"]({NAME: found}).count("| current |") == 1
    stored, other = found["stored_with"], ["jax 0.0.0 on cpu, code 00000000"]
    for changes, status in (
        ({"stored_with": other}, "superseded by again"),
        ({"stored_with": other, "again_with": other}, "superseded"),
        ({"autoattack": [found["autoattack"][0] | {"images": 64}], "again_with": other}, "superseded"),
        ({"again_with": other}, "current"),
    ):
        assert f"| {status} |" in script["table"]({NAME: found | changes}), stored


def test_entries_that_were_not_measured_again_are_listed(script, again):
    *_, last = script["table"]({NAME: script["reproduction"](again, ROOT / "zoo")}).splitlines()
    listed = last.removeprefix("Not measured again: ").removesuffix(".").split(", ")
    assert sorted([*listed, NAME]) == [entry.name for entry in list_entries()]


def test_numbers_of_other_weights_are_refused(script, again, tmp_path):
    shutil.copytree(ROOT / "zoo" / NAME, tmp_path / "zoo" / NAME)
    path = tmp_path / "zoo" / NAME / "entry.json"
    content = json.loads(path.read_text())
    content["weights"]["sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="--stored"):
        script["reproduction"](again, tmp_path / "zoo")


def test_numbers_of_other_measurements_are_refused(script, again):
    metrics = Metrics.load(again / "metrics.json").metrics
    Metrics(metrics=[each.model_copy(update={"seed": 1}) for each in metrics]).save(again / "metrics.json")
    with pytest.raises(ValueError, match="none"):
        script["reproduction"](again, ROOT / "zoo")


def test_a_folder_without_numbers_is_refused(script, tmp_path):
    with pytest.raises(ValueError, match="keras-robust evaluate"):
        script["reproduction"](tmp_path / NAME, ROOT / "zoo")


def test_the_committed_table_is_that_of_its_file(script):
    found = json.loads((RESULTS / "reproduction.json").read_text(encoding="utf-8"))
    assert (RESULTS / "reproduction.md").read_text(encoding="utf-8") == script["table"](found)


def test_readme_says_what_the_file_says_of_other_backends(script):
    found = json.loads((RESULTS / "reproduction.json").read_text(encoding="utf-8")).values()
    numbers, equal, near = (
        f"{sum(each[key] for each in found):,}" for key in ("numbers", "equal", "within_half_a_point")
    )
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert (
        f"of {numbers} stored numbers that were measured again on another backend or device, {equal} came" in text
    )
    assert f"out equal and {near} within half a point" in text
