"""Recipes: the one input of a training, a TOML file whose every key is checked before any work starts.

To add a part that a recipe may name (an objective, a term, a weight perturbation), write its table as a `_Table`
with a `type`, and add the field to `Recipe`. Defaults never change: digests leave them out, so that a new
option keeps the digest of every older recipe.
"""

import difflib
import hashlib
import json
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

_NOT_TRAINING = {"name", "evaluation", "metadata"}


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DatasetTable(_Table):
    """Which images; `validation_fraction` of the training images is held out."""

    name: str
    validation_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)


class ModelTable(_Table):
    """Builder of `keras_robust.models` and its arguments."""

    builder: str
    arguments: dict[str, Any] = {}


class TrainingTable(_Table):
    """Length of the training."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)


class OptimizerTable(_Table):
    """Optimizer in PyTorch's meaning; `weight_decay` is added to the gradient of every parameter."""

    name: Literal["sgd", "adam"]
    learning_rate: float = Field(gt=0.0)
    momentum: float = Field(default=0.0, ge=0.0, lt=1.0)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0.0)

    @model_validator(mode="after")
    def _momentum_belongs_to_sgd(self):
        if self.name == "adam" and (self.momentum or self.nesterov):
            raise ValueError("`momentum` and `nesterov` belong to the optimizer 'sgd'; remove them")
        if self.nesterov and not self.momentum:
            raise ValueError("`nesterov` needs a positive `momentum`")
        return self


class ScheduleTable(_Table):
    """Learning rate over epochs: constant, piecewise (times `factor` at each milestone), cosine or cyclic.

    `cyclic` rises linearly from 0 to the learning rate at `peak` (a fraction of the epochs) and falls back to 0.
    """

    type: Literal["constant", "piecewise", "cosine", "cyclic"] = "constant"
    milestones: list[int] = []
    factor: float = Field(default=0.1, gt=0.0, lt=1.0)
    peak: float = Field(default=0.5, gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _milestones_belong_to_piecewise(self):
        if (self.type == "piecewise") != bool(self.milestones):
            raise ValueError("`milestones` (epochs) must be given for the type 'piecewise', and only for it")
        if sorted(set(self.milestones)) != self.milestones or (self.milestones and self.milestones[0] < 1):
            raise ValueError("`milestones` must be positive and rise")
        return self


class AugmentationTable(_Table):
    """Random crop after zero padding by `random_crop` pixels, and random horizontal flip."""

    random_crop: int = Field(default=0, ge=0)
    horizontal_flip: bool = False


class GaussianNoiseTable(_Table):
    """Gaussian noise on the input, for models that hold no noise layer of their own."""

    type: Literal["gaussian_noise"]
    sigma: float = Field(gt=0.0)


class AttackTable(_Table):
    """One attack of the evaluation, at one epsilon or several; options left out keep their defaults."""

    name: Literal["fgsm", "pgd", "apgd", "fab", "square", "autoattack"]
    norm: Literal["Linf", "L2", "L1"]
    epsilon: float | list[float]
    steps: int | None = Field(default=None, ge=1)
    step_size: float | None = Field(default=None, gt=0.0)
    restarts: int | None = Field(default=None, ge=1)
    random_start: bool | None = None
    loss: str | None = None
    targets: int | None = Field(default=None, ge=1)
    queries: int | None = Field(default=None, ge=1)
    eot: int | None = Field(default=None, ge=1)
    version: Literal["standard", "plus", "rand"] | None = None


class NoiseTable(_Table):
    """Accuracy under noise at several levels: sigma of Gaussian noise, the upper bound of uniform noise."""

    type: Literal["gaussian", "uniform"]
    levels: list[float]


class EvaluationTable(_Table):
    """What `keras-robust evaluate` does where the command line does not say otherwise."""

    images: int = Field(default=1000, ge=1)
    stages_alone: int = Field(default=0, ge=0)  # first images on which each attack of AutoAttack runs alone too
    attacks: list[AttackTable] = []
    noise: list[NoiseTable] = []


class MetadataTable(_Table):
    """What the model card says."""

    description: str
    licence: str = "Apache-2.0"
    references: list[str] = []


class Recipe(_Table):
    """Everything that decides a training, and the evaluation that goes with it."""

    name: str = Field(pattern=r"^[a-z0-9_]+\.[a-z0-9_.]+$")
    seed: int = Field(default=0, ge=0)
    dataset: DatasetTable
    model: ModelTable
    training: TrainingTable
    optimizer: OptimizerTable
    schedule: ScheduleTable = ScheduleTable()
    augmentation: AugmentationTable = AugmentationTable()
    perturbations: list[GaussianNoiseTable] = []
    evaluation: EvaluationTable = EvaluationTable()
    metadata: MetadataTable | None = None

    @model_validator(mode="after")
    def _schedule_fits_training(self):
        if self.schedule.milestones and self.schedule.milestones[-1] >= self.training.epochs:
            raise ValueError(
                f"`schedule.milestones` must be smaller than `training.epochs`, {self.training.epochs}: "
                "a later one is never reached"
            )
        return self

    def digest(self) -> str:
        """Returns the SHA-256 of all that decides the weights: name, evaluation and metadata are left out."""
        content = self.model_dump(mode="json", exclude=_NOT_TRAINING, exclude_defaults=True)
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def load_recipe(path: str | Path) -> Recipe:
    """Reads and checks a recipe.

    Args:
        path: A TOML file, or a folder that holds `recipe.toml`.

    Returns:
        The recipe.

    Raises:
        ValueError: If there is no such file, it is not TOML, or a key is unknown, missing or of a wrong value;
            the message names the file, each key and what was received.
    """
    path = Path(path)
    path = path / "recipe.toml" if path.is_dir() else path
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"A recipe must be a TOML file or a folder with recipe.toml. Received: {path}, which is absent."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"Recipe {path} is not valid TOML: {error}.") from None
    return parse_recipe(content, source=str(path))


def parse_recipe(content: dict[str, Any], source: str = "<dict>") -> Recipe:
    """Checks a recipe that is already a dictionary.

    Args:
        content: Tables of the recipe.
        source: Name of the recipe, for messages.

    Returns:
        The recipe.

    Raises:
        ValueError: As `load_recipe`.
    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        lines = list({_key(item): _explain(item) for item in error.errors()}.values())
        raise ValueError(f"Recipe {source} is not valid:\n  " + "\n  ".join(lines)) from None


def _location(item: Any) -> list[Any]:
    return [part for part in item["loc"] if part not in ("float", "list[float]")]


def _key(item: Any) -> str:
    return ".".join(str(part) for part in _location(item)) or "recipe"


def _explain(item: Any) -> str:
    """One line for one pydantic error: key, what is wrong, what was received."""
    location, key = _location(item), _key(item)
    received = repr(item["input"])
    received = received if len(received) <= 80 else received[:77] + "..."
    if item["type"] == "extra_forbidden":
        known = _keys_at(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=2, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else f"Known keys: {', '.join(known)}."
        return f"unknown key `{key}`. Received: {received}. {hint}"
    if item["type"] == "missing":
        return f"`{key}` is missing. Add it."
    message = item["msg"].removeprefix("Value error, ").replace("valid dictionary or instance of", "table like")
    if "list[float]" in item["loc"]:
        message = "Input should be a number or a list of numbers"
    return f"`{key}`: {message}. Received: {received}."


def _keys_at(location: list[Any]) -> list[str]:
    """Names of the keys that the table at that place of a recipe may have."""
    table: Any = Recipe
    for part in location:
        if isinstance(part, int):
            continue
        annotation = table.model_fields[part].annotation
        while not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            inner = [each for each in typing.get_args(annotation) if each is not types.NoneType]
            annotation = inner[0]
        table = annotation
    return list(table.model_fields)
