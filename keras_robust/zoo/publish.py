"""Publishes an entry to the Hub in Keras's own layout, in one commit that no other publisher can overtake."""

import hashlib
import re
import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from keras_robust.zoo.card import render_card, write_card
from keras_robust.zoo.entry import ENTRY, RECIPE, Entry
from keras_robust.zoo.hub import KERAS_FILES, SCHEME, TRANSPORT, parse
from keras_robust.zoo.registry import check_file, check_probe, find, load

_README, _METADATA = "README.md", "metadata.json"
_FAILURES: tuple[type[Exception], ...] = (OSError, TRANSPORT)


@dataclass(frozen=True)
class Publication:
    """Where an entry is on the Hub; `revision` is None after a dry run. The digest is that of its `entry.json`."""

    repository: str
    revision: str | None
    files: dict[str, int]
    entry_sha256: str

    @property
    def address(self) -> str:
        """What `zoo.load` takes."""
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def publish(
    name_or_folder: str | Path,
    repository: str | None = None,
    *,
    dry_run: bool = False,
    tag: str | None = None,
    private: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
) -> Publication:
    """Publishes an entry and writes the commit back into its `entry.json`.

    Nothing is measured here: the entry is validated, loaded, and its logits are compared with its probe. The
    repository gets `config.json`, `metadata.json`, `model.weights.h5`, `entry.json`, `recipe.toml`, `probe.npz`
    and `README.md`. Files that are there already in the same form make no new commit.

    Args:
        name_or_folder: Entry of the checkout, by name or folder.
        repository: 'namespace/name' on the Hub; None for the one that the entry names.
        dry_run: Whether to stop before anything is sent; no request is made.
        tag: Tag for the commit; it must be new.
        private: Whether a repository that does not exist yet becomes private.
        endpoint: Address of the Hub; None for the public one.
        token: Token that may write; None for the stored one.

    Returns:
        Repository, commit, and the files with their sizes in bytes.

    Raises:
        ValueError: If the entry is not valid, the Hub refuses, or somebody has published in the meantime.
    """
    folder = find(name_or_folder)
    entry = Entry.load(folder)
    repository = repository or entry.weights.repository
    if repository is None:
        raise ValueError(
            f"Zoo entry '{entry.name}' is not published yet: say where, such as "
            f"`--repository namespace/{entry.name}`."
        )
    parse(f"{SCHEME}{repository}")
    files = stage(folder, repository)
    sizes = {path: len(content) for path, content in files.items()}
    digest = hashlib.sha256(files[ENTRY]).hexdigest()
    if dry_run:
        return Publication(repository, None, sizes, digest)
    api = HfApi(endpoint=endpoint, token=token, library_name="keras_robust")
    known = entry.weights.revision if entry.weights.repository == repository else None
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if tag is not None:
            _refuse_known_tag(api, repository, tag)
        revision = _send(api, repository, files, known=known, title=f"Publish {entry.name}")
    except _FAILURES as error:
        raise ValueError(f"'{SCHEME}{repository}': cannot publish '{entry.name}'. {_explain(error)}") from error
    publication = Publication(repository, revision, sizes, digest)
    where = {"repository": repository, "revision": revision, "entry_sha256": digest}
    entry.model_copy(update={"weights": entry.weights.model_copy(update=where)}).save(folder)
    write_card(folder)
    if tag is not None:
        try:
            api.create_tag(repository, tag=tag, revision=revision)
        except _FAILURES as error:
            raise ValueError(
                f"'{publication.address}' is published; only the tag {tag!r} failed. {_explain(error)} "
                "To publish again with --tag adds the tag alone."
            ) from error
    return publication


def stage(folder: str | Path, repository: str) -> dict[str, bytes]:
    """Returns the files of a repository by name, after making sure that they are a whole, loadable entry.

    Args:
        folder: Folder of the entry.
        repository: 'namespace/name' on the Hub, for the card.

    Returns:
        Content of every file.

    Raises:
        ValueError: If the recipe is another one than that of the training, the weights or the probe do not fit, or
            Keras reads another model from these files.
    """
    import keras

    from keras_robust.training.recipe import load_recipe

    folder = Path(folder)
    entry = Entry.load(folder)
    digest = load_recipe(folder).digest()
    if digest != entry.training.recipe_digest:
        raise ValueError(
            f"Zoo entry '{entry.name}': {RECIPE} must be that of the training, digest "
            f"{entry.training.recipe_digest}. Received: {digest}. Restore it, or train and evaluate anew."
        )
    model = load(folder)
    # The commit is not known before it is made: the published entry names its repository only.
    weights = entry.weights.model_copy(update={"repository": repository, "revision": None, "entry_sha256": None})
    published = entry.model_copy(update={"weights": weights})
    with tempfile.TemporaryDirectory() as temporary:
        keras.saving.save_model(model, Path(temporary) / "keras", zipped=False)
        stage = Path(temporary) / "stage"
        stage.mkdir()
        for name in KERAS_FILES:
            text = (Path(temporary) / "keras" / name).read_text(encoding="utf-8")
            (stage / name).write_text(_numbered(text), encoding="utf-8")
        for file in (entry.weights, entry.probe):
            (stage / file.file).write_bytes(check_file(entry, folder, file).read_bytes())
        (stage / RECIPE).write_bytes((folder / RECIPE).read_bytes())
        published.save(stage)
        (stage / _README).write_text(render_card(stage), encoding="utf-8")
        check_probe(entry, stage, keras.saving.load_model(stage))
        return {path.name: path.read_bytes() for path in sorted(stage.iterdir())}


def _numbered(text: str) -> str:
    """Numbers the objects that a model's configuration shares, which Keras names by their address in memory."""
    numbers: dict[str, int] = {}
    return re.sub(
        r'(?<="shared_object_id": )\d+', lambda found: str(numbers.setdefault(found[0], len(numbers))), text
    )


def _refuse_known_tag(api: HfApi, repository: str, tag: str) -> None:
    if tag in {reference.name for reference in api.list_repo_refs(repository).tags}:
        raise ValueError(
            f"'{SCHEME}{repository}': the tag {tag!r} exists already. Choose a new one: published models never "
            "change. Nothing was published."
        )


def _send(api: HfApi, repository: str, files: dict[str, bytes], *, known: str | None, title: str) -> str:
    """Sends the files as one commit on top of the known one and returns the new commit."""
    head = str(api.model_info(repository).sha)
    there = _hashes(api, repository, head, files)
    wanted = {path: _hash(content, there.get(path)) for path, content in files.items()}
    # Keras writes the date into its metadata: alone it is no reason for a commit. That the Hub has everything
    # already also happens where an earlier publication was cut short before the commit was written back.
    if all(there.get(path) == wanted[path] for path in files if path != _METADATA) and _METADATA in there:
        return head
    if known != head and (known is not None or ENTRY in there):
        raise ValueError(
            f"'{SCHEME}{repository}': somebody has published since. Its newest commit is {head}, expected "
            f'{known}. Look at what changed; to publish on top of it, put "repository": "{repository}" and '
            f'"revision": "{head}" into the weights of {ENTRY}.'
        )
    # File objects, since a path would be uploaded by a protocol that only the public Hub has.
    operations = [CommitOperationAdd(path, BytesIO(content)) for path, content in files.items()]
    commit = api.create_commit(repository, operations, commit_message=title, parent_commit=head)
    there = _hashes(api, repository, commit.oid, files)
    for path, content in files.items():
        if there.get(path) != _hash(content, there.get(path)):
            raise ValueError(
                f"'{SCHEME}{repository}@{commit.oid}': the Hub holds another {path} than was sent "
                f"({there.get(path)}). Publish again; nothing was written into {ENTRY}."
            )
    return commit.oid


def _hashes(api: HfApi, repository: str, revision: str, files: dict[str, bytes]) -> dict[str, str]:
    """Returns the hash of each file that a commit holds: SHA-256 of large files, Git's of the others."""
    infos = api.get_paths_info(repository, list(files), revision=revision)
    found = [info for info in infos if isinstance(info, RepoFile)]
    return {info.path: info.lfs.sha256 if info.lfs else info.blob_id for info in found}


def _hash(content: bytes, like: str | None) -> str:
    """Returns the hash of a content, of the kind (told by its length) of another one."""
    if like is not None and len(like) == 64:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _explain(error: Exception) -> str:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 412:
        return "Somebody has published at the same moment. Look at what changed and publish again."
    if status in (401, 403):
        return "Its token may not write there: check the namespace, and log in with `hf auth login`."
    if status == 409:
        return "The tag exists already. Choose a new one: published models never change."
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')} Check the network and try again."
