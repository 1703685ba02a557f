"""Measures which share of certification is the model's own forward passes, and writes it as JSON.

    KERAS_BACKEND=jax python scripts/benchmark_certification.py --model resnet18 --output certification.json

Certification and bare forward passes of as many batches are timed in blocks of bare, certify, certify, bare, so
that both see the same load; the share is the median over the blocks, with the 95 % interval of that median.
"""

import argparse
import json
from pathlib import Path

import keras
import numpy as np

from keras_robust import backend, models
from keras_robust.certification import SmoothedClassifier
from keras_robust.evaluation.metrics import code_commit
from keras_robust.experiments.timing import median_interval, paired_times
from keras_robust.prediction import Predictor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--batches", type=int, default=1, help="batches of a call, besides the one that selects")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    model = models.build(options.model, num_classes=10, input_shape=(32, 32, 3))
    smoothed = SmoothedClassifier(model, 0.25, 10)
    image = np.random.default_rng(0).random((1, 32, 32, 3), dtype="float32")
    noisy = keras.random.normal((options.batch_size, 32, 32, 3), mean=0.5, stddev=0.25, seed=0)
    forward = Predictor.of(model).compiled("benchmark", lambda logits, batch: logits(batch))

    def certify():
        # The class is selected on one batch, too: one compiled shape, and one batch more to account for.
        smoothed.certify(
            image,
            n0=options.batch_size,
            n=options.batches * options.batch_size,
            batch_size=options.batch_size,
        )

    def bare():
        for _ in range(options.batches + 1):
            backend.synchronize(forward(noisy))

    for _ in range(2):  # compiles; PyTorch records at the third call
        certify()
        bare()
    times = paired_times(certify, bare, blocks=options.blocks)
    shares = [1 / ratio for ratio in times.ratios]
    median, low, high = median_interval(shares)
    result = {
        "model": options.model,
        "code_commit": code_commit(),
        "backend": f"{keras.backend.backend()} {backend.VERSION}",
        "device": backend.device_name(),
        "batch_size": options.batch_size,
        "batches": options.batches + 1,
        "seconds_certify": [round(seconds, 4) for seconds in times.variant],
        "seconds_forward": [round(seconds, 4) for seconds in times.reference],
        "forward_share_median": round(median, 4),
        "forward_share_interval": [round(low, 4), round(high, 4)],
        "forward_share_of_sums": round(sum(times.reference) / sum(times.variant), 4),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.output is not None:
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
