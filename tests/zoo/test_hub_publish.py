import hashlib
import json
import re

import huggingface_hub
import keras
import pytest

from keras_robust import models, zoo
from keras_robust.zoo.entry import Entry
from keras_robust.zoo.publish import publish, stage
from tests.zoo.conftest import NAME, REPOSITORY
from tests.zoo.local_hub import Fault

LAYOUT = {
    "README.md",
    "config.json",
    "entry.json",
    "metadata.json",
    "model.weights.h5",
    "probe.npz",
    "recipe.toml",
}
pytestmark = pytest.mark.once


@pytest.fixture
def send(server):
    def publish_to_server(source=NAME, repository=REPOSITORY, **options):
        return publish(source, repository, **{"endpoint": server.url, "token": server.token, **options})

    return publish_to_server


def commits(server):
    return len(server.repos[REPOSITORY].commits)


def test_one_commit_holds_the_layout_of_keras_and_the_entry(server, own_zoo, send):
    publication = send(tag="v1")
    assert set(server.files(REPOSITORY, "v1")) - {".gitattributes"} == LAYOUT == set(publication.files)
    assert commits(server) == 2  # the Hub's own first one, and ours
    for name in ("model.weights.h5", "probe.npz", "recipe.toml"):
        assert server.files(REPOSITORY)[name] == (own_zoo / name).read_bytes()


def test_the_commit_is_written_back_into_the_entry_and_the_card(server, own_zoo, send):
    publication = send()
    weights = Entry.load(own_zoo).weights
    assert (weights.repository, weights.revision) == (REPOSITORY, publication.revision)
    assert publication.address == f"hf://{REPOSITORY}@{publication.revision}"
    assert (own_zoo / "card.md").read_text() == zoo.render_card(own_zoo)


def test_the_hub_reads_the_metrics_from_the_card(server, own_zoo, send):
    send()
    card = huggingface_hub.HfApi(endpoint=server.url, token=False).model_info(REPOSITORY).card_data
    assert card.library_name == "keras"
    values = [result.metric_value for result in card.eval_results]
    assert values == [round(metric.value, 6) for metric in Entry.load(own_zoo).metrics]


def test_a_dry_run_asks_nobody_and_changes_nothing(server, own_zoo, send):
    before = {path.name: path.read_bytes() for path in own_zoo.iterdir()}
    publication = send(dry_run=True)
    assert set(publication.files) == LAYOUT
    assert publication.revision is None
    assert server.requests == []
    assert {path.name: path.read_bytes() for path in own_zoo.iterdir()} == before


def test_publishing_again_without_a_change_makes_no_commit(server, own_zoo, send):
    assert send().revision == send(repository=None).revision
    assert commits(server) == 2


def test_what_is_published_holds_no_addresses_in_memory(own_zoo):
    # Another process has others, and would publish an unchanged entry again.
    config = stage(own_zoo, REPOSITORY)["config.json"].decode()
    shared = [int(number) for number in re.findall(r'"shared_object_id": (\d+)', config)]
    assert set(shared) == set(range(len(set(shared))))


def test_a_publication_that_was_cut_short_before_the_write_back_is_taken_up(server, own_zoo, send):
    entry = (own_zoo / "entry.json").read_bytes()
    publication = send()
    (own_zoo / "entry.json").write_bytes(entry)
    assert send().revision == publication.revision


def test_a_changed_entry_is_published_on_top(server, own_zoo, send):
    first = send()
    content = json.loads((own_zoo / "entry.json").read_text())
    content["limits"] = ["Only for 8 x 8 pixels."]
    (own_zoo / "entry.json").write_text(json.dumps(content))
    second = send()
    assert second.revision != first.revision
    assert b"Only for 8 x 8" in server.files(REPOSITORY)["README.md"]


def test_somebody_elses_newer_commit_is_not_overwritten(server, own_zoo, send):
    publication = send()
    newer = server.repos[REPOSITORY].commit("main", {**server.files(REPOSITORY), "entry.json": b"{}"})
    with pytest.raises(ValueError, match=f"newest commit is {newer}, expected {publication.revision}"):
        send()
    assert server.files(REPOSITORY)["entry.json"] == b"{}"


def test_a_repository_of_an_entry_that_this_checkout_did_not_publish_is_not_overwritten(server, own_zoo, send):
    entry = (own_zoo / "entry.json").read_bytes()
    send()
    server.repos[REPOSITORY].commit("main", {**server.files(REPOSITORY), "entry.json": b"{}"})
    (own_zoo / "entry.json").write_bytes(entry)
    with pytest.raises(ValueError, match="somebody has published since"):
        send()


def test_a_retrained_entry_is_published_on_top_once_its_weights_say_of_what(server, own_zoo, send):
    entry = json.loads((own_zoo / "entry.json").read_text())
    head = send().revision
    entry["limits"] = ["Trained anew."]
    (own_zoo / "entry.json").write_text(json.dumps(entry))
    with pytest.raises(ValueError, match=f'"repository": "{REPOSITORY}" and "revision": "{head}"'):
        send()
    entry["weights"] |= {"repository": REPOSITORY, "revision": head}
    (own_zoo / "entry.json").write_text(json.dumps(entry))
    assert send().revision != head


def test_a_commit_at_the_same_moment_is_not_overwritten(server, own_zoo, send, monkeypatch):
    create_commit = huggingface_hub.HfApi.create_commit

    def overtaken(self, *arguments, **options):
        server.repos[REPOSITORY].commit("main", {**server.files(REPOSITORY), "entry.json": b"{}"})
        return create_commit(self, *arguments, **options)

    before = (own_zoo / "entry.json").read_bytes()
    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", overtaken)
    with pytest.raises(ValueError, match="at the same moment"):
        send()
    assert server.files(REPOSITORY)["entry.json"] == b"{}"
    assert (own_zoo / "entry.json").read_bytes() == before


def test_a_token_that_may_not_write_is_named(server, own_zoo, send):
    with pytest.raises(ValueError, match="may not write there"):
        send(repository="others/net")
    with pytest.raises(ValueError, match="may not write there"):
        send(token="hf_wrong")


def test_a_tag_that_exists_is_refused(server, own_zoo, send):
    send(tag="v1")
    before = (own_zoo / "entry.json").read_text()
    (own_zoo / "entry.json").write_text(before.replace('"limits": []', '"limits": ["Only for 8 x 8 pixels."]'))
    with pytest.raises(ValueError, match=r"the tag 'v1' exists already.*Nothing was published"):
        send(tag="v1")
    assert commits(server) == 2


def test_a_tag_that_fails_leaves_the_publication_and_says_so(server, own_zoo, send, no_waiting):
    server.faults = [Fault(500, method="POST", path="/tag/")]
    with pytest.raises(ValueError, match="is published; only the tag 'v1' failed") as caught:
        send(tag="v1")
    revision = server.repos[REPOSITORY].branches["main"]
    assert f"hf://{REPOSITORY}@{revision}" in str(caught.value)
    assert Entry.load(own_zoo).weights.revision == revision
    server.faults = []
    assert send(tag="v1").revision == revision == server.repos[REPOSITORY].tags["v1"]


def test_card_and_publication_give_the_digest_that_vouches_for_everything(server, own_zoo, send, load):
    publication = send()
    digest = hashlib.sha256(server.files(REPOSITORY)["entry.json"]).hexdigest()
    assert publication.entry_sha256 == digest == Entry.load(own_zoo).weights.entry_sha256
    assert f'zoo.load("{publication.address}", sha256="{digest}")' in (own_zoo / "card.md").read_text()
    published = server.files(REPOSITORY)["README.md"].decode()
    assert f'zoo.load("hf://{REPOSITORY}@<commit>", sha256="{digest}")' in published
    assert "`<commit>` is" in published
    load(publication.address, sha256=publication.entry_sha256)
    # A publication of before, whose digest is not known, is pinned to its commit alone.
    entry = Entry.load(own_zoo)
    weights = entry.weights.model_copy(update={"entry_sha256": None})
    entry.model_copy(update={"weights": weights}).save(own_zoo)
    assert f'zoo.load("{publication.address}")' in zoo.render_card(own_zoo)


def test_a_failed_upload_leaves_the_entry_as_it_was(server, own_zoo, send, no_waiting):
    before = (own_zoo / "entry.json").read_bytes()
    server.faults = [Fault(500, method="POST", path="/commit/")]
    with pytest.raises(ValueError, match="cannot publish"):
        send()
    assert (own_zoo / "entry.json").read_bytes() == before


def test_an_entry_without_a_repository_asks_for_one(server, own_zoo, send):
    with pytest.raises(ValueError, match="--repository namespace/"):
        send(repository=None)
    with pytest.raises(ValueError, match="must look like"):
        send(repository="no-namespace")


def test_an_entry_that_is_not_what_was_trained_is_not_published(server, own_zoo, send):
    recipe = own_zoo / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("epochs = 1", "epochs = 2"))
    with pytest.raises(ValueError, match=r"recipe.toml must be that of the training"):
        send()
    recipe.write_text(recipe.read_text().replace("epochs = 2", "epochs = 1"))
    (own_zoo / "probe.npz").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"SHA-256 of probe.npz"):
        send()
    assert server.requests == []


def test_the_client_sees_a_whole_snapshot_refs_and_hashes(server, own_zoo, send, cache, is_trained):
    publication = send(tag="v1")
    api = huggingface_hub.HfApi(endpoint=server.url, token=False)
    refs = api.list_repo_refs(REPOSITORY)
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": publication.revision}
    folder = api.snapshot_download(REPOSITORY, revision="v1", cache_dir=cache)
    assert not api.verify_repo_checksums(REPOSITORY, revision=publication.revision, cache_dir=cache).mismatches
    is_trained(keras.saving.load_model(folder))


def test_a_model_without_our_layers_is_read_by_keras_alone():
    plain = models.build("kap_cnn", num_classes=10, input_shape=(8, 8, 1), pooling=None)
    assert "keras_robust" not in plain.to_json()
