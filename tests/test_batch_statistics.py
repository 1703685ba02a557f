"""The comparison of statistics measures the entry as it is beside itself with those of clean images."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from keras_robust import datasets, models, zoo

ROOT = Path(__file__).resolve().parents[1]
ENTRY = "kap_cnn_digits.noise_sigma0.1"

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "scripts" / "batch_statistics.py"))


def test_an_entry_and_its_recalibrated_model_are_measured_on_the_same_images(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "found.json"
    arguments = f"{ENTRY} --attack fgsm --images 90 --attack-images 10 --no-corruptions --output {output}"
    monkeypatch.setattr(sys, "argv", ["batch_statistics.py", *arguments.split()])
    script["main"]()
    found = json.loads(output.read_text())
    data = datasets.load("digits")
    model = zoo.load(ENTRY)
    x, y = data.test.take(90)
    for statistics, each in (("training", model), ("clean", models.recalibrate(model, data.train.images()))):
        numbers = {metric["name"]: metric for metric in found[ENTRY][statistics]}
        expected = (each.predict(x, verbose=0).argmax(-1) == y).sum()
        assert numbers["clean"]["correct"] == expected
        assert {name for name in numbers if name.startswith("FGSM")} == {"FGSM L2 0.25", "FGSM L2 0.5"}
        assert numbers["FGSM L2 0.25"]["images"] == 10
    text = output.with_suffix(".md").read_text()
    assert text == script["table"](found)
    assert text.count(f"| {ENTRY} |") == 2


def test_the_committed_table_is_that_of_the_measured_numbers(script):
    results = ROOT / "scripts" / "results" / "batch_statistics.json"
    assert "| PGD L2 0.5, 10 steps (200) |" in results.with_suffix(".md").read_text(encoding="utf-8")
    assert results.with_suffix(".md").read_text(encoding="utf-8") == script["table"](
        json.loads(results.read_text())
    )
