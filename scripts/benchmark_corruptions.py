"""Measures how long the 75 sets of CIFAR-10-C take to make, and writes it as JSON with the digests of the sets.

    python scripts/benchmark_corruptions.py --images 1000 --output corruptions.json

The first test images of CIFAR-10 are corrupted in one process. Every set is made twice: the digest of its pixels
is that of both, or the command fails.
"""

import argparse
import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np

from keras_robust import datasets
from keras_robust.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from keras_robust.evaluation.metrics import Environment
from keras_robust.files import write_atomically


def digest(x):
    """SHA-256 of images in 256 levels."""
    return hashlib.sha256(np.rint(255 * x).astype("uint8").tobytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", help="folder of TensorFlow Datasets; else TFDS_DATA_DIR")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    test = datasets.load("cifar10", data_dir=options.data_dir).test
    x, _ = test.take(options.images)
    sets = {}
    for name in CORRUPTIONS:
        taken, digests = [], []
        for severity in SEVERITIES:
            start = time.perf_counter()
            made = digest(corrupt(x, name, severity, seed=options.seed))
            taken.append(round(time.perf_counter() - start, 3))
            digests.append(made)
            if digest(corrupt(x, name, severity, seed=options.seed)) != made:
                parser.error(f"{name} of severity {severity} has other bytes the second time")
        sets[name] = {"seconds": taken, "sha256": digests}
        print(f"{name:20} {sum(taken):7.1f} s", flush=True)
    total = sum(sum(each["seconds"]) for each in sets.values())
    result = {
        "dataset": "cifar10",
        **test.fingerprint(options.images),
        "seed": options.seed,
        "sets": len(CORRUPTIONS) * len(SEVERITIES),
        "seconds": round(total, 1),
        "processors": os.cpu_count(),
        "corruptions": sets,
        "environment": Environment.here().model_dump(),
    }
    print(f"{result['sets']} sets of {len(x):,} images: {total:.1f} s; every set has the same bytes twice")
    if options.output is not None:
        write_atomically(options.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
