"""`entry.json`: the one source of truth about a model of the zoo; cards and tables are generated from it."""

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, field_validator

from keras_robust.evaluation.metrics import Metric, Metrics, Record, explain
from keras_robust.files import write_atomically
from keras_robust.training.recipe import KernelType, Recipe, load_recipe

NAME = r"^[a-z0-9]+(_[a-z0-9]+)*\.[a-z0-9]+([_.][a-z0-9]+)*$"
"""Shape of a name, `architecture_dataset.tag`: no separators of paths, no leading dot, no '..'."""

WEIGHTS, PROBE, ENTRY, CARD, RECIPE = "model.weights.h5", "probe.npz", "entry.json", "card.md", "recipe.toml"
PROBE_IMAGES = 4


class Builder(Record):
    """What `models.build` needs to make the model."""

    builder: str
    num_classes: int = Field(ge=2)
    input_shape: tuple[int, int, int]
    arguments: dict[str, Any] = Field(default_factory=dict)


class File(Record):
    """A file of the entry, as it must be."""

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @classmethod
    def of(cls, path: Path, **fields: Any) -> Self:
        """Describes an existing file."""
        return cls(file=path.name, bytes=path.stat().st_size, sha256=sha256(path), **fields)


class Weights(File):
    """The weights file, and where it is published."""

    repository: str | None = Field(None, description="namespace/name on the Hub, once published.")
    revision: str | None = Field(None, pattern=r"^[0-9a-f]{40}$", description="Commit on the Hub; never a branch.")
    entry_sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 of that commit's entry.json, which vouches for all."
    )


class Training(Record):
    """How the weights came about."""

    recipe: str = RECIPE
    recipe_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    epochs: int = Field(ge=1)
    seed: int
    kernels: KernelType | None = Field(None, description="Type that the stored kernels are rounded to, if stated.")
    log: dict[str, Any] = Field(default_factory=dict, description="Software, device and seconds of the training.")


class Reported(Record):
    """A number that a paper states; never one that was measured here."""

    name: str
    value: float = Field(ge=0, le=1)
    source: str


class External(Record):
    """A robust accuracy that somebody else measured on these weights; lower ones are welcome."""

    name: str = Field(description="The attack, in words.")
    norm: Literal["Linf", "L2", "L1"]
    epsilon: float = Field(gt=0)
    value: float = Field(ge=0, le=1)
    images: int = Field(ge=1)
    who: str
    link: str


class Entry(Record):
    """One model of the zoo."""

    format: Literal[1] = 1
    name: str = Field(pattern=NAME)
    description: str
    dataset: str
    model: Builder
    parameters: int = Field(ge=1, description="Trainable parameters.")
    training: Training
    weights: Weights
    probe: File
    metrics: list[Metric] = Field(description="Numbers measured here.")
    reported: list[Reported] = Field(default_factory=list, description="Numbers that papers state.")
    external: list[External] = Field(default_factory=list, description="Numbers that others measured.")
    extra_data: str | None = Field(None, description="Training images from outside the data set; None if none.")
    limits: list[str] = Field(default_factory=list)
    licence: str = "Apache-2.0"
    references: list[str] = Field(default_factory=list)

    @field_validator("metrics")
    @classmethod
    def _has_a_clean_accuracy(cls, metrics: list[Metric]) -> list[Metric]:
        if sum(metric.kind == "clean" for metric in metrics) != 1:
            raise ValueError("an entry holds one clean accuracy; run `keras-robust evaluate --update-entry`")
        return metrics

    @property
    def threat_models(self) -> list[str]:
        """Norms and noises under which the entry was measured, such as 'L2' or 'gaussian_noise'."""
        threats = [m.norm if m.kind in ("attack", "worst_case") else m.kind for m in self.metrics]
        return sorted({threat for threat in threats if threat and threat != "clean"})

    def save(self, folder: str | Path) -> None:
        """Writes `entry.json` into a folder, in one piece."""
        write_atomically(Path(folder) / ENTRY, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "Entry":
        """Reads the `entry.json` of a folder.

        Raises:
            ValueError: If the file is absent or not a valid entry.
        """
        path = Path(folder) / ENTRY
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise ValueError(
                f"A zoo entry must have an {ENTRY}. Received: folder {folder} without one. "
                f"Make it with `keras-robust evaluate {folder} --update-entry` after training."
            ) from None
        except ValidationError as error:
            raise ValueError(f"`{path}` is not a valid zoo entry. Received: {explain(error)}.") from error


def json_schema() -> str:
    """Returns the JSON schema of `entry.json`."""
    return json.dumps(Entry.model_json_schema(), indent=2) + "\n"


def check_name(name: str) -> str:
    """Returns `name` if it can be the name of an entry and is safe as the name of a folder.

    Raises:
        ValueError: If it is not of the form `architecture_dataset.tag`.
    """
    if not isinstance(name, str) or len(name) > 100 or not re.fullmatch(NAME, name):
        raise ValueError(
            "The name of a zoo entry must look like 'kap_cnn_digits.noise_sigma0.1': architecture_dataset.tag in "
            f"small letters, digits, '_' and '.'. Received: {name!r}. For a folder, give a path with a '/'."
        )
    return name


def sha256(path: str | Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_probe(model: Any, x: np.ndarray) -> bytes:
    """Returns the content of `probe.npz`: a few images and the model's logits on them.

    Args:
        model: Keras model that returns logits.
        x: Images, shape `(images, height, width, channels)`, in [0, 1].

    Returns:
        Bytes of an NPZ archive of the float32 arrays `inputs` and `logits`.
    """
    import keras

    from keras_robust import backend

    x = np.asarray(x, "float32")
    with backend.full_precision():
        logits = keras.ops.convert_to_numpy(model(x, training=False)).astype("float32")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, inputs=x, logits=logits)
    return buffer.getvalue()


def make_entry(
    folder: str | Path,
    *,
    model: Any,
    images: np.ndarray,
    num_classes: int,
    metrics: Metrics | Sequence[Metric],
    log: dict[str, Any] | None = None,
) -> Entry:
    """Writes `entry.json`, `card.md` and `probe.npz` of a trained and evaluated folder.

    The folder holds `recipe.toml` and `model.weights.h5`. What people add to an entry by hand (`reported`,
    `external`, `extra_data`, `limits`) and where the same weights are published is kept from the `entry.json`
    that is there.

    Args:
        folder: Folder of the entry, of its name.
        model: The trained Keras model, which returns logits.
        images: Test images for the probe, shape `(images, height, width, channels)`, in [0, 1].
        num_classes: Number of classes.
        metrics: What was measured.
        log: What the training noted about itself.

    Returns:
        The entry.

    Raises:
        ValueError: If the recipe or the weights are absent, or a part of the entry is not valid.
    """
    from keras_robust.zoo.card import write_card

    folder = Path(folder)
    recipe = load_recipe(folder)
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"An entry must have {WEIGHTS}. Received: {folder} without it. Train it first.")
    kept = _kept_by_hand(folder)
    weights = Weights.of(folder / WEIGHTS)
    published = kept.pop("weights", None)
    if published is not None and published.sha256 == weights.sha256:
        weights = published
    probe = make_probe(model, images[:PROBE_IMAGES])
    entry = Entry(
        name=check_name(recipe.name),
        dataset=recipe.dataset.name,
        model=Builder(
            builder=recipe.model.builder,
            num_classes=num_classes,
            input_shape=images.shape[1:],
            arguments=recipe.model.arguments,
        ),
        parameters=sum(int(np.prod(variable.shape)) for variable in model.trainable_variables),
        training=_training(recipe, log or {}),
        weights=weights,
        probe=File(file=PROBE, bytes=len(probe), sha256=hashlib.sha256(probe).hexdigest()),
        metrics=metrics.metrics if isinstance(metrics, Metrics) else list(metrics),
        **_from_metadata(recipe),
        **kept,
    )
    # The files only now: the old entry would not load with another probe.
    write_atomically(folder / PROBE, probe)
    entry.save(folder)
    write_card(folder)
    return entry


def check_recipe(recipe: Recipe, log: Mapping[str, Any]) -> None:
    """Raises `ValueError` if weights come from another recipe than the one beside them.

    Args:
        recipe: The recipe beside the weights.
        log: What the training noted about itself; without a `recipe_digest` any recipe fits.
    """
    digest = recipe.digest()
    trained_by = log.get("recipe_digest", digest)
    if trained_by != digest:
        raise ValueError(
            f"The weights of {recipe.name} must come from the recipe beside them, digest {digest[:12]}. "
            f"Received: weights trained by a recipe of digest {trained_by[:12]}. Restore that recipe, or train "
            f"anew: `keras-robust train zoo/{recipe.name} --overwrite`."
        )


def _training(recipe: Recipe, log: Mapping[str, Any]) -> Training:
    check_recipe(recipe, log)
    noted = {name: value for name, value in log.items() if name != "recipe_digest"}
    training = recipe.training
    return Training(
        recipe_digest=recipe.digest(),
        epochs=training.epochs,
        seed=recipe.seed,
        kernels=training.weights,
        log=noted,
    )


def _from_metadata(recipe: Recipe) -> dict[str, Any]:
    if recipe.metadata is None:
        return {"description": recipe.name}
    return recipe.metadata.model_dump(include={"description", "licence", "references"})


def _kept_by_hand(folder: Path) -> dict[str, Any]:
    if not (folder / ENTRY).exists():
        return {}
    entry = Entry.load(folder)
    return {name: getattr(entry, name) for name in ("reported", "external", "extra_data", "limits", "weights")}
