"""Finds, verifies and loads the models of the zoo."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_robust.checks import check_choice
from keras_robust.evaluation.metrics import Environment
from keras_robust.zoo.entry import ENTRY, RECIPE, Entry, check_name, sha256

if TYPE_CHECKING:
    import keras

PROBE_TOLERANCE = 1e-4
"""Largest difference of a logit on a CPU, relative to the largest logit of the probe (at least 1): float32 sums of
a few thousand terms in another order differ by some 1e-6, another architecture by 1e-1."""

PROBE_TOLERANCE_ACCELERATOR = 2e-2
"""The same on an accelerator, where matrix products may round their inputs to 10 bits (TensorFloat-32)."""

_THREATS = ("Linf", "L2", "L1", "gaussian_noise", "uniform_noise", "certified", "corruption")
"""What `Entry.threat_models` may hold."""


def roots() -> list[Path]:
    """Returns the folders that hold entries: `zoo/` of the checkout, then the data of the installed wheel."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "zoo"
    # site-packages/zoo of somebody else is not ours: a checkout has the project file beside it.
    places = [checkout] if (package.parent / "pyproject.toml").is_file() else []
    return [place for place in (*places, package / "zoo_data") if place.is_dir()]


def folders(file: str = ENTRY) -> dict[str, Path]:
    """Returns the folder of every entry that has the given file, by name."""
    found: dict[str, Path] = {}
    for root in roots():
        for path in sorted(root.glob(f"*/{file}")):
            found.setdefault(path.parent.name, path.parent)
    return dict(sorted(found.items()))


def find(name_or_folder: str | Path, file: str = ENTRY) -> Path:
    """Returns the folder of an entry.

    Args:
        name_or_folder: Name of an entry, or path of a folder: a `Path`, or text with a '/' in it.
        file: File that the folder must have: `entry.json`, or `recipe.toml` before training.

    Returns:
        The folder.

    Raises:
        ValueError: If there is no such entry; close names are suggested.
    """
    text = str(name_or_folder)
    if text.startswith("hf://"):
        raise ValueError(
            f"Here the name or the folder of an entry is expected. Received: {text!r}. `zoo.load` takes "
            "addresses on the Hub; `keras-robust download` puts their folder into the cache."
        )
    if isinstance(name_or_folder, Path) or "/" in text or "\\" in text:
        folder = Path(name_or_folder)
        if not folder.is_dir():
            raise ValueError(f"The path of an entry must be a folder. Received: {text!r}, which is absent.")
        return folder
    known = folders(file)
    if check_name(text) in known:
        return known[text]
    if file == ENTRY and text in (recipes := folders(RECIPE)):
        raise ValueError(
            f"Zoo entry {text!r} has a recipe and no weights yet. Train and measure it: "
            f"keras-robust train {recipes[text]}; keras-robust evaluate {recipes[text]} --update-entry"
        )
    close = difflib.get_close_matches(text, known, n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else f"Entries: {', '.join(known) or 'none'}."
    raise ValueError(f"There is no zoo entry {text!r}. {hint} `keras-robust list` shows all.")


def list_entries(
    *, dataset: str | None = None, threat: str | None = None, backend: str | None = None
) -> list[Entry]:
    """Returns the entries of the zoo, by name; builds no model.

    Args:
        dataset: Only entries trained on that data set.
        threat: Only entries measured under that norm ('Linf', 'L2', 'L1'), noise ('gaussian_noise',
            'uniform_noise'), with certificates ('certified') or under corruptions ('corruption').
        backend: Only entries with a number measured on that backend; every entry loads on all three.

    Returns:
        The entries that pass every filter.

    Raises:
        ValueError: If an `entry.json` is not valid, or its folder has another name; or if there is no such threat
            or backend.
    """
    if threat is not None:
        threat = {known.lower(): known for known in _THREATS}.get(threat.lower(), threat)
        check_choice("threat", threat, _THREATS)
    check_choice("backend", backend, (None, "jax", "tensorflow", "torch"))
    entries = []
    for name, folder in folders().items():
        entry = Entry.load(folder)
        if entry.name != name:
            raise ValueError(
                f"The folder of a zoo entry must have its name. Received: {folder} with the entry '{entry.name}'. "
                f"Rename the folder to {entry.name}, or move it out of the zoo."
            )
        entries.append(entry)
    return [
        entry
        for entry in entries
        if (dataset is None or entry.dataset == dataset)
        and (threat is None or threat in entry.threat_models)
        and (backend is None or backend in {metric.environment.backend for metric in entry.metrics})
    ]


def load(
    source: str | Path,
    *,
    verify: bool = True,
    sha256: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    endpoint: str | None = None,
    token: bool | str = False,
) -> "keras.Model":
    """Loads a model of the zoo with its weights, from the checkout, the installation, the cache or the Hub.

    The weights are used only if their SHA-256 is the one in `entry.json`; they are read from HDF5, never from a
    pickle, into a model that this package builds. The logits on the images of `probe.npz` must then match.

    Args:
        source: Name of an entry; path of a folder: a `Path`, or text with a '/' in it; or
            'hf://namespace/name@revision', where a full commit is the revision to prefer.
        verify: Whether to check the logits of the probe. The SHA-256 is always checked.
        sha256: For an address on the Hub: SHA-256 of its `entry.json`, from a place that you trust; or of
            `model.weights.h5`, which leaves the rest, such as builder and probe, to the first download. None
            trusts the first download of the address, and refuses if it changes later.
        cache_dir: Folder of downloads; None for `keras_robust` in the Hub client's folder (`HF_HOME`).
        local_files_only: Whether to make no request.
        endpoint: Address of the Hub; None for the public one.
        token: False sends none, True the stored one; or the token itself.

    Returns:
        Keras model that maps pixels in [0, 1] to logits, on the backend that Keras runs on.

    Raises:
        ValueError: If there is no such entry, its weights cannot be had or are not the stated ones, or the probe
            fails.
    """
    from keras_robust import models
    from keras_robust.models.policy import dtype_policy
    from keras_robust.zoo import hub

    access = hub.Access(cache_dir, endpoint, token, local_files_only)
    if str(source).startswith(hub.SCHEME):
        folder = hub.fetch_entry(str(source), access, sha256=sha256)
    elif sha256 is None:
        folder = find(source)
    else:
        raise ValueError(
            f"`sha256` belongs to an address on the Hub; the entry.json of an installed entry holds its own. "
            f"Received: {str(source)!r}. Leave `sha256` out."
        )
    entry = Entry.load(folder)
    if (folder / entry.weights.file).is_file() or entry.weights.revision is None:
        weights = check_file(entry, folder, entry.weights)
    else:
        weights = hub.fetch_weights(entry, access)
    with dtype_policy("float32"):  # as the entries were measured
        model = models.build(
            entry.model.builder,
            num_classes=entry.model.num_classes,
            input_shape=entry.model.input_shape,
            **entry.model.arguments,
        )
    load_weights(model, weights, entry.name)
    if verify:
        check_probe(entry, folder, model)
    return model


def check_file(entry: Entry, folder: Path, expected: Any) -> Path:
    """Returns the path of a file of an entry after making sure that its content is the stated one.

    Raises:
        ValueError: If the file is absent or another one.
    """
    path = folder / expected.file
    if not path.is_file():
        raise ValueError(
            f"Zoo entry '{entry.name}': {expected.file} ({expected.bytes / 1e6:.1f} MB) is not in {folder}. "
            f"Get it by training, `keras-robust train {folder}`, or copy in the file of SHA-256 {expected.sha256}."
        )
    received = sha256(path)
    if received != expected.sha256:
        raise ValueError(
            f"Zoo entry '{entry.name}': SHA-256 of {expected.file} is {received}, expected {expected.sha256}. "
            "Delete the file and get it again; if it repeats, report it. If you trained it anew, run "
            "`keras-robust evaluate` with --update-entry."
        )
    return path


def load_weights(model: "keras.Model", path: Path, name: str) -> None:
    """Reads a weights file into a model.

    Raises:
        ValueError: If the file does not fit the model.
    """
    try:
        model.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(
            f"Zoo entry '{name}': {path.name} does not fit the model that the entry builds: "
            f"{_reason(error)} Compare the model's arguments with those of the training."
        ) from error


def _reason(error: Exception) -> str:
    """What Keras says of the first layer that does not fit, or the first line of its message."""
    paragraphs = str(error).split("\n\n")
    return paragraphs[1] if paragraphs[0].startswith("A total of") else paragraphs[0].splitlines()[0]


def check_probe(entry: Entry, folder: Path, model: "keras.Model") -> None:
    """Raises `ValueError` unless the model gives the logits of `probe.npz`."""
    import keras

    path = check_file(entry, folder, entry.probe)
    with np.load(path, allow_pickle=False) as archive:
        inputs, expected = archive["inputs"], archive["logits"]
    received = keras.ops.convert_to_numpy(model(inputs, training=False)).astype("float32")
    here = Environment.here()
    tolerance = PROBE_TOLERANCE if here.device.lower().startswith("cpu") else PROBE_TOLERANCE_ACCELERATOR
    limit = tolerance * max(1.0, float(np.abs(expected).max()))
    fits = received.shape == expected.shape
    difference = float(np.abs(received - expected).max()) if fits else float("inf")
    if not difference <= limit:
        raise ValueError(
            f"Zoo entry '{entry.name}': logits on the images of {entry.probe.file} differ by {difference:.3g}, at "
            f"most {limit:.3g} expected ({here.backend} {here.backend_version}, {here.device}). The model that "
            "was built is not the one that was trained; report it. verify=False loads it all the same."
        )


def citation(name_or_folder: str | Path) -> str:
    """Returns what to cite for an entry: BibTeX of the model and the papers behind it."""
    entry = Entry.load(find(name_or_folder))
    lines = [f"% {reference}" for reference in entry.references]
    key = entry.name.replace(".", "_").replace("-", "_")
    return "\n".join(
        [
            *(["% Papers behind this model; cite them:"] if lines else []),
            *lines,
            f"@misc{{{key},",
            "  title = {{" + entry.name + "}: " + entry.description.split(". ")[0].rstrip(".") + "},",
            "  author = {{The keras_robust authors}},",
            f"  note = {{Weights SHA-256 {entry.weights.sha256}}},",
            "}",
        ]
    )
