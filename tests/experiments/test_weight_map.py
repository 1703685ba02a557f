import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest

from keras_robust import datasets, models, pipeline
from keras_robust.experiments import change, draw_lines, run_study, weight_map
from keras_robust.experiments.curves import compare, curve, error_lines, readings
from keras_robust.experiments.study import Row
from keras_robust.experiments.weight_map_claims import CLAIMS, verdicts
from keras_robust.training.recipe import load_recipe
from keras_robust.zoo.registry import find

SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3), "iwildcam2019": (23, 32, 1)}
VARIANTS = ("conv", "smoothing", "unsharp", "alternating_smoothing", "alternating_unsharp")
COUNTS = {
    "cnn_wide": 1_187_030,
    "cnn": 261_070,
    "cnn_batchnorm": 261_218,
    "cnn_kernel9": 360_862,
    "cnn_input_scale": 261_854,
    "smoothing": 1_157_226,
    "smoothing_batchnorm": 1_157_370,
    "smoothing_kernel9": 1_157_226,
    "unsharp": 1_487_178,
}


@pytest.mark.once
def test_rows_of_table_4_are_the_papers_networks():
    rows = {row.name: row for row in weight_map.table(4, "paper")}
    assert list(rows) == list(COUNTS)
    for name, count in COUNTS.items():
        arguments = rows[name].recipe.model.arguments
        model = models.build("wm_cnn", 10, SHAPES["mnist"], **arguments)
        assert sum(math.prod(variable.shape) for variable in model.trainable_variables) == count


@pytest.mark.once
@pytest.mark.parametrize(("number", "count"), [(4, 9), (5, 10), (6, 6), (7, 6)])
def test_rows_of_every_table_are_valid_recipes_in_both_settings(number, count):
    dataset = weight_map.TABLES[number]
    for setting, epochs in (("small", 4), ("paper", 300)):
        rows = weight_map.table(number, setting)
        assert len(rows) == count
        for row in rows:
            assert row.recipe.dataset.name == dataset
            assert row.recipe.training.epochs == epochs
            assert 0.004 < row.paper["error clean"] < 0.4
        everything = setting == "paper" or dataset == "iwildcam2019"
        assert {row.recipe.dataset.images for row in rows} == {None if everything else 10_000}
    assert {row.recipe.training.epochs for row in weight_map.table(number, "small", epochs=2)} == {2}
    assert {row.recipe.augmentation.random_crop for row in rows} == {2 if dataset == "mnist" else 0}


@pytest.mark.once
@pytest.mark.parametrize("number", [4, 5, 6, 7])
@pytest.mark.parametrize("setting", ["small", "paper"])
def test_only_the_zoo_rounds_kernels(number, setting):
    assert {row.recipe.training.weights for row in weight_map.table(number, setting)} == {"float32"}


@pytest.mark.once
def test_setting_of_the_zoo_has_the_recipes_of_the_zoo(tmp_path):
    for number, entries in {
        4: ("cnn_mnist.standard", "wm_cnn_mnist.smoothing", "wm_cnn_mnist.unsharp"),
        5: [f"wm_{net}_mnist.{variant}" for net in ("resnet", "densenet") for variant in VARIANTS],
    }.items():
        recipes = [load_recipe(find(entry, "recipe.toml")) for entry in entries]
        rows = weight_map.table(number, "zoo", entries=tmp_path)
        assert [row.recipe.digest() for row in rows] == [recipe.digest() for recipe in recipes]
        assert [row.folder for row in rows] == [None] * len(entries)
    names = [f"{net}_{VARIANTS[index]}" for net in ("resnet", "densenet") for index in (0, 3, 4)]
    assert [row.name for row in weight_map.table(6, "zoo")] == names
    with pytest.raises(ValueError, match="`setting` must be one of"):
        weight_map.table(4, "large")


@pytest.mark.once
def test_every_claim_is_about_rows_that_exist():
    for table in weight_map.TABLES:
        names = {row.name for row in weight_map.table(table, "paper")}
        for claim in CLAIMS:
            assert claim.table != table or {claim.first, claim.second} <= names


def row(name, errors):
    values = {
        key: {"mean": value, "deviation": None, "trials": [value]}
        for key, value in zip(
            ("error clean", "error uniform noise 0.2", "error uniform noise 1"), errors, strict=True
        )
    }
    return {"name": name, "values": values, "paper": {}}


@pytest.mark.once
@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        ((0.5, 0.1, 0.2), "no difference"),
        ((0.0, 0.1, 0.1), "more robust"),
        ((0.0, 0.2, 0.2), "less robust"),
        ((0.0, 0.2, 0.1), "mixed"),
        ((0.0, 0.11, 0.19), "no difference"),
    ],
)
def test_a_row_is_more_robust_where_intervals_do_not_overlap(errors, verdict):
    results = {"rows": [row("cnn", (0.01, 0.1, 0.2)), row("unsharp", errors)], "setting": {"images": 1000}}
    found = compare(results, "unsharp", "cnn", "noise", images=1000)
    assert found["verdict"] == verdict
    assert found["mean_difference"] == pytest.approx((errors[1] + errors[2] - 0.3) / 2)
    judged = next(each for each in verdicts(results, 4) if each["kind"] == "noise")
    assert (judged["verdict"], judged["paper"]) == (verdict, "more robust")


def test_digits_go_from_recipes_to_curves(tmp_path):
    recipe = load_recipe(find("wm_cnn_digits.smoothing"))
    changes = {"training.epochs": 1, "dataset.images": 128, "model.arguments.filters": [2, 2, 2]}
    rows = [Row("smoothing", change(recipe, "wm_cnn_digits.tiny", changes))]
    measure = weight_map.errors("digits", images=60, rescale=["divide", "clip"])
    results = run_study(rows, measure, title="Table 4", setting={"images": 60}, output=tmp_path)
    assert readings(results) == ["divide", "clip"]
    levels = curve(results["rows"][0], "noise", reading="clip")
    assert tuple(levels) == (0.0, *weight_map.WIDTHS)
    assert tuple(curve(results["rows"][0], "attack")) == (0.0, *weight_map.EPSILONS["digits"])
    assert set(weight_map.columns("digits")) <= set(results["rows"][0]["values"])
    (line,) = error_lines(results, "noise", reading="clip")
    assert line.y == [100 * number["mean"] for number in levels.values()]
    pytest.importorskip("matplotlib")
    draw_lines({"noise": [line]}, tmp_path / "curves.png", x_label="width")

    log = tmp_path / "smoothing/trial0/training_log.json"
    log.write_text(json.dumps(json.loads(log.read_text()) | {"recipe_digest": "0" * 64}))
    taken = [Row("smoothing", rows[0].recipe, folder=log.parent)]
    with pytest.raises(ValueError, match="must come from this row's recipe"):
        run_study(taken, measure, title="Table 4", setting={}, output=tmp_path / "other")


def from_zoo(arguments):
    path = Path(__file__).resolve().parents[2] / "scripts/weight_map/from_zoo.py"
    spec = importlib.util.spec_from_file_location("from_zoo", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main([str(argument) for argument in arguments])


@pytest.mark.once
def test_weights_of_the_zoo_go_to_table_figure_and_verdicts_by_one_command(tmp_path, monkeypatch, rng):
    pytest.importorskip("matplotlib")
    images = datasets.Split(
        rng.integers(0, 256, (12, 28, 28, 1), dtype="uint8"), np.arange(12, dtype="int32") % 10, 255, "official"
    )
    made = datasets.Dataset("mnist", images, None, images, 10)
    monkeypatch.setattr(datasets, "load", lambda *args, **kwargs: made)
    for name in ("cnn_mnist.standard", "wm_cnn_mnist.unsharp"):
        recipe = load_recipe(find(name, "recipe.toml"))
        (tmp_path / name).mkdir()
        pipeline.build_model(recipe).save_weights(tmp_path / name / "model.weights.h5")
        (tmp_path / name / "recipe.toml").write_text((find(name, "recipe.toml") / "recipe.toml").read_text())
    options = ["4", "--entries", tmp_path, "--output", tmp_path / "results", "--work", tmp_path / "work"]
    with pytest.raises(SystemExit):
        from_zoo(options)  # the row `smoothing` has no weights
    from_zoo([*options, "--rows", "cnn", "unsharp", "--images", "12", "--rescale", "divide", "clip"])
    results = json.loads((tmp_path / "results/table_4_zoo.json").read_text())
    assert [row["name"] for row in results["rows"]] == ["cnn", "unsharp"]
    assert results["rows"][1]["paper"] == {"error clean": 0.0073}
    assert len(results["rows"][0]["values"]) == 1 + 2 * len(weight_map.WIDTHS) + len(weight_map.EPSILONS["mnist"])
    assert (tmp_path / "results/table_4_zoo.png").stat().st_size > 10_000
    claims = json.loads((tmp_path / "results/table_4_zoo_claims.json").read_text())
    judged = [(each["first"], each["kind"], each.get("reading"), each["paper"]) for each in claims["verdicts"]]
    assert judged == [
        ("unsharp", "noise", "divide", "more robust"),
        ("unsharp", "noise", "clip", "more robust"),
        ("unsharp", "attack", None, "more robust"),
    ]
    assert all(each["agrees"] == (each["verdict"] == "more robust") for each in claims["verdicts"])
    assert {name: len(layers) for name, layers in claims["variance"].items()} == {
        "cnn_mnist.standard": 3,
        "wm_cnn_mnist.unsharp": 3,
    }
