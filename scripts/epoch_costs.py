"""Measures what an epoch costs of each large network whose training by the paper is longer than the zoo's.

    KERAS_BACKEND=torch python scripts/epoch_costs.py --output epoch_costs.json
    KERAS_BACKEND=torch python scripts/epoch_costs.py resnet18_cifar10.standard preact_resnet18_cifar10.at_ews

Each network is trained by the recipe of its paper on the first --images training images, for two epochs; the
second one, without compilation, is multiplied up to the whole training set. The held-out images on which an
adversarial training chooses its epoch are left out: 1,000 of them, attacked by PGD-20 after each epoch of 49,000.
Networks that the output has already are not timed again, though their command and epochs are made up to date;
those that the zoo has by now in the paper's length are dropped from it. The table stands beside the output, as
Markdown.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from keras_robust import pipeline
from keras_robust.evaluation.metrics import Environment
from keras_robust.experiments import ews, weight_map
from keras_robust.experiments.study import change
from keras_robust.files import write_atomically
from keras_robust.training.recipe import Recipe, load_recipe
from keras_robust.zoo.entry import Entry
from keras_robust.zoo.registry import folders

KAP = (
    "resnet18_cifar10.standard",
    "resnet18_cifar10.noise_sigma0.1",
    "resnet18_kap_cifar10.noise_sigma0.1",
    "resnet18_kap_cifar10.noise_sigma0.2",
    "resnet18_cifar10.at_es_l2_1.0",
    "resnet18_cifar10.trades_l2_1.0",
)


def networks() -> Iterator[tuple[str, str, Recipe]]:
    """Yields name, command and recipe of each large network that the zoo has in a shorter training, or lacks."""
    return (network for network in large_networks() if epochs_in_zoo(network[0]) < network[2].training.epochs)


def large_networks() -> Iterator[tuple[str, str, Recipe]]:
    """Yields name, command and recipe by the paper of each large network that the zoo should have."""
    for name in KAP:
        folder = f"scripts/recipes/kap/{name}"
        yield name, f"keras-robust train {folder}", load_recipe(folder)
    for method in ("vanilla", "ews"):
        recipe = ews.adversarial_network(ews.SETTINGS["paper"], "at", method, builder="preact_resnet18")
        yield recipe.name, f"python scripts/ews/table_4.py --setting paper --rows at_{method}", recipe
    for number in (5, 6):
        for row in weight_map.table(number, "paper"):
            command = f"python scripts/weight_map/tables.py {number} --setting paper --rows {row.name}"
            yield row.recipe.name, command, row.recipe


def epochs_in_zoo(name: str) -> int:
    """Returns the epochs of the zoo's entry or of `<name>_<n>_epochs`, the longer one; 0 where there is none."""
    same = re.compile(rf"{re.escape(name)}(_\d+_epochs)?")
    found = (folder for entry, folder in folders().items() if same.fullmatch(entry))
    return max((Entry.load(folder).training.epochs for folder in found), default=0)


def plan(name: str, command: str, recipe: Recipe) -> dict[str, Any]:
    """What stands beside the seconds of a network: the command that trains it, its epochs and those of the zoo."""
    return {"command": command, "epochs": recipe.training.epochs, "epochs_in_zoo": epochs_in_zoo(name)}


def seconds_per_epoch(recipe: Recipe, images: int, data_dir: str | None) -> float:
    """Trains two epochs on the first images, and returns the second's seconds for the whole training set."""
    whole = len(pipeline.load_data(recipe, data_dir).train)
    changes = {"dataset.images": images, "dataset.validation_fraction": 0.0, "early_stopping": None}
    small = change(recipe, recipe.name, changes)
    with tempfile.TemporaryDirectory() as folder:
        pipeline.train(small, data_dir=data_dir, output_dir=folder, epochs=2)
        log = json.loads((Path(folder) / pipeline.LOG).read_text(encoding="utf-8"))
    return log["history"][-1]["seconds"] * whole / images


def table(found: dict[str, Any]) -> str:
    """Returns the costs as a Markdown table."""
    lines = [
        "# What the papers' own trainings cost of the large networks",
        "",
        "The zoo has each of them in a shorter training; 0 epochs: not yet.",
        "",
        "| network | seconds an epoch | epochs | hours in all | epochs in the zoo | command | measured on |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    for name, cost in found.items():
        environment = Environment(**cost["environment"])
        seconds, epochs = cost["seconds_per_epoch"], cost["epochs"]
        lines.append(
            f"| {name} | {seconds:,.0f} | {epochs} | {epochs * seconds / 3600:,.1f} | {cost['epochs_in_zoo']} "
            f"| `{cost['command']}` | the first {cost['images_timed']} images, {environment.device}, "
            f"{environment.backend}, code {environment.short_commit} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {name: (command, recipe) for name, command, recipe in networks()}
    parser.add_argument("names", nargs="*", metavar="NETWORK", help=f"among {', '.join(known)}; all by default")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--data-dir")
    parser.add_argument("--output", type=Path, default=Path("epoch_costs.json"))
    options = parser.parse_args()
    if unknown := set(options.names) - set(known):
        parser.error(f"NETWORK must be among {', '.join(known)}. Received: {', '.join(sorted(unknown))}")
    found = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    found = {name: cost | plan(name, *known[name]) for name, cost in found.items() if name in known}
    for name in options.names or known:
        command, recipe = known[name]
        if name not in found:
            found[name] = plan(name, command, recipe) | {
                "seconds_per_epoch": round(seconds_per_epoch(recipe, options.images, options.data_dir), 1),
                "images_timed": options.images,
                "environment": Environment.here().model_dump(),
            }
            write_atomically(options.output, json.dumps(found, indent=1) + "\n")
        cost = found[name]
        Console(soft_wrap=True).print(
            f"{name}: {cost['seconds_per_epoch']:.0f} s an epoch, {cost['epochs']} epochs: {command}"
        )
    write_atomically(options.output, json.dumps(found, indent=1) + "\n")
    write_atomically(options.output.with_suffix(".md"), table(found))


if __name__ == "__main__":
    main()
