"""Rows of a table, each a recipe: trained, measured, and gathered beside the paper's numbers."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_robust import pipeline
from keras_robust.checks import check_positive_integer
from keras_robust.evaluation.metrics import Environment
from keras_robust.files import write_atomically
from keras_robust.training.recipe import Recipe, parse_recipe
from keras_robust.zoo.registry import load_weights

Measure = Callable[[keras.Model, Recipe, Path], Mapping[str, float]]
"""From a trained model, its recipe and a folder for its files to numbers by name, as fractions."""

RESULT = "result.json"


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table, or one point of a figure.

    Args:
        name: Name for the table and the row's folder: letters, digits, `.`, `_`, `-`.
        recipe: What is trained.
        paper: The paper's numbers by the names that the measure gives, as fractions.
        point: Where the row stands in a figure, such as `{"sigma": 0.1}`.
        folder: Folder of a training of that recipe that is there already, as a zoo entry's.
        shared: Folder of trainings that studies share, each under the digest of its recipe; a recipe that one of
            them has trained is not trained again.
    """

    name: str
    recipe: Recipe
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    point: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    folder: Path | None = None
    shared: Path | None = None

    def __post_init__(self):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(
                "`name` of a row must be letters, digits, '.', '_' and '-', as it names a folder. "
                f"Received: name={self.name!r}."
            )


def change(recipe: Recipe, name: str, changes: Mapping[str, Any]) -> Recipe:
    """Returns a recipe with some keys set anew, checked.

    Args:
        recipe: Where to begin.
        name: Name of the new recipe, `architecture_dataset.tag`.
        changes: New values by dotted key, such as `{"model.arguments.sigma": 0.2}`; `training.epochs` moves the
            milestones to the same share of it, as `pipeline.with_epochs`.

    Returns:
        The new recipe.

    Raises:
        ValueError: If a key or a value is not valid.
    """
    changes = dict(changes)
    epochs = changes.pop("training.epochs", None)
    if epochs is not None:
        recipe = pipeline.with_epochs(recipe, epochs)
    content = recipe.model_dump() | {"name": name}
    for key, value in changes.items():
        *tables, last = key.split(".")
        table = content
        for each in tables:
            if table.get(each) is None:
                table[each] = {}
            table = table[each]
            if not isinstance(table, dict):
                raise ValueError(
                    f"A dotted key must lead through tables of a recipe. Received: {key!r}, where {each!r} is "
                    f"{table!r}. Set {each!r} itself."
                )
        table[last] = value
    return parse_recipe(content, source=name)


def run_study(
    rows: Sequence[Row],
    measure: Measure,
    *,
    title: str,
    setting: Mapping[str, Any],
    output: str | Path,
    trials: int = 1,
    data_dir: str | Path | None = None,
    show: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains and measures every row, one after the other, and writes `results.json`.

    Weights, state and numbers of each trial lie in `output/<row>/trial<k>`; a study that was killed goes on in the
    middle of a training, and takes what is finished as it is. Trial k has the recipe's seed plus k.

    Args:
        rows: What to train.
        measure: What is asked of each trained model.
        title: What this is, with the paper's table or figure.
        setting: Everything else that decides the numbers (images, attacks, seed), as JSON; a folder that holds
            results of another setting is refused.
        output: Folder of the study.
        trials: Trainings of each row.
        data_dir: Folder of TensorFlow Datasets.
        show: Called with a line about what has been done.

    Returns:
        What was written to `output/results.json`: for each row the mean, the sample deviation and every trial of
        each number, beside the paper's.

    Raises:
        ValueError: If two rows share a name, or a finished trial answers another question.
    """
    check_positive_integer("trials", trials)
    names = [row.name for row in rows]
    if len(set(names)) != len(names):
        raise ValueError(f"Rows of a study must have names of their own. Received: {', '.join(names)}.")
    output = Path(output)
    setting = json.loads(json.dumps(setting))
    table = []
    for row in rows:
        found = []
        for trial in range(trials if row.folder is None else 1):
            found.append(_trial(row, trial, measure, setting, output, data_dir))
            numbers = ", ".join(f"{key} {100 * value:.1f}" for key, value in found[-1]["values"].items())
            show(f"{row.name}, trial {trial + 1} of {trials}: {numbers}")
        table.append(_summary(row, found))
    results = {"title": title, "setting": setting, "trials": trials, "rows": table}
    write_atomically(output / "results.json", json.dumps(results, indent=1) + "\n")
    return results


def study_table(results: Mapping[str, Any], *, columns: Sequence[str] | None = None) -> Any:
    """Returns a `rich.table.Table` of the numbers in per cent, with the paper's in brackets.

    Args:
        results: What `run_study` returned or wrote.
        columns: Names of the numbers to show, in order; None for all.

    Returns:
        The table.
    """
    from rich.table import Table

    rows = results["rows"]
    columns = columns or list(dict.fromkeys(name for row in rows for name in row["values"] | row["paper"]))
    table = Table(title=results["title"], caption="in %, the paper's number in brackets")
    table.add_column("row")
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row["name"], *(_cell(row, name) for name in columns))
    return table


def markdown_table(results: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """Returns the lines of `study_table` in Markdown.

    Args:
        results: What `run_study` returned or wrote.
        columns: Names of the numbers to show, in order.

    Returns:
        Lines of a Markdown table.
    """
    lines = [f"| row | {' | '.join(columns)} |", "|---" + "|---:" * len(columns) + "|"]
    return lines + [
        f"| {' | '.join([row['name'], *(_cell(row, name) for name in columns)])} |" for row in results["rows"]
    ]


def _cell(row: Mapping[str, Any], name: str) -> str:
    text = ""
    if name in row["values"]:
        number = row["values"][name]
        text = f"{100 * number['mean']:.1f}"
        if len(number["trials"]) > 1:
            text += f" ± {100 * number['deviation']:.1f}"
    if name in row["paper"]:
        text += f" ({100 * row['paper'][name]:.1f})"
    return text.strip()


def _trial(
    row: Row, trial: int, measure: Measure, setting: Any, output: Path, data_dir: str | Path | None
) -> dict[str, Any]:
    folder = output / row.name / f"trial{trial}"
    seed = row.recipe.seed + trial
    recipe = parse_recipe(row.recipe.model_dump() | {"seed": seed}, source=row.name)
    question = {"recipe_digest": recipe.digest(), "setting": setting}
    if (folder / RESULT).is_file():
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        for key, value in question.items():
            if result.get(key) != value:
                raise ValueError(
                    f"{folder / RESULT} must answer this study's question. Received: another {key}, "
                    f"{result.get(key)!r} instead of {value!r}. Give another output folder, or remove it."
                )
        return result
    model = _trained(row, recipe, folder, data_dir)
    values = {key: float(value) for key, value in measure(model, recipe, folder).items()}
    result = question | {
        "seed": seed,
        "values": values,
        "parameters": int(model.count_params()),
        "environment": Environment.here().model_dump(),
    }
    write_atomically(folder / RESULT, json.dumps(result, indent=1) + "\n")
    return result


def _trained(row: Row, recipe: Recipe, folder: Path, data_dir: str | Path | None) -> keras.Model:
    if row.shared is not None:
        folder = row.shared / recipe.digest()[:16]
    weights = (row.folder or folder) / pipeline.WEIGHTS
    if not weights.is_file():
        return pipeline.train(recipe, data_dir=data_dir, output_dir=folder)
    log = weights.parent / pipeline.LOG
    trained = json.loads(log.read_text(encoding="utf-8"))["recipe_digest"] if log.is_file() else recipe.digest()
    if trained != recipe.digest():
        raise ValueError(
            f"The weights in {weights.parent} must come from this row's recipe, {recipe.name}. Received: "
            f"recipe_digest {trained} instead of {recipe.digest()}. Give the epochs and options of that training, "
            "or leave it out."
        )
    model = pipeline.build_model(recipe)
    load_weights(model, weights, row.name)
    return model


def _summary(row: Row, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    values = {}
    for key in found[0]["values"]:
        each = [trial["values"][key] for trial in found]
        deviation = float(np.std(each, ddof=1)) if len(each) > 1 else None
        values[key] = {"mean": float(np.mean(each)), "deviation": deviation, "trials": each}
    return {
        "name": row.name,
        "point": dict(row.point),
        "values": values,
        "paper": dict(row.paper),
        "parameters": found[0]["parameters"],
        "recipe": row.recipe.model_dump(exclude_defaults=True, exclude={"evaluation", "metadata"}),
        "seeds": [trial["seed"] for trial in found],
        "environments": [trial["environment"] for trial in found],
    }
