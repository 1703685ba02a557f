import pytest
from typer.testing import CliRunner

from keras_robust.cli import app
from keras_robust.zoo.entry import Entry
from tests.zoo.conftest import NAME, REPOSITORY

pytestmark = pytest.mark.once
DIGEST = ("--sha256", "0" * 64)


@pytest.fixture
def run(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", server.token)

    def invoke(*arguments):
        return CliRunner().invoke(app, [*map(str, arguments), "--endpoint", server.url])

    return invoke


def test_publish_then_download_all_then_load_without_network(server, own_zoo, cache, load, run, is_trained):
    dry = run("publish", NAME, "--repository", REPOSITORY, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "model.weights.h5" in dry.output
    assert server.requests == []
    sent = run("publish", NAME, "--repository", REPOSITORY, "--tag", "v1")
    assert sent.exit_code == 0, sent.output
    weights = Entry.load(own_zoo).weights
    assert f'zoo.load("hf://{REPOSITORY}@{weights.revision}", sha256="{weights.entry_sha256}")' in sent.output
    (own_zoo / "model.weights.h5").unlink()
    got = run("download", "--all", "--cache-dir", cache)
    assert got.exit_code == 0, got.output
    server.stop()
    is_trained(load(local_files_only=True))


def test_an_address_downloads_to_a_folder(server, published, cache, run):
    got = run("download", published.address, "--cache-dir", cache)
    assert got.exit_code == 0, got.output
    assert (cache / "hub").is_dir()
    refused = run("download", published.address, "--cache-dir", cache, "--sha256", "0" * 64)
    assert refused.exit_code == 2
    assert "`sha256` must be that of entry.json" in refused.output


@pytest.mark.parametrize("arguments", [[], [NAME, "--all"], ["--all", *DIGEST], [NAME, *DIGEST]])
def test_download_without_a_clear_choice_is_refused(own_zoo, run, arguments):
    result = run("download", *arguments)
    assert result.exit_code == 2
    assert "or --all" in result.output


def test_download_all_names_what_is_not_published(own_zoo, run):
    (own_zoo / "model.weights.h5").unlink()
    result = run("download", "--all")
    assert result.exit_code == 0
    assert f"Not published: {NAME}" in result.output


MEASURE = ("--attacks", "none", "--noise", "none", "--images", "8")


@pytest.mark.parametrize("only", [(), ("--only", "noise", "--update-entry")])
def test_evaluating_an_entry_without_weights_says_how_to_get_them(own_zoo, run, only, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (own_zoo / "model.weights.h5").unlink()
    with (own_zoo / "recipe.toml").open("a") as recipe:
        recipe.write('[evaluation]\nimages = 40\n[[evaluation.noise]]\ntype = "gaussian"\nlevels = [0.1]\n')
    result = CliRunner().invoke(app, ["evaluate", NAME, *(only or MEASURE)])
    assert result.exit_code == 2
    assert "keras-robust train" in result.output


def test_a_published_entry_is_evaluated_with_the_weights_of_the_cache(
    server, published, run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hf"))
    assert run("download", NAME).exit_code == 0
    server.stop()
    result = CliRunner().invoke(app, ["evaluate", NAME, *MEASURE])
    assert result.exit_code == 0, result.output


def test_the_folder_of_an_address_is_evaluated(server, published, cache, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = run("download", published.address, "--cache-dir", cache).stdout.strip()
    result = CliRunner().invoke(app, ["evaluate", folder, *MEASURE])
    assert result.exit_code == 0, result.output


def test_an_older_repository_without_recipe_is_downloaded(server, published, cache, run):
    del server.files(REPOSITORY)["recipe.toml"]
    assert run("download", published.address, "--cache-dir", cache).exit_code == 0
