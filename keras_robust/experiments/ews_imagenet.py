"""ImageNet-C and ImageNet-P over AlexNet's, from their folders: tables 2 and 3 of the weak subnets paper."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_robust.corruptions import (
    CORRUPTIONS,
    PERTURBATIONS,
    SEVERITIES,
    alexnet_mean_corruption_error,
    flip_probability,
    mean_flip_rate,
    read_imagenet_c,
    read_imagenet_p,
)
from keras_robust.corruptions.error import ALEXNET_ERRORS, ALEXNET_FLIP_PROBABILITIES
from keras_robust.digests import digest_of_model
from keras_robust.evaluation.metrics import Environment
from keras_robust.experiments.ews_paper import NOTES, TABLE_2, flip_rates, fractions
from keras_robust.files import write_atomically
from keras_robust.prediction import Predictor
from keras_robust.subject import open_subject


def measure_imagenet(
    model: str | keras.Model,
    folder: Path,
    *,
    c: Path | None = None,
    p: Path | None = None,
    size: int = 224,
    batch_size: int = 100,
) -> dict[str, dict[str, float]]:
    """Measures a model on ImageNet-C, ImageNet-P or both, relative to AlexNet.

    Each corruption and perturbation is kept in `folder` when it is finished, and not measured again; a folder of
    other weights, or of pictures cut to another `size`, is refused.

    Args:
        model: A model from pixels in [0, 1] to logits, its `.keras` file, a zoo entry or the folder of a training.
        folder: Where the results go.
        c: Folder of ImageNet-C; None to leave it out.
        p: Folder of ImageNet-P; None to leave it out.
        size: Side in pixels of the middle of the image that ImageNet-C's pictures are cut to.
        batch_size: Images a pass.

    Returns:
        For `"ImageNet-C"`, `mCE` and the error of each corruption over AlexNet's; for `"ImageNet-P"`, `mFR` and
        the flip rate of each perturbation over AlexNet's; 1 is AlexNet.

    Raises:
        ValueError: If a folder or the model is absent or of another layout, or `folder` is of other weights or
            another size.
    """
    model = _load(model) if isinstance(model, str) else model
    predictor, identity = Predictor.of(model), digest_of_model(model)
    found: dict[str, dict[str, float]] = {}
    if c is not None:

        def errors(name: str) -> list[float]:
            return [_error(predictor, c, name, severity, size, batch_size) for severity in SEVERITIES]

        each = {
            name: _kept(folder / "imagenet_c" / f"{name}.json", identity, errors, name, size)
            for name in CORRUPTIONS
        }
        ratios = {name: float(np.mean(each[name])) / ALEXNET_ERRORS[name] for name in CORRUPTIONS}
        found["ImageNet-C"] = {"mCE": alexnet_mean_corruption_error(each), **ratios}
    if p is not None:

        def flips(name: str) -> float:
            labels = [predictor.predict(frames, len(frames)).argmax(-1) for frames, _ in read_imagenet_p(p, name)]
            return flip_probability(labels, noise=name.endswith("_noise"))

        flipped = {
            name: _kept(folder / "imagenet_p" / f"{name}.json", identity, flips, name) for name in PERTURBATIONS
        }
        ratios = {name: flipped[name] / ALEXNET_FLIP_PROBABILITIES[name] for name in PERTURBATIONS}
        found["ImageNet-P"] = {"mFR": mean_flip_rate(flipped), **ratios}
    write_atomically(
        folder / "results.json",
        json.dumps({**found, "environment": Environment.here().model_dump()}, indent=1) + "\n",
    )
    return found


def print_imagenet(name: str, found: Mapping[str, Mapping[str, float]]) -> None:
    """Prints a model's numbers beside the paper's, in per cent of AlexNet's, with what is amiss in the latter.

    Args:
        name: Row of the paper's tables, `augmentation.method`.
        found: What `measure_imagenet` returned.
    """
    from rich.console import Console
    from rich.table import Table

    augmentation, method = name.split(".")
    for number, benchmark in ((2, "ImageNet-C"), (3, "ImageNet-P")):
        if benchmark not in found:
            continue
        if number == 2:
            printed = TABLE_2[augmentation, method]
            paper: Mapping[str, Mapping[str, float]] = {"as printed": fractions(["mCE", *CORRUPTIONS], printed)}
        else:
            paper = flip_rates((augmentation, method), PERTURBATIONS)
        table = Table(title=f"Table {number}: {benchmark}, {name}", caption="\n".join(NOTES[number]))
        for column in ("", "here", *(f"paper, {reading}" for reading in paper)):
            table.add_column(column)
        for each, value in found[benchmark].items():
            table.add_row(
                each, *(f"{100 * number:.1f}" for number in (value, *(row[each] for row in paper.values())))
            )
        Console().print(table)


def _load(model: str) -> keras.Model:
    return (
        keras.saving.load_model(model, compile=False) if model.endswith(".keras") else open_subject(model).load()
    )


def _error(predictor: Predictor, folder: Path, name: str, severity: int, size: int, batch_size: int) -> float:
    wrong = total = 0
    for x, y in read_imagenet_c(folder, name, severity, batch_size=batch_size, size=size):
        wrong += int(np.sum(predictor.predict(x, batch_size).argmax(-1) != y))
        total += len(y)
    return wrong / total


def _kept(path: Path, identity: str, measure: Callable[[str], Any], name: str, size: int | None = None) -> Any:
    """What was measured of one part, from its file where that is there; `size` is that of cut pictures."""
    asked = {"model": identity} if size is None else {"model": identity, "size": size}
    if not path.is_file():
        write_atomically(path, json.dumps({**asked, "measured": measure(name)}) + "\n")
    kept = json.loads(path.read_text(encoding="utf-8"))
    for key, value in asked.items():
        if kept.get(key) != value:
            raise ValueError(
                f"{path} must be of what is measured: {key} {str(value)[:12]}. "
                f"Received: {key} {str(kept.get(key))[:12]}. Give another output folder."
            )
    return kept["measured"]
