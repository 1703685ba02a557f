"""What the scripts of tables and figures share: their options, and where their results go."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_robust.evaluation.metrics import Environment
from keras_robust.files import write_atomically


def study_parser(description: str, output: str) -> argparse.ArgumentParser:
    """Returns a parser of the options that every table and figure has.

    Args:
        description: Docstring of the script; its first lines say what the small setting is.
        output: Default of `--output`.

    Returns:
        The parser, to which a script may add its own options.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=("small", "paper"), default="small")
    parser.add_argument("--epochs", type=int, help="epochs of each training, instead of the setting's")
    parser.add_argument("--trials", type=int, default=1, help="trainings of each row, seeds 0, 1, ...")
    parser.add_argument("--images", type=int, help="test images under AutoAttack, instead of the setting's")
    parser.add_argument(
        "--all-images", action="store_true", help="train on all training images, in the small setting too"
    )
    parser.add_argument("--output", type=Path, default=Path(output))
    parser.add_argument("--data-dir", help="folder of TensorFlow Datasets; else TFDS_DATA_DIR")
    return parser


def write_results(results: Mapping[str, Any], path: str | Path, *, columns: Sequence[str] | None = None) -> None:
    """Writes a study's results as JSON and prints them as a table beside the paper's numbers.

    Args:
        results: What `run_study` returned.
        path: File to write.
        columns: Names of the numbers to print, in order; None for all.
    """
    from rich.console import Console

    from keras_robust.experiments.study import study_table

    write_atomically(path, json.dumps(results, indent=1) + "\n")
    Console(width=None if columns else 400).print(study_table(results, columns=columns))
    print(f"Results: {path}")


def provenance(results: Mapping[str, Any]) -> str:
    """Returns the part of a figure's title that says which data set, trainings, seeds and code are behind it."""
    rows = results["rows"]
    recipe = rows[0]["recipe"]
    environments = [Environment.model_validate(each) for row in rows for each in row["environments"]]
    commits = ", ".join(sorted({each.short_commit for each in environments}))
    data = recipe["dataset"]
    images = f"{data['images']:,} training images, " if data.get("images") else ""
    seeds = ", ".join(sorted({str(seed) for row in rows for seed in row["seeds"]}))
    return (
        f"{data['name']}, {images}{recipe['training']['epochs']} epochs, training seed {seeds}, "
        f"code {commits}, {environments[0].backend}"
    )
