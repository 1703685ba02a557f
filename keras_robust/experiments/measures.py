"""What a study asks of a trained model."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_robust import datasets
from keras_robust.evaluation import evaluate
from keras_robust.evaluation.metrics import DataFingerprint
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
        facts = test.fingerprint(count)
        facts["first_index"] = facts.pop("first")
        data = DataFingerprint.model_validate({"dataset": recipe.dataset.name, "split": "test", **facts})
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
