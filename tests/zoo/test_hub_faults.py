import dataclasses
import errno
import hashlib
import subprocess
import sys
import textwrap
from pathlib import Path

import huggingface_hub.file_download
import pytest

from tests.zoo.conftest import NAME, REPOSITORY
from tests.zoo.local_hub import Fault

WEIGHTS = "model.weights.h5"
pytestmark = [pytest.mark.once, pytest.mark.usefixtures("no_waiting")]


def rot(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("action", ["corrupt", "drop", "reset", "html", "truncate"])
@pytest.mark.parametrize("file", [WEIGHTS, "entry.json"])
def test_one_bad_transfer_is_repaired_within_the_call(server, published, load, is_trained, action, file):
    server.faults = [Fault(action, path=file, times=1)]
    is_trained(load(published.address))
    server.requests.clear()
    is_trained(load(published.address))
    assert server.requests == []


@pytest.mark.parametrize("action", ["html", "truncate"])
def test_an_html_page_or_a_short_body_is_never_kept(server, published, load, is_trained, action):
    server.faults = [Fault(action, path=WEIGHTS)]
    for _ in range(2):
        with pytest.raises(ValueError, match=WEIGHTS):
            load()
    server.faults = []
    is_trained(load())


def test_an_html_page_for_every_request_is_refused(server, published, load, is_trained):
    server.faults = [Fault("html", method="HEAD", path=WEIGHTS), Fault("html", path=WEIGHTS)]
    with pytest.raises(ValueError, match=WEIGHTS):
        load()


@pytest.mark.parametrize("file", [WEIGHTS, "probe.npz", "entry.json"])
def test_a_server_that_always_corrupts_is_refused_after_one_repair(server, published, load, file):
    server.faults = [Fault("corrupt", path=file)]
    with pytest.raises(ValueError, match=rf"{file}.*downloaded twice"):
        load(published.address)
    assert sum(method == "GET" and path.endswith(file) for method, path, _ in server.requests) == 2


def test_the_error_names_file_expected_and_received_digest(server, published, load):
    content = server.files(REPOSITORY)[WEIGHTS]
    other = content[:-1] + bytes([content[-1] ^ 1])
    server.files(REPOSITORY)[WEIGHTS] = other
    expected, received = (hashlib.sha256(each).hexdigest() for each in (content, other))
    with pytest.raises(ValueError, match=f"SHA-256 of {WEIGHTS} is {received}, expected {expected}"):
        load()


@pytest.mark.parametrize("file", [WEIGHTS, "probe.npz", "entry.json"])
def test_damage_in_the_cache_is_repaired_with_network_and_refused_without(
    server, published, load, cache, is_trained, file
):
    load(published.address)
    (cached,) = cache.rglob(f"snapshots/*/{file}")
    rot(cached.resolve())
    with pytest.raises(ValueError, match=file):
        load(published.address, local_files_only=True)
    is_trained(load(published.address))
    is_trained(load(published.address, local_files_only=True))


def test_damage_in_the_cache_is_refused_when_the_server_is_gone(server, published, load, cache):
    load()
    (cached,) = cache.rglob(f"snapshots/*/{WEIGHTS}")
    rot(cached.resolve())
    server.stop()
    with pytest.raises(ValueError, match=f"{WEIGHTS}.*a second download failed"):
        load()


@pytest.mark.parametrize("fault", [Fault(429, method="HEAD"), Fault(503, method="HEAD"), Fault(429)])
def test_a_server_that_refuses_once_is_asked_again(server, published, load, is_trained, fault):
    server.faults = [dataclasses.replace(fault, path=WEIGHTS, times=1)]
    is_trained(load())


def test_a_transfer_that_fails_on_the_server_is_named_and_can_be_repeated(server, published, load, is_trained):
    server.faults = [Fault(503, path=WEIGHTS, times=1)]
    with pytest.raises(ValueError, match=r"status 503\). Try again"):
        load()
    is_trained(load())


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_refuses_for_ever_is_named_and_harmless_once_cached(
    server, published, load, is_trained, status
):
    server.faults = [Fault(status, method=method) for method in ("HEAD", "GET")]
    for source in (NAME, published.address):
        with pytest.raises(ValueError, match=rf"cannot get.*from {server.url}.*[Tt]ry again"):
            load(source)
    server.faults = []
    for source in (NAME, published.address, f"hf://{REPOSITORY}"):
        load(source)
    server.faults = [Fault(status, method=method) for method in ("HEAD", "GET")]
    for source in (NAME, published.address, f"hf://{REPOSITORY}"):
        is_trained(load(source))


def test_a_server_that_is_gone_is_named_and_harmless_once_cached(server, published, load, cache, is_trained):
    load(f"hf://{REPOSITORY}")
    server.stop()
    is_trained(load(f"hf://{REPOSITORY}"))
    with pytest.raises(ValueError, match="cannot be reached"):
        load(published.address, cache_dir=cache.with_name("empty"))


def test_a_private_repository_says_that_it_needs_a_token(server, published, load, is_trained):
    server.repos[REPOSITORY].private = True
    with pytest.raises(ValueError, match=r"absent or private. No token was sent.*token=True"):
        load(published.address)
    with pytest.raises(ValueError, match="The token that was sent does not open it"):
        load(published.address, token="hf_wrong")
    is_trained(load(published.address, token=server.token))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("hf://zoo/absent", "absent or private"),
        (f"hf://{REPOSITORY}@v9", "no such revision"),
        (f"hf://{REPOSITORY}@{'0' * 40}", "no such revision"),
    ],
)
def test_what_the_hub_does_not_have_is_named(published, load, address, reason):
    with pytest.raises(ValueError, match=rf"{address}.*{reason}"):
        load(address)


def test_a_repository_of_another_kind_is_named(server, published, load):
    del server.files(REPOSITORY)["entry.json"]
    with pytest.raises(ValueError, match="not a zoo entry of this package"):
        load(f"hf://{REPOSITORY}")


def test_an_entry_of_another_format_is_refused(server, published, load):
    server.files(REPOSITORY)["entry.json"] = b'{"format": 2}'
    with pytest.raises(ValueError, match="not a valid zoo entry"):
        load(f"hf://{REPOSITORY}")


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "No space is left"), (errno.EROFS, "cannot be written"), (errno.EACCES, "cannot be written")],
)
def test_a_full_disk_or_read_only_cache_is_named_and_leaves_no_weights(
    published, load, cache, is_trained, monkeypatch, number, reason
):
    # Injected: a test that runs as root may write anywhere.
    def refuse(*_, **__):
        raise OSError(number, "injected")

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.file_download, "http_get", refuse)
        with pytest.raises(ValueError, match=rf"{reason}.*cache_dir"):
            load()
    assert not list(cache.rglob(f"snapshots/*/{WEIGHTS}"))
    is_trained(load())


def test_a_read_only_cache_that_holds_the_entry_loads(published, load, is_trained, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("keras_robust.zoo.hub.write_atomically", refuse)
    is_trained(load(published.address))
    assert "NOT recorded" in capsys.readouterr().err


def test_a_damaged_record_of_the_first_download_is_named(published, load, cache):
    load(published.address)
    (record,) = (cache / "first_downloads").iterdir()
    record.write_text("{")
    with pytest.raises(ValueError, match=r"must hold the SHA-256 of a first download.*Delete it"):
        load(published.address)


def test_two_processes_may_download_the_same_file(server, published, cache):
    code = textwrap.dedent("""
        import sys
        from keras_robust.zoo import hub
        sys.stdin.readline()
        print(hub.fetch_entry(sys.argv[1], hub.Access(sys.argv[2], sys.argv[3])))
    """)
    command = [sys.executable, "-c", code, published.address, str(cache), server.url]
    # One of the two is handed damaged bytes and has to repair what the other may be reading.
    server.faults = [Fault("corrupt", path=WEIGHTS, times=1)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=Path(__file__).parents[2], **pipes) for _ in range(2)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    folders = {out.strip() for out, _ in outputs}
    assert len(folders) == 1
    (folder,) = folders
    expected = hashlib.sha256(server.files(REPOSITORY)[WEIGHTS]).hexdigest()
    assert hashlib.sha256((Path(folder) / WEIGHTS).read_bytes()).hexdigest() == expected
