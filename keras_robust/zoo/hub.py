"""Files of published entries: pinned to a commit, checked by SHA-256 before use, repaired once."""

import errno
import hashlib
import json
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from keras_robust.files import write_atomically
from keras_robust.zoo.entry import ENTRY, RECIPE, Entry, File
from keras_robust.zoo.entry import sha256 as _sha256

SCHEME = "hf://"
COMMIT = r"[0-9a-f]{40}"
KERAS_FILES = ("config.json", "metadata.json")
"""What `keras.saving.load_model` needs beside the weights; our own loader does not use it."""

# The client raises its own errors, those of its HTTP library and OSError; for bad names also ValueError.
TRANSPORT: type[Exception] = HfHubHTTPError.__bases__[0]
_FAILURES: tuple[type[Exception], ...] = (ValueError, OSError, TRANSPORT)
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_SOURCE = re.compile(rf"hf://(?P<repository>{_PART}/{_PART})(@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]*))?")


@dataclass(frozen=True)
class Access:
    """How the Hub is reached.

    Args:
        cache_dir: Folder of the downloads; None for `keras_robust` in the Hub client's folder (`HF_HOME`).
        endpoint: Address of the Hub; None for the public one.
        token: False sends none, True the stored one; or the token itself.
        local_files_only: Whether to use the cache alone.
    """

    cache_dir: str | Path | None = None
    endpoint: str | None = None
    token: bool | str = False
    local_files_only: bool = False

    @property
    def cache(self) -> Path:
        """Folder that holds the downloads and the records of first downloads."""
        return Path(self.cache_dir) if self.cache_dir else Path(constants.HF_HOME) / "keras_robust"


def parse(source: str) -> tuple[str, str]:
    """Splits 'hf://namespace/name@revision'.

    Args:
        source: The address; without a revision it means the branch 'main'.

    Returns:
        Repository and revision (a commit, a tag or a branch).

    Raises:
        ValueError: If it is not of that form.
    """
    match = _SOURCE.fullmatch(source)
    if match is None or ".." in source:
        raise ValueError(
            "An address on the Hub must look like 'hf://namespace/name@revision', where the revision is a commit, "
            f"a tag or a branch. Received: {source!r}."
        )
    return match["repository"], match["revision"] or "main"


def fetch_weights(entry: Entry, access: Access) -> Path:
    """Returns the weights of an installed entry, from the cache or the Hub.

    The installed `entry.json` names repository, commit and SHA-256; nothing else is trusted.

    Args:
        entry: An entry of this installation.
        access: How the Hub is reached.

    Returns:
        Path of a file whose SHA-256 is the entry's.

    Raises:
        ValueError: If the entry is not published, or its file cannot be had unchanged.
    """
    weights = entry.weights
    if weights.repository is None or weights.revision is None:
        raise ValueError(
            f"Zoo entry '{entry.name}': {weights.file} ({weights.bytes / 1e6:.1f} MB) is neither in this "
            f"installation nor published. Get it by training, `keras-robust train {entry.name}`."
        )
    return _fetch(weights.repository, weights.revision, weights, access)


def fetch_entry(source: str, access: Access, *, sha256: str | None = None) -> Path:
    """Returns a folder with a published entry, from the cache or the Hub.

    What `entry.json` says of the other files is checked; `entry.json` itself must be the one of the first
    download of this address, which is recorded in the cache, unless `sha256` is its SHA-256.

    Args:
        source: 'hf://namespace/name@revision'. A cached commit costs no request, a tag or branch one.
        access: How the Hub is reached.
        sha256: SHA-256 of the repository's `entry.json`, from a place that you trust; or of `model.weights.h5`,
            which leaves the rest, such as builder and probe, to the first download.

    Returns:
        Folder of `entry.json`, `model.weights.h5` and `probe.npz`, all checked.

    Raises:
        ValueError: If a file cannot be had, or is not the expected one.
    """
    repository, revision = parse(source)
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"`sha256` must be 64 hexadecimal digits in small letters. Received: {sha256!r}.")
    record = access.cache / "first_downloads" / f"{quote(f'{repository}@{revision}', safe='@')}.json"
    recorded = _read_record(record)
    path = _download(repository, ENTRY, revision, access)
    pinned = sha256 is not None and _sha256(path) == sha256
    if not pinned and not _is_first(path, recorded):
        with suppress(ValueError):  # a repair that fails leaves the difference, which is reported below
            path = _download(repository, ENTRY, path.parent.name, access, force=True)
        pinned = sha256 is not None and _sha256(path) == sha256
        if not pinned and not _is_first(path, recorded):
            raise ValueError(_changed(source, path, recorded, record))
    commit, entry = path.parent.name, Entry.load(path.parent)
    if sha256 not in (None, entry.weights.sha256) and not pinned:
        raise ValueError(
            f"'{source}': `sha256` must be that of {ENTRY} ({_sha256(path)}) or of {entry.weights.file} "
            f"({entry.weights.sha256}). Received: {sha256}. Do not use these files unless you know why."
        )
    _fetch(repository, commit, entry.weights, access)
    _fetch(repository, commit, entry.probe, access)
    if recorded != _sha256(path):
        _write_record(record, source, commit, entry, _sha256(path))
    return path.parent


def download(source: Entry | str, access: Access, *, sha256: str | None = None) -> Path:
    """Puts a published model into the cache, so that it loads without network.

    Args:
        source: An entry of this installation, or 'hf://namespace/name@revision'.
        access: How the Hub is reached.
        sha256: As in `fetch_entry`.

    Returns:
        Path of the weights of an installed entry; for an address the folder, which
        `keras.saving.load_model` reads too once `keras_robust` is imported, and `keras-robust evaluate`.

    Raises:
        ValueError: If a file cannot be had, or is not the expected one.
    """
    if isinstance(source, Entry):
        return fetch_weights(source, access)
    folder = fetch_entry(source, access, sha256=sha256)
    repository, _ = parse(source)
    for name in (*KERAS_FILES, RECIPE):
        try:
            path = _download(repository, name, folder.name, access)
        except ValueError as error:
            if name == RECIPE and isinstance(error.__cause__, EntryNotFoundError):
                continue  # an older repository or cache lacks it; only an evaluation asks for it
            raise
        if not _is_whole(path):
            path = _download(repository, name, folder.name, access, force=True)
            if not _is_whole(path):
                raise ValueError(f"'{source}': {name} is not the file that the Hub announced. Try again later.")
    return folder


def _fetch(repository: str, commit: str, expected: File, access: Access) -> Path:
    """Returns a file of a commit whose SHA-256 is the expected one."""
    path = _download(repository, expected.file, commit, access)
    received, why = (
        _sha256(path),
        "The cached copy is damaged, and `local_files_only` forbids to get another.",
    )
    if received != expected.sha256 and not access.local_files_only:
        try:
            path = _download(repository, expected.file, commit, access, force=True)
            received, why = _sha256(path), "It was downloaded twice."
        except ValueError as error:
            why = f"The copy in the cache is damaged, and a second download failed: {error}"
    if received != expected.sha256:
        raise ValueError(
            f"'{SCHEME}{repository}@{commit}': SHA-256 of {expected.file} is {received}, expected "
            f"{expected.sha256}. {why} The file was not used. Delete {path} and load again; if it repeats, "
            "report it."
        )
    return path


def _download(repository: str, file: str, revision: str, access: Access, *, force: bool = False) -> Path:
    """Returns a file of a repository as the client hands it out, unchecked."""

    def ask() -> Path:
        path = hf_hub_download(
            repository,
            file,
            revision=revision,
            cache_dir=access.cache / "hub",
            endpoint=access.endpoint,
            token=access.token,
            local_files_only=access.local_files_only,
            force_download=force,
            library_name="keras_robust",
        )
        return Path(path)

    try:
        try:
            return ask()
        except _FAILURES as error:
            if not _is_broken_transfer(error):
                raise
            return ask()
    except _FAILURES as error:
        where = (
            f"'{SCHEME}{repository}@{revision}': cannot get {file} from {access.endpoint or constants.ENDPOINT}"
        )
        raise ValueError(f"{where}. {_explain(error, access)}") from error


def _is_broken_transfer(error: Exception) -> bool:
    """Tells whether the body of an answer broke off or had another length than announced."""
    if isinstance(error, TRANSPORT) and not isinstance(error, HfHubHTTPError):
        return True
    return type(error) is OSError and "Consistency check failed" in str(error)


def _explain(error: Exception, access: Access) -> str:
    """Says what went wrong and what helps."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    number = next((e.errno for e in (error, error.__cause__) if isinstance(e, OSError) and e.errno), None)
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403):
        sent = "The token that was sent does not open it" if access.token else "No token was sent"
        return f"The repository is absent or private. {sent}: check the name; for a private one pass `token=True`."
    if isinstance(error, RevisionNotFoundError):
        return "The repository has no such revision: give a commit, a tag or a branch that it has."
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        if access.local_files_only or constants.HF_HUB_OFFLINE:
            return f"It is not in the cache {access.cache}. Use `keras-robust download` where there is network."
        return f"The server cannot be reached and {access.cache} does not hold it. Try again with network."
    if isinstance(error, EntryNotFoundError):
        return "The repository has no such file: it is not a zoo entry of this package."
    if isinstance(error, HFValidationError):
        return f"The name is not a valid one: {error}"
    if status is not None:
        reason = "asks for fewer requests" if status == 429 else "fails"
        return f"The server {reason} (status {status}). Try again in some minutes."
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"The cache {access.cache} cannot be written. Pass another `cache_dir`, or set HF_HOME."
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"No space is left for the cache {access.cache}. Free some, or pass another `cache_dir`."
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first} Check the network and try again."


def _is_first(path: Path, recorded: str | None) -> bool:
    return _is_whole(path) if recorded is None else _sha256(path) == recorded


def _is_whole(path: Path) -> bool:
    """Tells whether a cached file is the one that the server announced: the cache names it by its hash.

    True where the file system knows no links, so that the name is lost.
    """
    announced = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", announced):
        return _sha256(path) == announced
    if re.fullmatch(COMMIT, announced):
        data = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == announced
    return True


def _read_record(record: Path) -> str | None:
    try:
        return json.loads(record.read_text())["entry_sha256"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"`{record}` must hold the SHA-256 of a first download. Received: a damaged file. Delete it; the next "
            "download counts as the first one again."
        ) from error


def _write_record(record: Path, source: str, commit: str, entry: Entry, digest: str) -> None:
    content = {
        "source": source,
        "commit": commit,
        "name": entry.name,
        "entry_sha256": digest,
        "weights_sha256": entry.weights.sha256,
    }
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(record, json.dumps(content, indent=2) + "\n")
        note = f"recorded in {record}"
    except OSError as error:
        note = f"NOT recorded, since {record} cannot be written ({error.strerror}): a later change goes unnoticed"
    print(
        f"{source}: entry '{entry.name}', commit {commit}, SHA-256 of {ENTRY} {digest}, {note}. "
        "Pass it as `sha256` to be sure of the same model everywhere.",
        file=sys.stderr,
    )


def _changed(source: str, path: Path, recorded: str | None, record: Path) -> str:
    if recorded is None:
        return f"'{source}': {ENTRY} was downloaded twice and is not the one that the Hub announced. Try later."
    return (
        f"'{source}': SHA-256 of {ENTRY} is {_sha256(path)}, expected {recorded}, that of the first download. "
        f"What this address gives has changed (now commit {path.parent.name}); nothing was loaded. If you expect "
        f"the change, pass the new value as `sha256` or delete {record}."
    )
