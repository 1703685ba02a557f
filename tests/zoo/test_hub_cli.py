import pytest
from typer.testing import CliRunner

from keras_robust.cli import app
from keras_robust.zoo.entry import Entry
from tests.zoo.conftest import NAME, REPOSITORY

pytestmark = pytest.mark.once


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
    assert Entry.load(own_zoo).weights.revision in sent.output
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


@pytest.mark.parametrize("arguments", [[], [NAME, "--all"], ["--all", "--sha256", "0" * 64]])
def test_download_without_a_clear_choice_is_refused(own_zoo, run, arguments):
    result = run("download", *arguments)
    assert result.exit_code == 2
    assert "or --all" in result.output


def test_download_all_names_what_is_not_published(own_zoo, run):
    (own_zoo / "model.weights.h5").unlink()
    result = run("download", "--all")
    assert result.exit_code == 0
    assert f"Not published: {NAME}" in result.output
