"""Every model against images crafted on every model: the table and the figure of transfer."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_robust.attacks.base import Attack
from keras_robust.attacks.transfer import measure_transfer
from keras_robust.checks import Tensor, check_images, check_labels, check_positive_integer
from keras_robust.digests import digest, digest_of_model
from keras_robust.evaluation.describe import describe
from keras_robust.evaluation.metrics import DataFingerprint, Environment
from keras_robust.files import write_atomically


def transfer_table(
    models: Mapping[str, keras.Model],
    attack: Attack,
    x: Tensor,
    y: Tensor,
    *,
    data: DataFingerprint,
    seed: int = 0,
    batch_size: int = 250,
    state: str | Path | None = None,
) -> dict[str, Any]:
    """Crafts images on each model and measures each model on them.

    Args:
        models: Keras models that return logits, by name.
        attack: Attack such as `AutoAttack`; the paper's is AutoAttack with L2 epsilon 1.
        x: Clean images, shape `(images, height, width, channels)`, in [0, 1].
        y: Integer labels, shape `(images,)`.
        data: What the images are.
        seed: Integer seed of the attack.
        batch_size: Images a pass.
        state: Folder that keeps the images crafted on each model, by attack, seed, images and weights, so that a
            run that was killed goes on; the caller removes it.

    Returns:
        `accuracy[source][target]` as fractions of all images, `clean[name]`, and what it takes to repeat them.

    Raises:
        ValueError: If an argument has the wrong shape, type or range, `data` describes another number of images,
            or a model does not return finite logits.

    Reference:
        The protocol of Table A3 of the kernel average pooling paper, https://arxiv.org/abs/2210.00062
    """
    x = check_images(x)
    y = check_labels(y, len(x))
    check_positive_integer("seed", seed, minimum=0)
    data.check(len(x))
    seed = int(seed)  # NumPy's go into no JSON
    clean: dict[str, float] = {}
    accuracy: dict[str, dict[str, float]] = {}
    for source, model in models.items():
        key = [source, describe(attack), seed, digest(x, y), digest_of_model(model)]
        path = (
            None if state is None else Path(state) / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.npy"
        )
        x_adv = _crafted(path, model, attack, x, y, seed, batch_size)
        accuracy[source] = {}
        for target, other in models.items():
            result = measure_transfer(model, other, x, x_adv, y, batch_size=batch_size)
            accuracy[source][target] = result.target_adversarial
            clean[target] = result.target_clean
    return {
        "attack": describe(attack),
        "seed": seed,
        "images": len(y),
        "clean": clean,
        "accuracy": accuracy,
        "data": data.model_dump(),
        "environment": Environment.here().model_dump(),
    }


def _crafted(path, model, attack, x, y, seed, batch_size) -> np.ndarray:
    if path is not None and path.is_file():
        return np.load(path, allow_pickle=False)
    x_adv = attack(model, x, y, seed=seed, batch_size=batch_size)
    if path is not None:
        write_atomically(path, lambda file: np.save(file, x_adv))
    return x_adv


def save_transfer_table(table: dict[str, Any], path: str | Path) -> None:
    """Writes the table as JSON, in one piece."""
    write_atomically(Path(path), json.dumps(table, indent=2) + "\n")


def save_transfer_figure(table: dict[str, Any], path: str | Path) -> None:
    """Draws the table: a row for each model that images were crafted on, a column for each model measured.

    Args:
        table: What `transfer_table` returned.
        path: Image file to write; its ending decides the format.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"Figures need matplotlib: pip install 'keras-robust[plots]'. Received: {error}."
        ) from error
    names = list(table["accuracy"])
    values = np.array([[table["accuracy"][source][target] for target in names] for source in names])
    figure = Figure(figsize=(2.6 + 1.1 * len(names), 2.2 + 0.7 * len(names)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis")
    for row, column in np.ndindex(values.shape):
        color = "black" if values[row, column] > 0.6 else "white"
        axes.text(column, row, f"{100 * values[row, column]:.1f}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="measured on (target)", ylabel="crafted on (source)")
    figure.colorbar(image, label="accuracy")
    attack, data = table["attack"], table["data"]
    commit = Environment.model_validate(table["environment"]).short_commit
    figure.suptitle(
        f"{attack['name']} {attack['norm']} {attack['epsilon']:.4g}: {table['images']} {data['dataset']} "
        f"{data['split']} images, seed {table['seed']}, code {commit}",
        fontsize="small",
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
