import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from keras_robust import cli
from keras_robust.zoo import registry
from keras_robust.zoo.card import card_is_current
from keras_robust.zoo.entry import Entry
from tests.hidden import HIDE

RECIPE = """
name = "cnn_digits.test"
[dataset]
name = "digits"
[model]
builder = "kap_cnn"
arguments = { depth = 1 }
[training]
epochs = 2
batch_size = 128
[optimizer]
name = "adam"
learning_rate = 0.01
[evaluation]
images = 48
[[evaluation.attacks]]
name = "fgsm"
norm = "Linf"
epsilon = [0.05, 0.1]
[[evaluation.attacks]]
name = "pgd"
norm = "Linf"
epsilon = 0.1
steps = 3
step_size = 0.05
[[evaluation.noise]]
type = "gaussian"
levels = [0.1]
"""


def run(*arguments):
    """Runs the command line in this process; returns exit code, standard output and standard error."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A zoo of one trained folder without an entry, made by the command line."""
    folder = tmp_path_factory.mktemp("zoo") / "cnn_digits.test"
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    code, output, _ = run("train", folder)
    assert code == 0
    assert "keras-robust evaluate" in output
    return folder


@pytest.fixture
def own_zoo(trained, tmp_path, monkeypatch):
    """A copy of that zoo, in an otherwise empty working directory."""
    folder = tmp_path / "zoo" / trained.name
    folder.mkdir(parents=True)
    for path in trained.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(registry, "roots", lambda: [folder.parent])
    monkeypatch.chdir(tmp_path)
    return folder


WITHOUT = (
    HIDE
    + """
sys.argv = ["keras-robust", "--help"]
{run}
"""
)


@pytest.mark.once
@pytest.mark.parametrize(
    ("chosen", "absent", "code", "message"),
    [
        (None, ["tensorflow"], 2, "KERAS_BACKEND is not set. Choose one that is installed"),
        (None, ["jax", "tensorflow", "torch"], 2, "pip install 'keras-robust[jax]'"),
        ("jacks", [], 2, "KERAS_BACKEND='jacks'"),
        (os.environ["KERAS_BACKEND"], [], 0, "Usage"),
    ],
)
def test_a_backend_that_is_not_there_is_one_clear_message(tmp_path, chosen, absent, code, message):
    project = tomllib.loads((Path(cli.__file__).parents[1] / "pyproject.toml").read_text())
    module, function = project["project"]["scripts"]["keras-robust"].split(":")
    program = WITHOUT.format(absent=absent, run=f"from {module} import {function}; {function}()")
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    environment |= {"KERAS_HOME": str(tmp_path), "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    environment |= {} if chosen is None else {"KERAS_BACKEND": chosen}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == code
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert code == 0 or "export KERAS_BACKEND=" in done.stderr


def test_evaluate_follows_the_recipe_and_writes_metrics_figure_and_entry(own_zoo):
    code, output, _ = run("evaluate", own_zoo, "--update-entry")
    assert code == 0
    entry = Entry.load(own_zoo)
    assert [metric.name for metric in entry.metrics] == [
        "clean",
        "FGSM Linf 0.05",
        "FGSM Linf 0.1",
        "PGD Linf 0.1",
        "worst case Linf 0.1",
        "gaussian noise 0.1",
    ]
    assert entry.metrics[3].attack["steps"] == 3
    assert {metric.images for metric in entry.metrics} == {48}
    assert entry.metrics[0].data.order == "scikit-learn"
    assert entry.training.log["seconds"] >= 0
    assert f"{entry.metrics[0].value:.2%}" in output
    assert card_is_current(own_zoo)
    reports = Path("reports/cnn_digits.test")
    assert json.loads((reports / "metrics.json").read_text())["metrics"][0]["images"] == 48
    assert (reports / "figure.png").read_bytes().startswith(b"\x89PNG")

    code, output, _ = run("list", "--json")
    (listed,) = json.loads(output)
    assert listed["name"] == "cnn_digits.test"
    assert listed["metrics"][0]["value"] == entry.metrics[0].value
    code, output, _ = run("evaluate", "cnn_digits.test", "--attacks", "none", "--noise", "none", "--images", 8)
    assert code == 0
    assert "8 images" in output


def test_options_of_the_command_line_replace_the_recipes(own_zoo):
    options = (
        "--attacks",
        "pgd",
        "--epsilon",
        "8/255,0.2",
        "--steps",
        2,
        "--noise",
        "0.2",
        "--uniform-noise",
        "0.5",
    )
    code, _, _ = run("evaluate", own_zoo, *options, "--images", 20, "--seed", 3, "--output", "here")
    assert code == 0
    metrics = json.loads(Path("here/metrics.json").read_text())["metrics"]
    assert [m["name"] for m in metrics][1:] == [
        "PGD Linf 0.03137",
        "PGD Linf 0.2",
        "gaussian noise 0.2",
        "uniform noise 0.5",
    ]
    assert metrics[1]["attack"]["steps"] == 2
    assert metrics[1]["attack"]["step_size"] is None
    assert {(m["seed"], m["images"]) for m in metrics} == {(3, 20)}


@pytest.mark.once
def test_a_norm_alone_leaves_the_recipes_attacks_of_that_norm_as_they_are():
    from keras_robust.subject import Protocol
    from keras_robust.training.recipe import EvaluationTable

    row = {"name": "pgd", "steps": 3, "step_size": 0.05}
    rows = [{**row, "norm": "Linf", "epsilon": 0.1}, {**row, "norm": "L2", "epsilon": [0.5, 1.0]}]
    table = EvaluationTable.model_validate({"attacks": rows})
    found = Protocol.of(table, norm="L2").attacks
    assert [(each.norm, each.epsilon, each.step_size) for each in found] == [("L2", 0.5, 0.05), ("L2", 1.0, 0.05)]
    found = Protocol.of(table, norm="L1", epsilons=[2.0]).attacks
    assert {(each.norm, each.epsilon, each.step_size) for each in found} == {("L1", 2.0, None)}


@pytest.mark.once
def test_only_the_part_with_corruptions_needs_their_library(monkeypatch):
    from keras_robust.subject import Protocol
    from keras_robust.training.recipe import EvaluationTable

    monkeypatch.setitem(sys.modules, "PIL", None)
    table = EvaluationTable.model_validate(
        {"corruptions": True, "attacks": [{"name": "fgsm", "norm": "Linf", "epsilon": 0.1}]}
    )
    with pytest.raises(ImportError, match=r"keras-robust\[corruptions\]"):
        Protocol.of(table)
    assert Protocol.of(table, only=["attacks"]).further == []


def test_attacks_may_be_given_the_first_images_only(own_zoo):
    code, _, _ = run("evaluate", own_zoo, "--attacks", "fgsm", "--attack-images", 8)
    assert code == 0
    metrics = json.loads(Path("reports/cnn_digits.test/metrics.json").read_text())["metrics"]
    assert {m["kind"]: m["images"] for m in metrics} == {"clean": 48, "attack": 8, "gaussian_noise": 48}


def test_a_saved_keras_file_is_measured_on_the_named_data_set(own_zoo):
    from keras_robust import pipeline
    from keras_robust.training.recipe import load_recipe

    pipeline.build_model(load_recipe(own_zoo)).save("model.keras")
    options = ("--attacks", "fgsm", "--epsilon", "0.1", "--images", 10)
    assert run("evaluate", "model.keras", "--dataset", "digits", *options)[0] == 0
    code, _, error = run("evaluate", "model.keras", *options)
    assert code == 2
    assert "--dataset digits" in error


@pytest.mark.once
def test_a_saved_model_of_a_class_that_keras_does_not_know_is_a_clear_error(own_zoo):
    import keras

    class Mine(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    model = keras.Sequential([keras.Input((8, 8, 1)), Mine(), keras.layers.Flatten(), keras.layers.Dense(10)])
    model.save("mine.keras")
    code, _, error = run("evaluate", "mine.keras", "--dataset", "digits", "--attacks", "none", "--images", 8)
    assert code == 2
    assert "Received: mine.keras" in error
    assert "'Mine'" in error
    assert "@keras.saving.register_keras_serializable()" in error
    assert "Traceback" not in error


@pytest.mark.once
def test_threats_of_a_list_are_known_in_any_case_of_letters(own_zoo):
    assert run("evaluate", own_zoo, "--update-entry", "--images", 8)[0] == 0
    for threat, count in (("linf", 1), ("Gaussian_Noise", 1), ("L1", 0)):
        code, output, _ = run("list", "--threat", threat, "--dataset", "digits", "--json")
        assert code == 0
        assert len(json.loads(output)) == count


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "cnn_digits.tset"], "cnn_digits"),
        (["evaluate", "../../etc"], "absent"),
        (["evaluate", "{zoo}", "--epsilon", "8"], "8 / 255"),
        (["evaluate", "{zoo}", "--epsilon", "8/x"], "fractions"),
        (["evaluate", "{zoo}", "--attacks", "pdg"], "Did you mean 'pgd'"),
        (["evaluate", "{zoo}", "--norm", "L7"], "'L2'"),
        (["evaluate", "{zoo}", "--attacks", "pgd", "--norm", "L2"], "--epsilon"),
        (["evaluate", "{zoo}", "--norm", "L2"], "none in a recipe for norm L2"),
        (["evaluate", "{zoo}", "--only", "attacks", "--norm", "Linf"], "beside --norm"),
        (["evaluate", "{zoo}", "--only", "attacks", "--epsilon", "0.1"], "beside --epsilon"),
        (["evaluate", "{zoo}", "--only", "attacks", "--steps", "9"], "beside --steps"),
        (["evaluate", "{zoo}", "--images", "100000"], "359"),
        (["evaluate", "{zoo}", "--noise", "-0.1"], "sigma"),
        (["evaluate", "{zoo}", "--dataset", "mnist"], "'digits'"),
        (["evaluate", "{zoo}", "--batch-size", "0"], "batch_size"),
        (["evaluate", "none.keras", "--dataset", "digits"], "absent"),
        (["list", "--dataset", "cifar"], "'cifar10'"),
        (["list", "--threat", "l3"], "'gaussian_noise'"),
        (["list", "--backend", "tf"], "'tensorflow'"),
        (["train", "none.toml"], "absent"),
        (["train", "{zoo}"], "overwrite"),
        (["report", "--write"], "README.md"),
    ],
)
def test_a_mistake_is_one_clear_message_and_exit_code_two(own_zoo, arguments, message, monkeypatch):
    monkeypatch.setattr("keras_robust.zoo.results.checkout", lambda: own_zoo.parents[1])
    code, _, error = run(*[argument.format(zoo=own_zoo) for argument in arguments])
    assert code == 2
    assert error.startswith("Error: ")
    assert message in error
    assert "Traceback" not in error


@pytest.mark.once
def test_an_unknown_key_of_a_recipe_is_named(own_zoo):
    path = own_zoo / "recipe.toml"
    path.write_text(path.read_text().replace("batch_size", "batchsize"))
    code, _, error = run("train", own_zoo, "--overwrite")
    assert code == 2
    assert "batch_size" in error


@pytest.mark.once
def test_weights_do_not_come_to_lie_beside_another_recipe(own_zoo):
    from keras_robust import pipeline

    variant, other = own_zoo / "variant.toml", own_zoo.parent / "other"
    variant.write_text(RECIPE.replace("depth = 1", "depth = 2").replace("epochs = 2", "epochs = 1"))
    weights = (own_zoo / "model.weights.h5").read_bytes()
    code, _, error = run("train", variant, "--overwrite")
    assert code == 2
    assert "Weights must lie beside the recipe that trains them" in error
    assert "--output-dir" in error
    assert (own_zoo / "model.weights.h5").read_bytes() == weights
    other.mkdir()
    (other / "recipe.toml").write_text(RECIPE)
    assert run("train", variant, "--output-dir", other)[0] == 2
    assert (other / "recipe.toml").read_text() == RECIPE
    assert run("train", variant, "--output-dir", other, "--overwrite")[0] == 0
    assert (other / "recipe.toml").read_text() == variant.read_text()
    pipeline.train(variant, output_dir=own_zoo, overwrite=True)
    code, _, error = run("evaluate", own_zoo)
    assert code == 2
    assert "must come from the recipe beside them" in error


@pytest.mark.once
def test_a_missing_data_set_is_named_before_the_model_is_built(own_zoo, tmp_path):
    path = own_zoo / "recipe.toml"
    path.write_text(path.read_text().replace('"digits"', '"mnist"'))
    (own_zoo / "training_log.json").unlink()  # it names the recipe of before
    code, _, error = run("evaluate", own_zoo, "--data-dir", tmp_path)
    assert code == 2
    assert "--data-dir" in error or "tensorflow" in error.lower()


@pytest.mark.once
def test_an_untrained_recipe_says_to_train(own_zoo):
    (own_zoo / "model.weights.h5").unlink()
    code, _, error = run("evaluate", "cnn_digits.test")
    assert code == 2
    assert "keras-robust train" in error


@pytest.mark.once
def test_strict_turns_a_flag_into_a_failure(own_zoo, monkeypatch):
    from keras_robust import evaluation

    def flagged(*arguments, **options):
        metrics = original(*arguments, **options)
        first = metrics.metrics[0].model_copy(update={"flags": ["37 of 48 images have a zero gradient"]})
        return metrics.model_copy(update={"metrics": [first]})

    original = evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", flagged)
    options = ("evaluate", own_zoo, "--attacks", "none", "--images", 4)
    assert run(*options)[0] == 0
    code, _, error = run(*options, "--strict")
    assert code == 1
    assert "37 of 48" in error


@pytest.mark.once
def test_a_number_that_does_not_come_out_again_is_a_warning(own_zoo):
    recipe = own_zoo / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("images = 48", "images = 8"))
    options = ("evaluate", own_zoo)
    code, output, _ = run(*options, "--update-entry", "--strict")
    assert code == 0
    assert "entry.json holds" not in output
    code, output, _ = run(*options, "--strict")
    assert code == 0
    count = len(Entry.load(own_zoo).metrics)
    assert f"Of {count} numbers that entry.json holds, {count} come out within 0.5 points." in output
    content = json.loads((own_zoo / "entry.json").read_text())
    clean = content["metrics"][0]
    measured, other = clean["value"], (clean["correct"] + 1) % 9
    clean |= {"correct": other, "value": other / 8}
    (own_zoo / "entry.json").write_text(json.dumps(content))
    code, output, error = run(*options)
    assert code == 0
    assert f"Of {count} numbers that entry.json holds, {count - 1} come out" in output
    assert f"Warning: clean is {measured:.2%} of 8 images; entry.json holds {clean['value']:.2%}" in error
    assert run(*options, "--strict")[0] == 1
    _, output, error = run(*options, "--update-entry")
    assert f"Of {count} numbers that entry.json held, {count - 1} come out" in output
    assert f"entry.json held {clean['value']:.2%}" in error
    assert Entry.load(own_zoo).metrics[0].value == measured


@pytest.mark.once
def test_numbers_of_other_weights_are_not_held_against_new_ones(own_zoo):
    recipe = own_zoo / "recipe.toml"
    recipe.write_text(recipe.read_text().split("[evaluation]")[0] + "[evaluation]\nimages = 8\n")
    options = ("evaluate", own_zoo)
    assert "entry.json held" not in run(*options, "--update-entry")[1]
    path = own_zoo / "entry.json"
    content = json.loads(path.read_text())
    content["weights"]["sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    assert "entry.json held" not in run(*options, "--update-entry")[1]
    assert "entry.json held" in run(*options, "--update-entry")[1]


@pytest.mark.once
def test_one_part_is_measured_again_and_the_other_numbers_stay(own_zoo):
    recipe = own_zoo / "recipe.toml"
    head = recipe.read_text().split("[evaluation]")[0]

    def protocol(copies):
        recipe.write_text(
            f"{head}[evaluation]\nimages = 8\n"
            '[[evaluation.attacks]]\nname = "fgsm"\nnorm = "Linf"\nepsilon = 0.1\n'
            '[[evaluation.noise]]\ntype = "gaussian"\nlevels = [0.1]\n'
            f"[[evaluation.certified]]\nsigma = 0.1\nradii = [0.0, 0.05]\nimages = 4\nn = {copies}\n"
        )

    protocol(20)
    options = ("evaluate", own_zoo, "--only", "certified")
    code, _, error = run(*options, "--update-entry")
    assert code != 0
    assert "must hold numbers of these weights, of the same 8 images and seed 0" in error
    assert run("evaluate", own_zoo, "--update-entry")[0] == 0
    before = Entry.load(own_zoo).metrics
    assert [metric.kind for metric in before] == ["clean", "attack", "gaussian_noise", "certified", "certified"]
    protocol(40)
    assert run(*options)[0] == 0
    assert Entry.load(own_zoo).metrics == before
    assert run(*options, "--update-entry")[0] == 0
    after = Entry.load(own_zoo).metrics
    assert after[:3] == before[:3]
    assert [metric.attack["n"] for metric in before[3:]] == [20, 20]
    assert [metric.attack["n"] for metric in after[3:]] == [40, 40]
    for wrong, reason in (
        ("certificates", "must be"),
        ("", "must be"),
        ("corruptions", "has: attacks, noise, certified. Received: corruptions."),
        ("noise, certified", None),
    ):
        code, _, error = run("evaluate", own_zoo, "--only", wrong)
        assert (code == 0) == (reason is None)
        assert reason is None or reason in error
    code, _, error = run(*options, "--attacks", "fgsm")
    assert code != 0
    assert "another protocol" in error
    code, _, error = run(*options, "--update-entry", "--seed", 1)
    assert code != 0
    assert "Received: numbers of 8 images, seed 0" in error
    assert Entry.load(own_zoo).metrics == after


@pytest.mark.once
@pytest.mark.parametrize(
    "options",
    [
        ("--attacks", "none"),
        ("--norm", "Linf"),
        ("--epsilon", "0.1"),
        ("--steps", 2),
        ("--noise", "none"),
        ("--uniform-noise", "0.5"),
        ("--images", 8),
        ("--attack-images", 8),
        ("--stages-alone", 8),
        ("--only", "attacks", "--attack-images", 8),
    ],
)
def test_the_record_of_an_entry_is_not_replaced_by_that_of_another_protocol(own_zoo, options, monkeypatch):
    from keras_robust import evaluation

    recipe = own_zoo / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("images = 48", "images = 8"))
    # The first record of all may be of any protocol.
    assert run("evaluate", own_zoo, "--update-entry", "--attacks", "fgsm")[0] == 0
    before = (own_zoo / "entry.json").read_bytes()
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: pytest.fail("it was measured"))
    code, _, error = run("evaluate", own_zoo, "--update-entry", *options)
    assert code == 2
    assert f"Received: {options[-2]} beside --update-entry" in error
    assert "[evaluation]" in error
    assert (own_zoo / "entry.json").read_bytes() == before


@pytest.mark.once
def test_weights_of_another_recipe_are_refused_before_anything_is_measured(own_zoo, monkeypatch):
    from keras_robust import evaluation

    options = ("evaluate", own_zoo, "--update-entry")
    assert run(*options, "--attacks", "none", "--images", 8)[0] == 0
    recipe = own_zoo / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("epochs = 2", "epochs = 3").replace("images = 48", "images = 8"))
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: pytest.fail("it was measured"))
    for only in ((), ("--only", "attacks")):
        code, _, error = run(*options, *only)
        assert code == 2
        assert "must come from the recipe beside them" in error
    assert Entry.load(own_zoo).training.epochs == 2


@pytest.mark.once
def test_report_writes_tables_and_check_notices_stale_ones(own_zoo, monkeypatch):
    root = own_zoo.parents[1]
    monkeypatch.setattr("keras_robust.zoo.results.checkout", lambda: root)
    for readme in (root / "README.md", own_zoo.parent / "README.md"):
        from keras_robust.zoo.results import BEGIN, END

        readme.write_text(f"# Title\n{BEGIN}\n{END}\n")
    run("evaluate", own_zoo, "--update-entry", "--images", 8)
    assert run("report", "--check")[0] == 1
    assert run("report", "--write")[0] == 0
    assert run("report", "--check")[0] == 0
    assert "(cnn_digits.test/card.md)" in (own_zoo.parent / "README.md").read_text()
    code, _, _ = run("report", "--html", root / "page.html", "--model-info", root / "info")
    assert code == 0
    assert f"{own_zoo.parent.name}/cnn_digits.test/card.md" in (root / "page.html").read_text()
    assert not list((root / "info").rglob("*.json"))  # no entry with the standard AutoAttack
    (own_zoo / "card.md").write_text("stale")
    code, output, _ = run("report", "--check")
    assert code == 1
    assert "card.md" in output


@pytest.mark.once
def test_the_committed_tables_are_current():
    from keras_robust.zoo.results import checkout

    if not (checkout() / "README.md").is_file():
        pytest.skip("no README yet")
    code, output, error = run("report", "--check")
    assert code == 0, output + error


@pytest.mark.once
@pytest.mark.slow
def test_a_killed_evaluation_leaves_the_old_metrics_and_goes_on(own_zoo, tmp_path, monkeypatch):
    # A commit between the kill and the second start would rightly be refused: hold it fixed.
    monkeypatch.setattr("keras_robust.evaluation.metrics.code_commit", lambda: "test")
    code = "from keras_robust import cli; from keras_robust.evaluation import metrics\n"
    code += "metrics.code_commit = lambda: 'test'; cli.main()"
    options = ["evaluate", str(own_zoo), "--attacks", "pgd,fgsm", "--steps", "50", "--images", "96"]
    options += ["--batch-size", "8", "--output", str(tmp_path / "out")]
    metrics, partial = tmp_path / "out" / "metrics.json", tmp_path / "out" / "metrics.json.partial"
    metrics.parent.mkdir()
    metrics.write_text("earlier")
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
    command = [sys.executable, "-c", code, *options]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 400
    while not partial.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert metrics.read_text() == "earlier"
    assert partial.exists()
    exit_code, _, error = run(*options)
    assert exit_code == 0, error
    resumed = [m["correct"] for m in json.loads(metrics.read_text())["metrics"]]
    assert run(*options[:-1], str(tmp_path / "unbroken"))[0] == 0
    unbroken = json.loads((tmp_path / "unbroken" / "metrics.json").read_text())["metrics"]
    assert resumed == [m["correct"] for m in unbroken]
    assert not partial.exists()
