"""Recipes: the one input of a training, a TOML file whose every key is checked before any work starts.

To add a part that a recipe may name (an objective, a term, a weight perturbation), write its table in `tables.py`,
with a `type`, and add the field to `Recipe`. Defaults never change: digests leave them out, so that a new
option keeps the digest of every older recipe.
"""

import difflib
import hashlib
import json
import tomllib
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from keras_robust.training.tables import (
    AugmentationTable,
    AWPTable,
    DatasetTable,
    EarlyStoppingTable,
    EvaluationTable,
    ExtraDataTable,
    MetadataTable,
    ModelTable,
    ObjectiveTable,
    OptimizerTable,
    PerturbationTable,
    PhaseTable,
    ScheduleTable,
    Table,
    TrainingTable,
    WeakSubnetsTable,
)
from keras_robust.training.tables import KernelType as KernelType

_NOT_TRAINING = {"name", "evaluation", "metadata"}


class Recipe(Table):
    """Everything that decides a training, and the evaluation that goes with it."""

    name: str = Field(pattern=r"^[a-z0-9_]+\.[a-z0-9_.]+$")
    seed: int = Field(default=0, ge=0)
    dataset: DatasetTable
    model: ModelTable
    training: TrainingTable
    optimizer: OptimizerTable
    schedule: ScheduleTable = ScheduleTable()
    phases: list[PhaseTable] = Field(default_factory=list)
    augmentation: AugmentationTable = AugmentationTable()
    perturbations: list[PerturbationTable] = Field(default_factory=list)
    objective: ObjectiveTable | None = None
    weight_perturbation: AWPTable | None = None
    weak_subnets: WeakSubnetsTable | None = None
    extra_data: ExtraDataTable | None = None
    early_stopping: EarlyStoppingTable | None = None
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

    @model_validator(mode="after")
    def _phases_fit(self):
        if not self.phases:
            return self
        if sum(phase.epochs for phase in self.phases) != self.training.epochs:
            raise ValueError(f"the epochs of `phases` must sum up to `training.epochs`, {self.training.epochs}")
        if any(phase.image_size for phase in self.phases) and not self.augmentation.random_resized_crop:
            raise ValueError(
                "`phases.image_size` needs `augmentation.random_resized_crop`, whose size it replaces"
            )
        free = [table.type for table in self.perturbations if table.type == "free_adversarial"]
        others = [name for name in ("extra_data", "early_stopping") if getattr(self, name) is not None] + free
        if self.schedule.type != "constant":
            others.append(f"schedule.type = {self.schedule.type!r}")
        if others:
            raise ValueError(f"`phases` cannot go with `{others[0]}`; remove one of them")
        return self

    @model_validator(mode="after")
    def _adversarial_parts_fit(self):
        searches = [table.type for table in self.perturbations if table.type != "gaussian_noise"]
        if self.objective is not None and self.objective.type == "trades":
            searches.insert(0, "trades")
        if len(searches) > 1:
            raise ValueError(
                f"adversarial examples must be made in one place, not in {' and '.join(map(repr, searches))}: "
                "keep one of them (the objective 'trades' makes its own)"
            )
        if self.weight_perturbation and self.weight_perturbation.warmup_epochs >= self.training.epochs:
            raise ValueError(
                f"`weight_perturbation.warmup_epochs` must be smaller than `training.epochs`, "
                f"{self.training.epochs}: otherwise it never acts"
            )
        if self.early_stopping is not None and not self.dataset.validation_fraction:
            raise ValueError(
                "`early_stopping` needs a positive `dataset.validation_fraction`: it must not choose by the test "
                "images"
            )
        return self

    @model_validator(mode="after")
    def _views_are_made(self):
        if self.has_views() and self.augmentation.augmix is None:
            raise ValueError(
                "the objective 'jensen_shannon' compares views that AugMix makes: add the table "
                "[augmentation.augmix]"
            )
        return self

    def has_views(self) -> bool:
        """Tells whether a batch holds several views of each image."""
        return self.objective is not None and self.objective.type == "jensen_shannon"

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
    """Keys from the top to the error, without the names of types that pydantic adds."""
    tables: list[type[BaseModel]] = [Recipe]
    location: list[Any] = []
    for part in item["loc"]:
        if part in ("float", "list[float]") or part in map(_type, tables):
            tables = [table for table in tables if _type(table) in (None, part)]
            continue
        location.append(part)
        tables = tables if isinstance(part, int) else _tables_at(tables, part)
    return location


def _key(item: Any) -> str:
    return ".".join(str(part) for part in _location(item)) or "recipe"


def _explain(item: Any) -> str:
    """One line for one pydantic error: key, what is wrong, what was received."""
    location, key = _location(item), _key(item)
    received = repr(item["input"])
    received = received if len(received) <= 80 else received[:77] + "..."
    if item["type"] == "extra_forbidden":
        known = _keys_beside(item)
        close = difflib.get_close_matches(str(location[-1]), known, n=2, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else f"Known keys: {', '.join(known)}."
        return f"unknown key `{key}`. Received: {received}. {hint}"
    if item["type"] == "missing":
        return f"`{key}` is missing. Add it."
    if item["type"] == "union_tag_not_found":
        return f"`{key}.type` is missing. Add it."
    if item["type"] == "union_tag_invalid":
        context = item["ctx"]
        return f"`{key}.type` should be one of {context['expected_tags']}. Received: {context['tag']!r}."
    message = item["msg"].removeprefix("Value error, ").replace("valid dictionary or instance of", "table like")
    if "list[float]" in item["loc"]:
        message = "Input should be a number or a list of numbers"
    return f"`{key}`: {message}. Received: {received}."


def _keys_beside(item: Any) -> list[str]:
    """Names of the keys that the table of an unknown key may have."""
    tables: list[type[BaseModel]] = [Recipe]
    for part in item["loc"][:-1]:
        tagged = [table for table in tables if _type(table) == part]
        if tagged:
            tables = tagged
        elif not isinstance(part, int):
            tables = _tables_at(tables, part)
    return list(tables[0].model_fields)


def _type(table: type[BaseModel]) -> str | None:
    """The fixed `type` of a table that a recipe chooses among others; None for other tables."""
    field = table.model_fields.get("type")
    values = typing.get_args(field.annotation) if field is not None else ()
    return values[0] if len(values) == 1 else None


def _tables_at(tables: list[type[BaseModel]], key: str) -> list[type[BaseModel]]:
    """Tables that the value of a key may be."""
    fields = [table.model_fields[key] for table in tables if key in table.model_fields]
    return [found for field in fields for found in _tables_in(field.annotation)]


def _tables_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for inner in typing.get_args(annotation) for table in _tables_in(inner)]
