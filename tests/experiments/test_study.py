import json

import numpy as np
import pytest

from keras_robust.attacks import FGSM
from keras_robust.experiments import Line, Row, attacked_and_noisy, change, draw_lines, run_study, study_table
from keras_robust.training.recipe import load_recipe
from keras_robust.zoo.registry import find


@pytest.fixture(scope="module")
def recipe():
    zoo_recipe = load_recipe(find("cnn_digits.standard"))
    changes = {"training.epochs": 1, "dataset.images": 200, "model.arguments.depth": 1}
    return change(zoo_recipe, "cnn_digits.one_layer", changes)


def test_change_sets_dotted_keys_and_refuses_unknown_ones(recipe):
    assert recipe.model.arguments["depth"] == 1
    assert recipe.training.epochs == 1
    with pytest.raises(ValueError, match="unknown key"):
        change(recipe, "cnn_digits.other", {"training.epoch": 2})


def test_change_adds_a_table_that_the_recipe_lacks_and_refuses_keys_of_what_is_none(recipe):
    assert recipe.weight_perturbation is None
    changes = {"weight_perturbation.gamma": 0.01}
    with pytest.raises(ValueError, match=r"`weight_perturbation\.type` is missing"):
        change(recipe, "cnn_digits.awp", changes)
    changes["weight_perturbation.type"] = "awp"
    assert change(recipe, "cnn_digits.awp", changes).weight_perturbation.gamma == 0.01
    for key in ("seed.of", "perturbations.epsilon"):
        with pytest.raises(ValueError, match="lead through tables"):
            change(recipe, "cnn_digits.other", {key: 0.01})


def test_study_trains_each_row_and_puts_the_papers_number_beside(recipe, tmp_path):
    rows = [Row("one", recipe, paper={"clean": 0.5}), Row("two", change(recipe, "a.b", {"seed": 7}))]
    measure = attacked_and_noisy(attacks=[FGSM(norm="Linf", epsilon=0.1)], images=50)
    lines = []
    results = run_study(
        rows, measure, title="Table 0", setting={"images": 50}, output=tmp_path, trials=2, show=lines.append
    )
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert len(lines) == 4
    clean = results["rows"][0]["values"]["clean"]
    assert clean["mean"] == pytest.approx(np.mean(clean["trials"]))
    assert results["rows"][1]["seeds"] == [7, 8]
    weights = [(tmp_path / f"one/trial{k}/model.weights.h5").read_bytes() for k in range(2)]
    assert weights[0] != weights[1]
    table = study_table(results)
    assert any("(50.0)" in str(cell) for column in table.columns for cell in column.cells)

    def refuse(*_):
        raise AssertionError("a finished row was measured again")

    again = run_study(
        rows, refuse, title="Table 0", setting={"images": 50}, output=tmp_path, trials=2, show=lines.append
    )
    assert again == results
    with pytest.raises(ValueError, match="another setting"):
        run_study(rows, measure, title="Table 0", setting={"images": 60}, output=tmp_path)


@pytest.mark.once
def test_study_refuses_names_that_are_no_folder_or_come_twice(recipe, tmp_path):
    with pytest.raises(ValueError, match="letters, digits"):
        Row("../up", recipe)
    with pytest.raises(ValueError, match="names of their own"):
        run_study([Row("a", recipe)] * 2, lambda *_: {}, title="", setting={}, output=tmp_path)


@pytest.mark.once
def test_draw_lines_writes_a_panel_for_each_title(tmp_path):
    pytest.importorskip("matplotlib")
    lines = [Line("kap", [1, 2, 3], [0.1, 0.2, 0.3], [0.01, 0.02, 0.03])]
    draw_lines({"a": lines, "b": lines}, tmp_path / "figure.png", x_label=["depth", "sigma"], title="title")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.once
@pytest.mark.parametrize(("x", "whole"), [(range(1, 5), True), ([0.0, 0.5, 1.0, 1.5], False)])
def test_an_axis_of_whole_numbers_has_ticks_at_them_alone(x, whole, tmp_path, monkeypatch):
    figures = pytest.importorskip("matplotlib.figure")
    ticks = []
    monkeypatch.setattr(
        figures.Figure, "savefig", lambda figure, *_, **__: ticks.extend(figure.axes[0].get_xticks())
    )
    draw_lines({"a": [Line("kap", x, [0.1, 0.2, 0.3, 0.4])]}, tmp_path / "figure.png", x_label="layer")
    assert all(float(tick).is_integer() for tick in ticks) == whole
