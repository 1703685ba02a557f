import json

import pytest
import yaml

from keras_robust import zoo
from keras_robust.evaluation.metrics import Metric
from keras_robust.zoo.card import card_is_current, render_card
from keras_robust.zoo.entry import Entry, make_entry
from keras_robust.zoo.leaderboard import leaderboard_page
from keras_robust.zoo.results import BEGIN, END, place_table, results_table

pytestmark = pytest.mark.once
NAME = "kap_cnn_digits.test"


def test_the_entry_states_parameters_recipe_and_threats(folder):
    entry = Entry.load(folder)
    assert entry.parameters == (9 * 64 + 64) + 2 * 64 + (9 * 64 * 144 + 144) + 2 * 144 + (144 * 10 + 10)
    assert entry.threat_models == ["Linf", "gaussian_noise"]
    assert entry.model.arguments == {"depth": 2, "pooling": "kap"}
    assert entry.weights.bytes == (folder / "model.weights.h5").stat().st_size


@pytest.mark.parametrize(
    ("kernels", "said"), [("bfloat16", "bytes, kernels rounded to bfloat16, SHA"), ("float32", "bytes, SHA")]
)
def test_entry_and_card_say_what_kernels_are_rounded_to(folder, kernels, said):
    from keras_robust.datasets import load

    recipe = folder / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("[training]\n", f'[training]\nweights = "{kernels}"\n'))
    options = {"model": zoo.load(folder), "images": load("digits").test.take(8)[0], "num_classes": 10}
    entry = make_entry(folder, metrics=Entry.load(folder).metrics, **options)
    assert entry.training.kernels == kernels
    assert said in render_card(folder)


def test_an_entry_of_before_may_leave_the_kernels_unsaid(folder):
    content = json.loads((folder / "entry.json").read_text())
    del content["training"]["kernels"]
    (folder / "entry.json").write_text(json.dumps(content))
    assert Entry.load(folder).training.kernels is None
    assert "bytes, SHA" in render_card(folder)


def test_an_unknown_key_is_named(folder):
    path = folder / "entry.json"
    path.write_text(path.read_text().replace('"licence"', '"license"'))
    with pytest.raises(ValueError, match="license"):
        Entry.load(folder)


def test_a_branch_cannot_stand_for_a_pinned_revision(folder):
    content = json.loads((folder / "entry.json").read_text())
    content["weights"]["revision"] = "main"
    (folder / "entry.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"weights\.revision"):
        Entry.load(folder)


def test_the_schema_describes_every_field():
    schema = json.loads(zoo.json_schema())
    assert set(schema["properties"]) == set(Entry.model_fields)
    assert schema["additionalProperties"] is False


def test_measuring_again_keeps_what_people_added(folder):
    from keras_robust.datasets import load

    entry = Entry.load(folder)
    reported = zoo.Reported(name="clean", value=0.9, source="paper, table 1")
    entry.model_copy(update={"reported": [reported], "limits": ["Small images."]}).save(folder)
    model = zoo.load(folder)
    x = load("digits").test.take(8)[0]
    again = make_entry(folder, model=model, images=x, num_classes=10, metrics=entry.metrics)
    assert again.reported == [reported]
    assert again.limits == ["Small images."]
    assert "paper, table 1" in (folder / "card.md").read_text()


def test_the_card_has_the_hubs_metadata_with_every_number(folder):
    card = (folder / "card.md").read_text()
    data = yaml.safe_load(card.split("---")[1])
    results = data["model-index"][0]["results"]
    values = [metric["value"] for result in results for metric in result["metrics"]]
    assert values == [round(metric.value, 6) for metric in Entry.load(folder).metrics]
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "keras"


@pytest.mark.parametrize("count", [40, 10])
def test_the_hubs_metadata_states_the_images_of_every_number(folder, count):
    # The Hub's format merges results of one data set, and keeps what the first says of it.
    entry = Entry.load(folder)
    clean, attack, noise = entry.metrics
    fewer = attack.model_copy(update={"correct": 0, "value": 0.0, "images": count})
    entry.model_copy(update={"metrics": [clean, fewer, noise]}).save(folder)
    data = yaml.safe_load(render_card(folder).split("---")[1])
    results = data["model-index"][0]["results"]
    stated = [metric["args"]["images"] for result in results for metric in result["metrics"]]
    assert stated == [metric.images for metric in Entry.load(folder).metrics] == [40, count, 40]
    assert [result["dataset"].get("args") for result in results] == [None]


def test_a_card_is_stale_once_its_entry_changes(folder):
    assert card_is_current(folder)
    entry = Entry.load(folder)
    entry.model_copy(update={"limits": ["Only for tests."]}).save(folder)
    assert not card_is_current(folder)
    assert "- Only for tests." in render_card(folder)


def test_the_table_shows_clean_robust_and_noisy_accuracy_with_intervals(folder):
    entry = Entry.load(folder)
    table = results_table([entry])
    clean, attack, noise = entry.metrics
    for metric in (clean, attack, noise):
        assert f"{100 * metric.value:.1f} ({100 * metric.low:.1f} to {100 * metric.high:.1f})" in table
    assert "Linf epsilon 0.05" in table
    assert "40 test images" in table
    assert clean.environment.short_commit in table


def test_a_number_of_a_smaller_ball_takes_the_place_of_a_higher_one_and_says_so(folder):
    entry = Entry.load(folder)
    clean, attack, noise = entry.metrics
    low = {"correct": 4, "value": 0.1, "low": 0.04, "high": 0.23}
    smaller = attack.model_copy(update=low | {"name": "PGD Linf 0.01", "epsilon": 0.01, "attack": {"name": "PGD"}})
    reported = [zoo.Reported(name="PGD Linf 0.01", value=0.194, source="A paper, table 1")]
    changes = {"metrics": [clean, attack, smaller, noise], "reported": reported}
    table = results_table([entry.model_copy(update=changes)])
    low_cell = "10.0 (4.0 to 23.0) PGD"
    assert f"| {low_cell} [paper 19.4] | {low_cell} within 0.01 |" in table
    assert "as in `PGD within 0.1`, found its images in that smaller ball" in table
    assert "smaller ball" not in results_table([entry])
    page = leaderboard_page([entry.model_copy(update=changes)])
    assert '"attacks": ["PGD within 0.01"]' in page


def test_a_lower_number_measured_by_others_goes_first(folder):
    other = zoo.External(
        name="adaptive",
        norm="Linf",
        epsilon=0.05,
        value=0.0,
        images=100,
        who="A. Nother",
        link="https://x.example",
    )
    entry = Entry.load(folder).model_copy(update={"external": [other]})
    assert "0.0 [A. Nother](https://x.example)" in results_table([entry])

    # What lies in a smaller ball lies in this one; of a larger one nothing follows.
    def table(epsilon):
        changes = {"external": [other.model_copy(update={"epsilon": epsilon})]}
        return results_table([entry.model_copy(update=changes)])

    assert "0.0 [A. Nother](https://x.example) within 0.02 |" in table(0.02)
    assert "within" not in table(0.05)
    assert "A. Nother" not in table(0.2)


def test_the_papers_number_stands_beside_ours(folder):
    reported = [
        zoo.Reported(name="clean", value=0.8, source="A paper, table 1"),
        zoo.Reported(name="AutoAttack Linf 0.05", value=0.194, source="A paper, table 1"),
    ]
    entry = Entry.load(folder).model_copy(update={"reported": reported})
    table = results_table([entry])
    assert f"{100 * entry.metrics[0].high:.1f}) [paper 80.0]" in table
    assert "FGSM [paper 19.4]" in table
    assert "in its own setting" in table


@pytest.mark.parametrize("name", ["AutoAttack Linf 8/255", "AutoAttack Linf 0.03137", "FGSM Linf 8/255"])
def test_the_papers_radius_may_be_written_as_the_field_does(folder, name):
    entry = Entry.load(folder)
    clean, attack, noise = entry.metrics
    attack = attack.model_copy(update={"name": "FGSM Linf 0.03137", "epsilon": 0.03137255})
    reported = [zoo.Reported(name=name, value=0.194, source="A paper, table 1")]
    entry = entry.model_copy(update={"metrics": [clean, attack, noise], "reported": reported})
    assert "FGSM [paper 19.4]" in results_table([entry])


def test_certified_and_corrupted_accuracy_have_columns(folder):
    entry = Entry.load(folder)
    fields = entry.metrics[0].model_dump() | {"value": 0.25, "correct": 10}
    certified = {"name": "certified, sigma 0.1, L2 0.5", "kind": "certified", "epsilon": 0.5, "sigma": 0.1}
    corrupted = {"name": "corruptions, mean", "kind": "corruption", "correct": 750, "images": 3000}
    smoothed = {"name": "certified, sigma 0.1, L2 0", "kind": "certified", "epsilon": 0.0, "sigma": 0.1}
    more = [Metric.model_validate(fields | each) for each in (smoothed, certified, corrupted)]
    table = results_table([entry.model_copy(update={"metrics": [*entry.metrics, *more]})])
    assert "certified L2 0.5 | corruptions |" in table
    assert "sigma 0.1 |" in table
    assert "over 40 test images" in table
    assert "Wilson interval (`corruptions`: a normal one over images" in table
    fewer = more[-1].model_copy(update={"data": more[-1].data.model_copy(update={"count": 20})})
    table = results_table([entry.model_copy(update={"metrics": [*entry.metrics, fewer]})])
    assert "), 20 images |" in table  # whose copies are 3000


def test_a_clean_accuracy_on_another_number_of_images_than_most_says_how_many(folder):
    entry = Entry.load(folder)
    clean, attack, noise = (
        metric.model_copy(update={"correct": 40, "images": 80, "value": 0.5}) for metric in entry.metrics
    )
    larger = entry.model_copy(update={"name": "kap_cnn_digits.larger", "metrics": [clean, attack, noise]})
    others = [entry.model_copy(update={"name": f"kap_cnn_digits.{name}"}) for name in ("one", "two")]
    table = results_table([larger, *others])
    rows = {row.split("](")[0].split("[")[-1]: row for row in table.splitlines() if row.startswith("| [")}
    assert rows["kap_cnn_digits.larger"].count(", 80 images |") == 3
    assert "images" not in rows["kap_cnn_digits.one"]
    assert "where the cell does not say otherwise, over 40 test images" in table


def test_a_number_on_fewer_images_says_how_many(folder):
    entry = Entry.load(folder)
    clean, attack, noise = entry.metrics
    fewer = attack.model_copy(update={"correct": 5, "images": 10, "value": 0.5})
    table = results_table([entry.model_copy(update={"metrics": [clean, fewer, noise]})])
    assert ") FGSM, 10 images |" in table
    assert "where the cell does not say otherwise, over 40 test images" in table


def test_the_table_shows_the_middle_level_of_a_noise(folder):
    entry = Entry.load(folder)
    noise = entry.metrics[2].model_dump()
    more = [Metric.model_validate(noise | {"sigma": sigma, "name": f"noise {sigma}"}) for sigma in (0.2, 0.3)]
    table = results_table([entry.model_copy(update={"metrics": [*entry.metrics, *more]})])
    assert "noise sigma 0.2" in table
    assert "noise sigma 0.1 " not in table
    assert "noise sigma 0.3" not in table


def test_place_table_writes_once_and_notices_a_stale_table(folder, tmp_path):
    (tmp_path / "zoo").mkdir(exist_ok=True)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    entries = [Entry.load(folder)]
    assert not place_table(readme, entries, write=False)
    assert readme.read_text() == f"before\n{BEGIN}\n{END}\nafter\n"
    assert not place_table(readme, entries, write=True)
    assert place_table(readme, entries, write=False)
    assert readme.read_text().startswith("before\n")
    assert readme.read_text().endswith("\nafter\n")
    assert f"(zoo/{NAME}/card.md)" in readme.read_text()


def test_a_file_without_markers_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("no markers")
    with pytest.raises(ValueError, match="results:begin"):
        place_table(tmp_path / "README.md", [], write=True)


def test_weights_of_another_recipe_do_not_become_an_entry(folder):
    from keras_robust.datasets import load

    entry, model = Entry.load(folder), zoo.load(folder)
    images = {"images": load("digits").test.take(8)[0], "num_classes": 10, "metrics": entry.metrics}
    same = make_entry(folder, model=model, **images, log={"recipe_digest": entry.training.recipe_digest})
    assert same.training.recipe_digest == entry.training.recipe_digest
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    images["images"] = images["images"][:2]  # another probe
    with pytest.raises(ValueError, match="Restore that recipe, or train"):
        make_entry(folder, model=model, **images, log={"recipe_digest": "0" * 64})
    with pytest.raises(ValueError, match="holds one clean accuracy"):
        make_entry(folder, model=model, **images | {"metrics": []})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert zoo.load(folder) is not None
