"""What a study asks of a trained model."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_robust import datasets
from keras_robust.checks import check_choice
from keras_robust.corruptions import CORRUPTIONS, SEVERITIES, corrupt, read_cifar_c
from keras_robust.datasets import Split
from keras_robust.evaluation import evaluate
from keras_robust.evaluation.metrics import DataFingerprint, Environment
from keras_robust.files import write_atomically
from keras_robust.prediction import Predictor
from keras_robust.training.recipe import Recipe


def attacked_and_noisy(
    *,
    attacks: Sequence[Any] = (),
    noise: Sequence[Any] = (),
    images: int = 1000,
    seed: int = 0,
    batch_size: int = 250,
    stages_alone: int = 0,
    data_dir: str | Path | None = None,
) -> Callable[[keras.Model, Recipe, Path], Mapping[str, float]]:
    """Returns a measure: accuracy on the first test images, clean, under each attack and each noise.

    Args:
        attacks: Attacks of `keras_robust.attacks`.
        noise: Noise of `keras_robust.evaluation.noise`.
        images: First test images, at most what there is.
        seed: Seed of everything random.
        batch_size: Images a pass.
        stages_alone: First images on which each attack of an `AutoAttack` runs alone too.
        data_dir: Folder of TensorFlow Datasets.

    Returns:
        A function of model, recipe and folder that writes `metrics.json` there and returns accuracies by name.
    """

    def measure(model: keras.Model, recipe: Recipe, folder: Path) -> Mapping[str, float]:
        test = datasets.load(recipe.dataset.name, data_dir=data_dir).test
        count = min(images, len(test))
        x, y = test.take(count)
        data = DataFingerprint.of_test(recipe.dataset.name, test.fingerprint(count))
        metrics = evaluate(
            model,
            x,
            y,
            attacks=attacks,
            noise=noise,
            seed=seed,
            batch_size=batch_size,
            stages_alone=stages_alone,
            data=data,
            output=folder / "metrics.json",
        )
        return {metric.name: metric.value for metric in metrics.metrics}

    return measure


def corrupted(
    *,
    images: int = 1000,
    seed: int = 0,
    severities: Sequence[int] = SEVERITIES,
    cache: str | Path | None = None,
    official: str | Path | None = None,
    batch_size: int = 250,
    data_dir: str | Path | None = None,
) -> Callable[[keras.Model, Recipe, Path], Mapping[str, float]]:
    """Returns a measure: the error on the test images, and on the first of them under 15 common corruptions.

    `clean error` is over all test images; `corruption error` is the plain mean over corruptions and severities, as
    CIFAR-10-C's; each corruption's own error has its name. Severity by severity they are in `corruptions.json`.

    Args:
        images: First test images that are corrupted, at most what there is.
        seed: Seed of the corruptions.
        severities: Which severities are measured; the convention is all five.
        cache: Folder where corrupted images are kept, so that each set is made once; None to keep none.
        official: Folder of the published CIFAR-10-C or CIFAR-100-C, to be read instead of made.
        batch_size: Images a pass.
        data_dir: Folder of TensorFlow Datasets.

    Returns:
        A function of model, recipe and folder that returns errors by name, as fractions.

    Raises:
        ValueError: If a severity is unknown.

    Reference:
        Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261
    """
    for severity in severities:
        check_choice("severity", severity, SEVERITIES)

    def measure(model: keras.Model, recipe: Recipe, folder: Path) -> Mapping[str, float]:
        test = datasets.load(recipe.dataset.name, data_dir=data_dir).test
        count = min(images, len(test))
        predictor = Predictor.of(model)

        def error(x: np.ndarray, y: np.ndarray) -> float:
            return float(np.mean(predictor.predict(x, batch_size).argmax(-1) != y))

        errors: dict[str, list[float]] = {}
        for name in CORRUPTIONS:
            errors[name] = []
            for severity in severities:
                if official is not None:
                    x, y = (part[:count] for part in read_cifar_c(official, name, severity))
                else:
                    x, y = _corrupted(test, name, severity, count, seed, cache)
                errors[name].append(error(x, y))
        clean = error(*test.take())
        facts = {
            "dataset": recipe.dataset.name,
            "clean": {"error": clean, **test.fingerprint()},
            "corrupted": {"official": official is not None, "seed": seed, **test.fingerprint(count)},
            "severities": list(severities),
            "errors": errors,
            "environment": Environment.here().model_dump(),
        }
        write_atomically(folder / "corruptions.json", json.dumps(facts, indent=1) + "\n")
        means = {name: float(np.mean(each)) for name, each in errors.items()}
        return {"clean error": clean, "corruption error": float(np.mean(list(means.values()))), **means}

    return measure


def _corrupted(
    test: Split, name: str, severity: int, count: int, seed: int, cache: str | Path | None
) -> tuple[np.ndarray, np.ndarray]:
    """The first test images, corrupted, and their labels; from the cache where it has these very images."""
    x, y = test.take(count)
    if cache is None:
        return corrupt(x, name, severity, seed=seed), y
    stamp = str(test.fingerprint(count)["sha256"])[:16]
    path = Path(cache) / f"{name}_{severity}_seed{seed}_{count}_{stamp}.npz"
    if not path.is_file():
        levels = np.rint(255 * corrupt(x, name, severity, seed=seed)).astype("uint8")
        write_atomically(path, lambda file: np.savez(file, pixels=levels))
    with np.load(path, allow_pickle=False) as stored:
        return stored["pixels"].astype("float32") / np.float32(255), y
