import json
import re
import shutil
import tomllib

import pytest

from keras_robust import zoo
from keras_robust.evaluation.metrics import Metric
from keras_robust.training.recipe import EvaluationTable
from keras_robust.zoo import leaderboard, results
from keras_robust.zoo.entry import Entry

# Nothing of a page of our own needs the network, and a browser that looks for updates delays the test.
OFFLINE = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def variant(entry, name, clean, robust, parameters, flags=()):
    """The entry under another name, with a clean accuracy and one under AutoAttack, of 1000 images."""
    first = entry.metrics[0]
    same = {"seed": 0, "seconds": 1.0, "environment": first.environment, "data": first.data}
    metrics = [
        Metric.of(clean, 1000, name="clean", kind="clean", **same),
        Metric.of(
            robust,
            1000,
            name="AutoAttack L2 0.5",
            kind="attack",
            norm="L2",
            epsilon=0.5,
            attack={"name": "AutoAttack", "norm": "L2", "epsilon": 0.5, "version": "standard", "attacks": None},
            flags=list(flags),
            **same,
        ),
        Metric.of(900, 1000, name="gaussian noise 0.1", kind="gaussian_noise", sigma=0.1, **same),
    ]
    return entry.model_copy(update={"name": name, "metrics": metrics, "parameters": parameters})


@pytest.fixture
def entries(trained_entry):
    entry = Entry.load(trained_entry[0])
    plain = variant(entry, "cnn_digits.plain", 950, 100, 3000)
    twice = plain.metrics[0].model_copy(update={"correct": 1900, "images": 2000})
    return [
        plain.model_copy(update={"metrics": [twice, *plain.metrics[1:]]}),
        variant(entry, "cnn_digits.robust", 850, 600, 2000, flags=["Square < APGD </script>"]),
        variant(entry, "cnn_digits.middle", 900, 300, 10_000),
        variant(entry, "cnn_mnist.other", 990, 50, 5000).model_copy(update={"dataset": "mnist"}),
    ]


@pytest.fixture(scope="module")
def browser():
    """A real browser without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is tried with playwright")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=OFFLINE)
        yield browser
        browser.close()


@pytest.mark.once
def test_the_page_sorts_by_a_click_and_draws_every_entry(entries, browser, tmp_path):
    path = tmp_path / "leaderboard.html"
    leaderboard.write_leaderboard(path, entries)
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    faults, requests = [], []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())

    def names():
        return [row.get_attribute("data-name") for row in page.query_selector_all("tbody tr")]

    assert names() == ["cnn_digits.robust", "cnn_digits.middle", "cnn_digits.plain"]  # by robust accuracy
    assert page.eval_on_selector("#threat", "each => each.value") == "L2 0.5"
    page.click("th[data-key=clean] button")
    assert names() == ["cnn_digits.plain", "cnn_digits.middle", "cnn_digits.robust"]
    page.click("th[data-key=clean] button")
    assert names() == ["cnn_digits.robust", "cnn_digits.middle", "cnn_digits.plain"]
    page.click("th[data-key=parameters] button")
    assert names() == ["cnn_digits.middle", "cnn_digits.plain", "cnn_digits.robust"]
    page.click("th[data-key=name] button")
    assert names() == ["cnn_digits.middle", "cnn_digits.plain", "cnn_digits.robust"]
    points = [each.get_attribute("data-name") for each in page.query_selector_all("#plot circle")]
    assert sorted(points) == sorted(names())
    assert "60.0" in page.inner_text("tr[data-name='cnn_digits.robust']")
    assert "of 2000" in page.inner_text("tr[data-name='cnn_digits.plain']")  # the clean images; attacked: 1000
    assert "of 1000" not in page.inner_text("tbody")
    assert page.get_attribute("tr[data-name='cnn_digits.robust'] .flag", "title") == "Square < APGD </script>"
    page.select_option("#dataset", "mnist")
    assert names() == ["cnn_mnist.other"]
    page.fill("#find", "nothing of this name")
    assert names() == []
    assert faults == []
    assert requests == [path.as_uri()]
    screenshot = page.screenshot(path=tmp_path / "page.png")
    assert screenshot.startswith(b"\x89PNG")
    page.close()


@pytest.mark.once
def test_the_committed_page_opens_without_an_error(browser):
    page = browser.new_page()
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto((results.checkout() / "zoo" / "leaderboard.html").as_uri())
    names = {each.text_content() for each in page.query_selector_all("tbody a")}
    datasets = {each.text_content() for each in page.query_selector_all("#dataset option")}
    assert faults == []
    assert names
    assert names <= {entry.name for entry in zoo.list_entries()}
    assert datasets == {entry.dataset for entry in zoo.list_entries()}
    page.close()


@pytest.mark.once
def test_generated_files_of_the_zoo_are_current():
    root = results.checkout()
    for path, content in results.generated_files(root, zoo.list_entries()).items():
        assert path.is_file(), f"{path.name}: run `keras-robust report --write`"
        assert path.read_text(encoding="utf-8") == content, f"{path.name}: run `keras-robust report --write`"


@pytest.mark.once
def test_the_published_schema_accepts_every_entry_and_refuses_another_key():
    import jsonschema

    schema = json.loads((results.checkout() / "zoo" / "entry.schema.json").read_text(encoding="utf-8"))
    for entry in zoo.list_entries():
        document = json.loads(entry.model_dump_json())
        jsonschema.validate(document, schema)
    with pytest.raises(jsonschema.ValidationError, match="unexpected"):
        jsonschema.validate(document | {"unexpected": 1}, schema)


@pytest.mark.once
def test_model_info_has_the_fields_of_robustbench(entries, tmp_path):
    info = zoo.model_info(entries[1], "L2", 0.5)
    assert info["eps"] == "0.5"
    assert info["clean_acc"] == "85.00"
    assert info["autoattack_acc"] == "60.00"
    assert info["additional_data"] is False
    assert info["link"] == "https://arxiv.org/abs/2210.00062"
    assert info["footnote"].startswith("Measured on the first 1000 test images.")
    other = zoo.model_info(entries[0], "L2", 0.5)["footnote"]
    assert "autoattack_acc is of the first 1000 test images, clean_acc of the first 2000." in other
    expected = {"link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue"}
    expected |= {"architecture", "eps", "clean_acc", "reported", "autoattack_acc", "footnote"}
    assert info.keys() == expected
    files = leaderboard.write_model_info(tmp_path, entries[:1])
    assert files == [tmp_path / "digits" / "L2" / "cnn_digits.plain.json"]
    assert json.loads(files[0].read_text())["autoattack_acc"] == "10.00"


@pytest.mark.once
def test_model_info_of_an_entry_without_autoattack_says_what_to_run(entries):
    with pytest.raises(ValueError, match=r"measured: L2 0\.5\. Add .* to its recipe's \[evaluation\]") as caught:
        zoo.model_info(entries[0], "Linf", 8 / 255)
    # What the message gives is a row of a recipe.
    (row,) = re.findall(r"(\[\[evaluation\.attacks\]\]) with (.*?), then", str(caught.value))
    table = EvaluationTable.model_validate(tomllib.loads("\n".join([row[0], *row[1].split(", ")]))["evaluation"])
    assert (table.attacks[0].name, table.attacks[0].norm) == ("autoattack", "Linf")
    assert table.attacks[0].epsilon == pytest.approx(8 / 255, abs=1e-8)
    assert "`keras-robust evaluate cnn_digits.plain --only attacks --update-entry`" in str(caught.value)


@pytest.mark.once
def test_model_info_writes_an_linf_radius_in_255ths(entries):
    entry = entries[0]
    metric = entry.metrics[1].model_copy(update={"norm": "Linf", "epsilon": 8 / 255})
    entry = entry.model_copy(update={"metrics": [entry.metrics[0], metric]})
    assert zoo.model_info(entry, "Linf", 8 / 255)["eps"] == "8/255"
    with pytest.raises(ValueError, match=r"epsilon=4/255; measured: Linf 8/255.*epsilon = 0.01568627"):
        zoo.model_info(entry, "Linf", 4 / 255)
