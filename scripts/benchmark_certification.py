"""Measures which share of certification is the model's own forward passes, and writes it as JSON.

    KERAS_BACKEND=jax python scripts/benchmark_certification.py --model resnet18 --output certification.json

Certification and bare forward passes of as many batches take turns, so that both see the same load.
"""

import argparse
import json
import time
from pathlib import Path

import keras
import numpy as np

from keras_robust import backend, models
from keras_robust.certification import SmoothedClassifier
from keras_robust.evaluation.metrics import code_commit
from keras_robust.prediction import Predictor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--batches", type=int, default=3, help="batches of each turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    model = models.build(options.model, num_classes=10, input_shape=(32, 32, 3))
    smoothed = SmoothedClassifier(model, 0.25, 10)
    images = np.random.default_rng(0).random((options.turns + 1, 1, 32, 32, 3), dtype="float32")
    noisy = keras.random.normal((options.batch_size, 32, 32, 3), mean=0.5, stddev=0.25, seed=0)
    forward = Predictor.of(model).compiled("benchmark", lambda logits, batch: logits(batch))

    def certify(image):
        start = time.perf_counter()
        # The class is selected on one batch, too: one compiled shape, and one batch more to account for.
        smoothed.certify(
            image,
            n0=options.batch_size,
            n=options.batches * options.batch_size,
            batch_size=options.batch_size,
        )
        return time.perf_counter() - start

    def bare():
        start = time.perf_counter()
        for _ in range(options.batches + 1):
            backend.synchronize(forward(noisy))
        return time.perf_counter() - start

    pairs = [(certify(image), bare()) for image in images][1:]  # the first compiles
    shares = [passes / whole for whole, passes in pairs]
    result = {
        "model": options.model,
        "code_commit": code_commit(),
        "backend": f"{keras.backend.backend()} {backend.VERSION}",
        "device": backend.device_name(),
        "batch_size": options.batch_size,
        "batches": options.batches + 1,
        "seconds_certify": [round(whole, 4) for whole, _ in pairs],
        "seconds_forward": [round(passes, 4) for _, passes in pairs],
        "forward_share_median": round(float(np.median(shares)), 4),
        "forward_share_of_sums": round(sum(p for _, p in pairs) / sum(w for w, _ in pairs), 4),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.output is not None:
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
