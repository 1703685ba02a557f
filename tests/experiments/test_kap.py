import collections
import dataclasses
import importlib.util
import json
import types
from pathlib import Path

import numpy as np
import pytest

from keras_robust import datasets, models, pipeline
from keras_robust.attacks import FGSM
from keras_robust.experiments import ews, kap, kap_claims, kap_measures
from keras_robust.experiments.command import study_parser
from keras_robust.training.recipe import parse_recipe

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts/kap"
ZOO = Path(__file__).resolve().parents[2] / "zoo"
TINY = dataclasses.replace(
    kap.SETTINGS["small"],
    dataset="digits",
    train_images=100,
    epochs=1,
    images=3,
    epsilons=(0.5,),
    autoattack_epsilons=(0.5,),
    pgd_steps=2,
)


def script(name):
    spec = importlib.util.spec_from_file_location(f"kap_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(module, setting):
    found = module.rows(setting, Path("out"))
    if isinstance(found, dict):
        found = [row for lines in found.values() for row in lines.values()]
    return {row.name: row for row in found}


@pytest.mark.once
@pytest.mark.parametrize("size", kap.SETTINGS)
@pytest.mark.parametrize(
    "name", sorted(file.stem for file in SCRIPTS.glob("*.py") if file.stem not in ("table_a2", "report"))
)
def test_every_script_has_valid_recipes_in_both_settings(name, size):
    module = script(name)
    for row in rows_of(module, kap.SETTINGS[size]).values():
        recipe = row.recipe
        assert recipe.training.epochs >= 5
        assert recipe.dataset.images == kap.SETTINGS[size].train_images
        datasets.info(recipe.dataset.name)
        assert set(recipe.model.arguments) <= set(models.model_options(recipe.model.builder))


@pytest.mark.once
def test_networks_of_the_small_setting_build(rng):
    built = {}
    for name in ("figure_4", "figure_5"):
        for row in rows_of(script(name), kap.SETTINGS["small"]).values():
            built.setdefault(row.recipe.digest(), row)
    assert len(built) == 14  # trainings shared by figures 4, 5, 7 and A1 are counted once
    ensembles = next(row for row in built.values() if row.name == "ensembles3_sigma0.1")
    model = pipeline.build_model(ensembles.recipe)
    assert model.get_layer("conv1").kernel.shape == (3, 3, 3, 64 * 9)
    assert model.get_layer("conv1").output.shape[-1] == 64


@pytest.mark.once
def test_curves_begin_at_the_clean_accuracy_of_the_attacked_images(tmp_path):
    pytest.importorskip("matplotlib")

    def number(value):
        return {"mean": value, "deviation": None, "trials": [value]}

    values = {kap_measures.CLEAN_OF_ATTACKED: number(0.8), "clean": number(0.7)}
    values |= {"AutoAttack L2 0.5": number(0.4), "PGD L2 0.5": number(0.5)}
    environment = dict.fromkeys(("code_commit", "backend", "backend_version", "keras", "numpy", "python"), "x")
    row = {"values": values, "paper": {}, "seeds": [0], "environments": [environment | {"device": "cpu"}]}
    row["recipe"] = pipeline.with_epochs(kap.network(TINY), 2).model_dump()
    module = script("figure_5")
    names = list(dict.fromkeys(name for panel in module.PANELS.values() for name in panel))
    results = {"title": "t", "setting": TINY.question(), "rows": [{"name": name} | row for name in names]}
    (line,) = kap_measures.robustness_lines(results, {"at": "AT"})
    assert line.x == [0.0, 0.5]
    assert line.y == [0.8, 0.4]
    assert line.error[1] == pytest.approx(1.96 * np.sqrt(0.4 * 0.6 / 3))
    module.draw(results, tmp_path / "figure.png")
    assert (tmp_path / "figure_pgd.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.once
@pytest.mark.parametrize("name", ["figure_4", "figure_5", "table_1", "table_3", "scaling"])
def test_script_writes_its_table_and_figure(name, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    environment = dict.fromkeys(("code_commit", "backend", "backend_version", "keras", "numpy", "python"), "x")

    def study(rows, measure, *, title, setting, output, trials=1, data_dir=None):
        values = collections.defaultdict(lambda: {"mean": 0.5, "deviation": None, "trials": [0.5]})
        made = [
            {"name": row.name, "point": dict(row.point), "values": values, "paper": dict(row.paper), "seeds": [0]}
            | {"recipe": row.recipe.model_dump(), "environments": [environment | {"device": "cpu"}]}
            for row in rows
        ]
        return {"title": title, "setting": setting, "trials": trials, "rows": made}

    module = script(name)
    monkeypatch.setattr(module, "run_study", study)
    module.main(["--output", str(tmp_path)])
    assert (tmp_path / f"small/{name}.json").is_file()
    if not name.startswith("table"):
        assert (tmp_path / f"small/{name}.png").is_file()


@pytest.mark.once
def test_claims_are_decided_beyond_the_interval_of_the_images():
    def row(name, value):
        return {"name": name, "values": {"PGD L2 0.25": {"mean": value}}}

    claim = kap_claims.Claim("4a", "deeper is better", "deep", "flat", kap_claims.robust(0.25))
    verdicts = []
    for value in (0.6, 0.52, 0.3):
        results = {"rows": [row("deep", value), row("flat", 0.5)], "setting": {"other_images": 500}}
        (finding,) = kap_claims.findings(claim, results).values()
        verdicts.append(finding.verdict)
    assert verdicts == ["agrees", "open", "contradicts"]
    assert kap_claims.claims_summary([claim], results) == ["- 4a: deeper is better: **contradicts**"]
    assert "| 30.0 | 50.0 | -20.0 ± 5.9 | contradicts |" in kap_claims.claims_table([claim], results)[2]


@pytest.mark.once
def test_report_in_the_repository_is_what_its_numbers_say():
    module = script("report")
    if not (module.FOLDER / "figure_5.json").is_file():
        pytest.skip("the figures have not been made")
    assert (module.FOLDER / "README.md").read_text(encoding="utf-8") == module.report(module.FOLDER)


@pytest.mark.once
def test_claims_name_networks_that_the_figures_have():
    for name, claims in kap_claims.CLAIMS.items():
        rows = rows_of(script(name), kap.SETTINGS["small"])
        assert {row for claim in claims for row in (claim.better, claim.worse)} <= set(rows)


@dataclasses.dataclass(frozen=True)
class OneStep:
    """Stands in for AutoAttack where only its images are asked for: it takes minutes to compile."""

    norm: str
    epsilon: float

    def __call__(self, model, x, y, *, seed=0, batch_size=250):
        return FGSM(self.norm, self.epsilon)(model, x, y, seed=seed, batch_size=batch_size)

    def run(self, model, x, y, *, seed, state_path=None):
        return types.SimpleNamespace(x_adv=self(model, x, y), clean_accuracy=0.5)


@pytest.mark.once
def test_tables_and_figures_of_an_attack_run_from_end_to_end(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    # Of so many images a network after one epoch gets some right, whatever the machine's rounding.
    monkeypatch.setitem(kap.SETTINGS, "small", dataclasses.replace(TINY, images=300))
    monkeypatch.setattr(kap_measures, "AutoAttack", OneStep)
    for name in ("table_2", "table_a3", "figures_a2_a3_a4", "figure_6"):
        module = script(name)
        if name == "figure_6":
            module.COPIES = {"small": (50, 4)}
        module.main(["--output", str(tmp_path)])
    found = {file.name for file in (tmp_path / "small").iterdir()}
    assert {f"{name}.png" for name in ("table_2", "table_a3", "figure_a2", "figure_a3", "figure_a4")} <= found
    rows = json.loads((tmp_path / "small/table_2.json").read_text())["rows"]
    assert rows[1]["paper"]["input"] == pytest.approx(0.673)
    assert set(rows[2]["values"]) == {
        "clean",
        "none",
        "input",
        "activation",
        "both",
    }  # AT got its noise by surgery
    rows = json.loads((tmp_path / "small/table_a3.json").read_text())["rows"]
    assert rows[2]["paper"]["images of at"] == pytest.approx(0.654)
    assert rows[2]["values"]["images of kap_sigma0.1"]["mean"] <= rows[2]["values"]["clean"]["mean"] + 0.1
    certified = json.loads((tmp_path / "small/figure_6.json").read_text())["rows"][0]["values"]
    assert certified["sigma 0.1, radius 0.5"]["mean"] == 0.0  # 50 copies cannot certify five sigma


@pytest.mark.once
def test_figure_a4_says_that_it_is_of_images_that_are_classified_correctly(monkeypatch):
    module, titles = script("figures_a2_a3_a4"), {}
    monkeypatch.setattr(
        module, "draw_lines", lambda panels, path, *, title, **options: titles.update({path.name: title})
    )
    results = json.loads((SCRIPTS.parent / "results/kap/figures_a3_a4.json").read_text(encoding="utf-8"))
    module.draw(results, Path("out/figures.png"))
    assert "those of 150 images that the network classifies correctly" in titles["figure_a4.png"]
    assert "25 copies of an image" in titles["figure_a3.png"]


@pytest.mark.once
def test_table_2_takes_the_trained_networks_of_a_folder(tmp_path, capsys):
    module = script("table_2")
    rows = {row.name: row for row in module.chosen_rows(ZOO, kap.SETTINGS["small"], Path("out"))}
    assert rows["kap_sigma0.1"].folder == ZOO / "resnet18_kap_cifar10.noise_sigma0.1"
    assert rows["noise_sigma0.1"].paper["input"] == pytest.approx(0.244)
    with pytest.raises(SystemExit):
        module.main(["--entries", str(tmp_path)])
    assert "must hold weights of some of resnet18_cifar10.noise_sigma0.1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        module.main(["--entries", str(ZOO), "--epochs", "3"])
    assert "leave out --epochs" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        module.main(["--entries", str(ZOO), "--all-images"])
    assert "leave out --epochs" in capsys.readouterr().err


@pytest.mark.once
@pytest.mark.parametrize("paper", [kap, ews])
def test_the_small_setting_trains_on_all_images_where_that_is_asked(paper):
    parser = study_parser("", "reports")
    assert paper.setting_of(parser.parse_args([])).train_images == 15_000
    setting = paper.setting_of(parser.parse_args(["--all-images"]))
    assert setting == dataclasses.replace(paper.SETTINGS["small"], train_images=None)
    found = paper.setting_of(parser.parse_args(["--setting", "paper", "--all-images"]))
    assert found == paper.SETTINGS["paper"]


@pytest.mark.once
def test_the_sweeps_of_the_weak_subnets_paper_train_on_all_images_where_that_is_asked():
    parser = study_parser("", "reports")
    assert ews.sweep_setting(parser.parse_args([])).train_images == 5_000
    assert ews.sweep_setting(parser.parse_args(["--all-images"])).train_images is None


@pytest.mark.once
@pytest.mark.parametrize("name", ["figure_4", "figure_5", "figure_6", "figure_7", "figures_a2_a3_a4", "table_2"])
def test_stored_results_are_of_what_the_scripts_train_with_all_images(name):
    file = "figures_a3_a4" if name == "figures_a2_a3_a4" else name
    stored = json.loads((SCRIPTS.parent / f"results/kap/{file}.json").read_text(encoding="utf-8"))
    setting = kap.setting_of(study_parser("", "reports").parse_args(["--all-images", "--images", "150"]))
    rows = rows_of(script(name), setting)
    assert {row["name"] for row in stored["rows"]} == set(rows)
    for row in stored["rows"]:
        assert parse_recipe(row["recipe"], source=name).digest() == rows[row["name"]].recipe.digest()
    if name in ("figure_4", "figure_5"):
        assert stored["setting"] == setting.question()


@pytest.mark.once
def test_speed_table_sets_ratios_beside_the_papers():
    training, inference = {"kernels": {"median": 1.01}}, {"kernels": {"median": 1.0}, "folded": {"median": 1.0}}
    found = {"ratio": {"training": training, "inference": inference}}
    table = script("table_a2").ratios(found, {"methods": {"AT-10": {"times_plain_median": 9.5}}})
    assert table["KAP, training step"] == {"ours": 1.01, "paper": pytest.approx(1.16)}
    assert table["AT, training step"] == {"ours": 9.5, "paper": pytest.approx(8.06)}


@pytest.mark.once
def test_topography_script_trains_what_is_missing_and_goes_on(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(kap.SETTINGS, "small", TINY)
    module = script("figure_7")
    monkeypatch.setattr(module, "FIGURES", {"figure_7": {"plain_sigma0": "plain", "kap_sigma0.1": "KAP"}})
    module.main(["--output", str(tmp_path)])
    results = json.loads((tmp_path / "small/figure_7.json").read_text())
    assert [row["name"] for row in results["rows"]] == ["plain_sigma0", "kap_sigma0.1"]
    assert -1 <= results["rows"][1]["values"]["neighbours"]["mean"] <= 1
    assert (tmp_path / "small/figure_7.png").is_file()
    trained = sorted((tmp_path / "small/trained").iterdir())
    assert len(trained) == 2
    (tmp_path / "small/topography/plain_sigma0/trial0/result.json").unlink()
    before = (trained[0] / "model.weights.h5").stat().st_mtime_ns
    module.main(["--output", str(tmp_path)])
    assert (trained[0] / "model.weights.h5").stat().st_mtime_ns == before
