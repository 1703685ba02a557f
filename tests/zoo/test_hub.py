import json

import keras
import pytest

from keras_robust.zoo import hub
from keras_robust.zoo.entry import Entry, sha256
from keras_robust.zoo.publish import publish
from tests.zoo.conftest import NAME, REPOSITORY

WEIGHTS = "model.weights.h5"
once = pytest.mark.once


def requests_of(server, action):
    server.requests.clear()
    result = action()
    return [f"{method} {path}" for method, path, _ in server.requests], result


def tamper(server, revision="main", **changes):
    """Changes the published entry.json in place."""
    files = server.files(REPOSITORY, revision)
    content = json.loads(files["entry.json"])
    files["entry.json"] = json.dumps(content | changes).encode()


def test_a_published_entry_loads_by_name_commit_tag_and_branch_with_the_promised_requests(
    server, own_zoo, load, is_trained
):
    publication = publish(NAME, REPOSITORY, tag="v1", endpoint=server.url, token=server.token)
    (own_zoo / WEIGHTS).unlink()
    addresses = {NAME: 0, publication.address: 0, f"hf://{REPOSITORY}@v1": 1, f"hf://{REPOSITORY}": 1}
    for source, promised in addresses.items():
        is_trained(load(source))
        seen, model = requests_of(server, lambda source=source: load(source))
        assert len(seen) == promised, (source, seen)
        is_trained(model)


@once
def test_a_checkout_with_the_weights_asks_nobody(server, own_zoo, load, is_trained):
    publish(NAME, REPOSITORY, endpoint=server.url, token=server.token)
    seen, model = requests_of(server, load)
    assert seen == []
    is_trained(model)


@once
def test_a_public_read_sends_no_token(server, published, load, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_user")
    load(published.address)
    assert server.requests
    assert all(authorization is None for _, _, authorization in server.requests)


@once
def test_the_token_stays_with_the_hub_when_it_redirects_to_a_storage(server, published, load):
    server.repos[REPOSITORY].private, server.redirect = True, True
    load(published.address, token=server.token)
    sent = {(path.startswith("/storage"), authorization) for _, path, authorization in server.requests}
    assert sent == {(False, f"Bearer {server.token}"), (True, None)}


def test_a_downloaded_folder_loads_with_plain_keras(server, published, cache, is_trained):
    folder = hub.download(published.address, hub.Access(cache, server.url))
    is_trained(keras.saving.load_model(folder))


@once
def test_a_download_of_an_installed_entry_loads_without_network(
    server, published, own_zoo, cache, load, is_trained
):
    hub.download(Entry.load(own_zoo), hub.Access(cache, server.url))
    server.stop()
    is_trained(load(local_files_only=True))


@once
def test_what_is_not_in_the_cache_is_not_found_without_network(server, published, load):
    for source in (NAME, published.address):
        with pytest.raises(ValueError, match=r"not in the cache.*keras-robust download"):
            load(source, local_files_only=True)
    assert server.requests == []


@once
def test_an_entry_that_is_not_published_says_how_to_get_its_weights(own_zoo, load):
    (own_zoo / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="keras-robust train"):
        load()


@once
@pytest.mark.parametrize(
    "address",
    ["hf://zoo", "hf://zoo/", "hf://zoo/a@", "hf://zoo/a/b", "hf://zoo/a@../b", "hf://../etc", "hf://a b/c"],
)
def test_an_address_of_another_form_is_refused_before_any_request(server, load, address):
    with pytest.raises(ValueError, match="must look like 'hf://namespace/name@revision'"):
        load(address)
    assert server.requests == []


@once
def test_the_first_download_is_printed_and_recorded(published, load, cache, capsys, own_zoo):
    load(published.address)
    digest = sha256(next(cache.rglob("snapshots/*/entry.json")))
    assert digest in capsys.readouterr().err
    (record,) = (cache / "first_downloads").iterdir()
    assert json.loads(record.read_text())["entry_sha256"] == digest
    load(published.address)
    assert capsys.readouterr().err == ""


@once
def test_an_address_that_gives_something_else_later_is_refused(server, published, load, cache, is_trained):
    address = f"hf://{REPOSITORY}"
    load(address)
    first = sha256(next(cache.rglob("snapshots/*/entry.json")))
    repo = server.repos[REPOSITORY]
    repo.commit("main", dict(server.files(REPOSITORY)))
    tamper(server, limits=["a new commit"])
    for _ in range(2):
        with pytest.raises(ValueError, match=f"expected {first}, that of the first download"):
            load(address)
    is_trained(load(published.address))  # the commit of before is still what it was
    new = hub.hashlib.sha256(server.files(REPOSITORY)["entry.json"]).hexdigest()
    load(address, sha256=new)
    load(address)  # what the caller vouched for is the record now


@once
def test_a_tampered_entry_of_a_known_commit_is_refused_even_in_a_fresh_snapshot(server, published, load, cache):
    load(published.address)
    for path in cache.glob("hub/models--*"):
        hub.Path.rename(path, path.with_name("gone"))
    tamper(server, published.revision, limits=["tampered"])
    with pytest.raises(ValueError, match="that of the first download"):
        load(published.address)


@once
def test_a_callers_digest_of_entry_or_weights_is_the_root_of_trust(server, published, load, own_zoo, tmp_path):
    files = server.files(REPOSITORY)
    for name in ("entry.json", WEIGHTS):
        digest = hub.hashlib.sha256(files[name]).hexdigest()
        load(published.address, sha256=digest, cache_dir=tmp_path / name)
        with pytest.raises(ValueError, match=f"{digest}.*Received: {'0' * 64}"):
            load(published.address, sha256="0" * 64, cache_dir=tmp_path / f"{name}-wrong")
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        load(published.address, sha256="abc")
    with pytest.raises(ValueError, match="holds its own"):
        load(NAME, sha256="0" * 64)


@once
def test_an_installed_entry_does_not_depend_on_the_servers_entry(server, published, load, is_trained):
    tamper(server, published.revision, limits=["tampered"])
    is_trained(load())


@once
def test_same_shapes_in_another_architecture_are_noticed_by_the_probe(server, published, load):
    # The layers and shapes of "kap" and "kmp" are the same: only the logits tell.
    tamper(server, model={**_model(server), "arguments": {"depth": 2, "pooling": "kmp"}})
    with pytest.raises(ValueError, match=r"logits on the images of probe.npz differ"):
        load(published.address)
    load(published.address, verify=False)


def _model(server):
    return json.loads(server.files(REPOSITORY)["entry.json"])["model"]
