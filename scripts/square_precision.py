"""Measures what Square leaves where a model's products are rounded to TensorFloat-32, beside full float32.

    KERAS_BACKEND=jax python scripts/square_precision.py zoo/cnn_cifar10.noise_sigma0.1 --images 200

Accelerators round the factors of float32 convolutions and matrix products to ten bits by default. Here a processor
does it: kernels are rounded once, and the inputs of the layers that have one at each pass. What is found is
classified in full float32.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robust.attacks import Predictor, Square
from keras_robust.evaluation.metrics import Environment, Metric
from keras_robust.files import write_atomically
from keras_robust.models import fold_kap
from keras_robust.subject import open_subject

_SPLIT = np.float32(2**13 + 1)  # of 24 bits, 11 stay: the leading one and ten


class Rounded(keras.layers.Layer):
    """Rounds numbers to TensorFloat-32 (Dekker's splitting)."""

    def call(self, x):
        high = x * _SPLIT
        return high - (high - x)


def rounded_copy(model: keras.Model) -> keras.Model:
    """Returns the model with the factors of its products rounded."""

    def called(layer, inputs, *args, **options):
        return layer(Rounded()(inputs) if hasattr(layer, "kernel_initializer") else inputs, *args, **options)

    copy = keras.models.clone_model(model, call_function=called)
    for layer, source in zip(_with_weights(copy), _with_weights(model), strict=True):
        values = source.get_weights()
        if hasattr(source, "kernel_initializer"):
            values[0] = ops.convert_to_numpy(Rounded()(values[0]))
        layer.set_weights(values)
    return copy


def _with_weights(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if layer.weights]


def measure(folder: str, epsilon: float, images: int, seed: int, data_dir: str | None) -> dict[str, Any]:
    """Attacks the model as it is and its rounded copy; counts which images the model still gets right."""
    subject = open_subject(folder)
    x, y, data = subject.test_images(images, data_dir)
    model = fold_kap(subject.load())  # kernels as they are multiplied
    attack = Square("L2", epsilon)
    found = {}
    for name, attacked in (("full float32", model), ("TensorFloat-32", rounded_copy(model))):
        start = time.perf_counter()
        x_adv = attack(attacked, x, y, seed=seed)
        seconds = time.perf_counter() - start
        correct = int((Predictor.of(model).predict(x_adv).argmax(-1) == y).sum())
        metric = Metric.of(
            correct,
            images,
            name=f"Square L2 {epsilon:g}, products in {name}",
            kind="attack",
            norm="L2",
            epsilon=epsilon,
            seed=seed,
            seconds=round(seconds, 1),
            data=data,
            environment=Environment.here(),
        )
        print(f"{metric.name}: {metric.correct} of {metric.images} images are left")
        found[name] = metric.model_dump(mode="json")
    return {"entry": subject.name, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entry", help="name or folder of an entry")
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir")
    parser.add_argument("--output", type=Path, default=Path("square_precision.json"))
    options = parser.parse_args()
    found = measure(options.entry, options.epsilon, options.images, options.seed, options.data_dir)
    write_atomically(options.output, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
