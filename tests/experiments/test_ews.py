"""The weak subnets paper's experiments, on a network of one channel and the digits."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from keras_robust import datasets, models
from keras_robust.corruptions import CORRUPTIONS, PERTURBATIONS, corrupt
from keras_robust.evaluation.metrics import Environment
from keras_robust.experiments import corrupted
from keras_robust.experiments.ews import (
    AUGMENTATIONS,
    METHODS,
    SETTINGS,
    adversarial_network,
    block_measure,
    network,
    read_accuracies,
    read_blocks,
    subnet_measure,
)
from keras_robust.experiments.ews_claims import compare
from keras_robust.experiments.ews_paper import NOTES, TABLE_2, TABLE_3, flip_rates

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts/ews"
STUDIES = ("table_5", "figure_1", "figure_5", "figure_6", "figure_7")
SMALL = dataclasses.replace(SETTINGS["small"], images=20, train_images=100, subnets=3, block_subnets=2, epochs=2)
PLANES = {"model.arguments.planes": [4, 4, 4]}


def script(name):
    spec = importlib.util.spec_from_file_location(f"ews_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def all_rows(setting, output):
    table_1, table_4 = script("table_1"), script("table_4")
    made = [table_1.rows(setting, output, dataset, AUGMENTATIONS) for dataset in ("cifar10", "cifar100")]
    extra = {"file": "extra.npz", "sha256": "0" * 64}
    made += [
        table_4.rows(setting, output, network, ["at", "trades", "trades_500k"], extra)
        for network in table_4.NETWORKS
    ]
    return [*made, *(script(name).rows(setting, output) for name in STUDIES)]


@pytest.fixture(scope="module")
def recipe():
    return network(SMALL, "vanilla", dataset="digits", changes=PLANES)


@pytest.fixture(scope="module")
def model(recipe):
    return models.build(recipe.model.builder, 10, (8, 8, 1), seed=0, **recipe.model.arguments)


def test_corruption_error_is_the_mean_over_sets_made_once(model, recipe, tmp_path):
    measure = corrupted(images=20, severities=(1, 5), cache=tmp_path / "cache")
    found = measure(model, recipe, tmp_path)
    x, y = datasets.load("digits").test.take(20)
    each = [np.mean(model.predict(corrupt(x, "fog", s), verbose=0).argmax(-1) != y) for s in (1, 5)]
    assert found["fog"] == pytest.approx(np.mean(each))
    assert found["corruption error"] == pytest.approx(np.mean([found[name] for name in CORRUPTIONS]))
    facts = json.loads((tmp_path / "corruptions.json").read_text())
    assert facts["errors"]["fog"] == pytest.approx(each)
    assert (facts["clean"]["count"], facts["corrupted"]["count"]) == (360, 20)
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 2 * len(CORRUPTIONS)
    times = [file.stat().st_mtime_ns for file in files]
    assert measure(model, recipe, tmp_path) == found
    assert [file.stat().st_mtime_ns for file in files] == times


@pytest.mark.once
def test_published_corruptions_are_read_where_their_folder_is_given(model, recipe, tmp_path):
    x, y = datasets.load("digits").test.take(4)
    levels = np.rint(255 * x).astype("uint8")
    for name in CORRUPTIONS:
        np.save(tmp_path / f"{name}.npy", np.tile(levels, (5, 1, 1, 1)))
    np.save(tmp_path / "labels.npy", np.tile(y, 5))
    found = corrupted(images=3, official=tmp_path)(model, recipe, tmp_path)
    expected = np.mean(model.predict(levels[:3] / np.float32(255), verbose=0).argmax(-1) != y[:3])
    assert found["corruption error"] == pytest.approx(expected)


def test_subnets_and_blocks_are_kept_for_the_figures(model, recipe, tmp_path):
    folder = tmp_path / "vanilla" / "trial0"
    folder.mkdir(parents=True)
    found = subnet_measure(SMALL)(model, recipe, folder)
    kept = read_accuracies(tmp_path, "vanilla")
    assert set(kept) == {"clean", "noisy", "adversarial"}
    assert kept["clean"].shape == (3,)
    assert found["noisy, mean of subnets"] == pytest.approx(kept["noisy"].mean())
    assert found["clean, subnets below 20%"] == pytest.approx(np.mean(kept["clean"] < 0.2))
    found = block_measure(SMALL)(model, recipe, folder)
    blocks = read_blocks(tmp_path, "vanilla")
    assert [each.downsamples for each in blocks] == [False, True, True]
    assert {each.block: each.error for each in blocks} == {k: v for k, v in found.items() if k != "whole network"}


@pytest.mark.once
def test_methods_differ_by_their_part_alone_and_epochs_move_the_thirds():
    made = {method: network(SETTINGS["paper"], method) for method in METHODS}
    assert len({each.digest() for each in made.values()}) == len(METHODS)
    assert made["dropout"].model.arguments == {"dropout": 0.1}
    assert made["ews"].weak_subnets.interval == 10
    assert made["ews"].schedule.milestones == [133, 266]
    changed = network(SETTINGS["small"], "ews", changes={"weak_subnets.interval": 1})
    assert (changed.weak_subnets.interval, changed.schedule.milestones) == (1, [3, 7])
    assert network(SETTINGS["small"], "ews").weak_subnets.interval == 10


@pytest.mark.once
def test_trades_counts_the_divergence_beta_times_on_adversarial_images():
    made = adversarial_network(SETTINGS["paper"], "trades", "ews", awp=True)
    assert (made.weak_subnets.clean_weight, made.weak_subnets.distillation_weight) == (1.0, 6.0)
    assert (made.weight_perturbation.gamma, made.weight_perturbation.warmup_epochs) == (0.005, 10)
    assert made.schedule.milestones == [100, 150]
    assert adversarial_network(SETTINGS["paper"], "at", "ews").weak_subnets.distillation_weight == 1.0


@pytest.mark.once
def test_both_readings_of_a_row_in_another_order_are_shown():
    assert set(NOTES) == {1, 2, 3, 4, 5}
    for key in TABLE_3:
        assert flip_rates(key, PERTURBATIONS)["as printed"]["mFR"] == pytest.approx(TABLE_3[key][0] / 100)
    readings = flip_rates(("standard", "dropout"), PERTURBATIONS)
    assert readings["as printed"]["gaussian_noise"] == pytest.approx(0.62)
    assert readings["columns in alphabetical order"]["gaussian_noise"] == pytest.approx(0.59)
    # The printed columns average to the printed mCE, but in the row that the note names.
    far = {key for key, (mean, *columns) in TABLE_2.items() if abs(np.mean(columns) - mean) > 0.6}
    assert far == {("deepaugment", "ews")}


@pytest.mark.once
@pytest.mark.parametrize("size", SETTINGS)
def test_every_row_of_every_script_is_a_valid_recipe_and_equal_ones_are_trained_once(size, tmp_path):
    studies = all_rows(SETTINGS[size], tmp_path)
    for rows in studies:
        names = [row.name for row in rows]
        assert len(set(names)) == len(names) > 2
    *_, table_5, figure_1, figure_5, figure_6, figure_7 = (
        {row.recipe.digest() for row in rows} for rows in studies
    )
    assert figure_1 == table_5 == figure_7
    assert len(table_5 & figure_5) == len(table_5 & figure_6) == 2  # vanilla, and lambda 1, rho 0.7, K 10
    crowd = [row for rows in studies for row in rows if row.recipe.extra_data is not None]
    assert {row.recipe.weight_perturbation.type for row in crowd} == {"awp"}


@pytest.mark.once
def test_figures_are_drawn_from_the_results_alone(tmp_path):
    pytest.importorskip("matplotlib")
    environment = Environment.here().model_dump()
    for name in ("figure_5", "figure_6", "table_5"):
        module = script(name)
        rows = [
            {
                "name": row.name,
                "point": row.point,
                "values": {each: {"mean": 0.1 * number, "deviation": None} for each in module.COLUMNS},
                "paper": row.paper,
                "recipe": row.recipe.model_dump(),
                "seeds": [0],
                "environments": [environment],
            }
            for number, row in enumerate(module.rows(SMALL, tmp_path))
        ]
        results = {"title": name, "rows": rows, "setting": SMALL.question()}
        results["training_seconds"] = {row["name"]: 2.0 for row in rows}
        module.draw(results, tmp_path if name == "figure_5" else tmp_path / f"{name}.png")
    assert sorted(file.name for file in tmp_path.glob("*.png")) == [
        "figure_5.png",
        "figure_5_cost.png",
        "figure_6.png",
        "table_5.png",
    ]


@pytest.mark.once
def test_a_claim_is_open_within_the_interval_over_the_images():
    assert compare(0.3, 0.5, 500) == (pytest.approx(0.0594, abs=1e-4), "agrees")
    assert compare(0.5, 0.3, 500)[1] == "contradicts"
    assert compare(0.3, 0.32, 500)[1] == "open"


@pytest.mark.once
def test_report_is_that_of_the_results_in_the_repository():
    module = script("report")
    if not (module.FOLDER / "README.md").is_file():
        pytest.skip("no results are there")
    assert (module.FOLDER / "README.md").read_text(encoding="utf-8") == module.report(module.FOLDER)
