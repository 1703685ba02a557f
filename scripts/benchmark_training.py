"""Measures what adversarial training costs over plain training, and writes it as JSON.

    KERAS_BACKEND=jax python scripts/benchmark_training.py --model resnet18 --output training.json

Every method trains the same network through `fit`; their epochs take turns, so that all see the same load.
"""

import argparse
import json
import time
from pathlib import Path

import keras
import numpy as np

from keras_robust import backend, models
from keras_robust.layers import SubnetSpace
from keras_robust.training import (
    AWP,
    SGD,
    Adversarial,
    ControllerSearch,
    FreeAdversarial,
    RandomSearch,
    RobustTrainer,
    Trades,
    WeakSubnets,
)


def enhance(model, search):
    """Weak Subnets with the paper's rho and interval."""
    return WeakSubnets(search(SubnetSpace(model, rho=0.7)))


METHODS = {
    "plain": lambda model, shape: {},
    "Fast-AT": lambda model, shape: {"perturbations": [Adversarial.fast()]},
    "Free-AT": lambda model, shape: {"perturbations": [FreeAdversarial(shape)]},
    "AT-10": lambda model, shape: {"perturbations": [Adversarial(steps=10)]},
    "AT-10 (train mode)": lambda model, shape: {"perturbations": [Adversarial(steps=10, model_mode="train")]},
    "TRADES": lambda model, shape: {"objective": Trades()},
    "AT-10 + AWP": lambda model, shape: {"perturbations": [Adversarial(steps=10)], "weight_perturbation": AWP()},
    # Networks with residual blocks; the controller is due in one step of ten, so measure `--steps 10`.
    "weak subnets": lambda model, shape: {"terms": [enhance(model, ControllerSearch)]},
    "random subnets": lambda model, shape: {"terms": [enhance(model, RandomSearch)]},
    "AT-10 + weak subnets": lambda model, shape: {
        "perturbations": [Adversarial(steps=10)],
        "terms": [enhance(model, ControllerSearch)],
    },
}
DEFAULT = [name for name in METHODS if "subnets" not in name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="kap_cnn")
    parser.add_argument("--methods", default=",".join(DEFAULT), help="names, with commas between them")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4, help="training steps of each turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    names = options.methods.split(",")
    for name in ("plain", *names):
        if name not in METHODS or name not in names:
            parser.error(f"--methods takes 'plain' and any of {', '.join(METHODS)}. Received: {options.methods}")

    rng = np.random.default_rng(0)
    count = options.steps * options.batch_size
    x = rng.random((count, 32, 32, 3), dtype="float32")
    y = rng.integers(0, 10, count).astype("int32")
    trainers = {}
    for name in names:
        model = models.build(options.model, num_classes=10, input_shape=(32, 32, 3), seed=0)
        trainer = RobustTrainer(model, **METHODS[name](model, (options.batch_size, 32, 32, 3)))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        trainer.compile(optimizer=SGD(0.01, momentum=0.9), loss=loss)
        trainers[name] = trainer

    def turn(trainer):
        start = time.perf_counter()
        trainer.fit(x, y, batch_size=options.batch_size, verbose=0)
        return (time.perf_counter() - start) / options.steps

    seconds = {name: [] for name in names}
    for number in range(options.turns + 1):
        for name, trainer in trainers.items():
            taken = turn(trainer)
            if number:  # the first turn compiles
                seconds[name].append(taken)

    plain = np.array(seconds["plain"])
    result = {
        "model": options.model,
        "backend": f"{keras.backend.backend()} {backend.VERSION}",
        "device": backend.device_name(),
        "batch_size": options.batch_size,
        "steps": options.steps,
        "methods": {
            name: {
                "seconds_per_step": [round(each, 4) for each in taken],
                "times_plain_median": round(float(np.median(np.array(taken) / plain)), 2),
            }
            for name, taken in seconds.items()
        },
    }
    print(f"{options.model}, batch {options.batch_size}, {result['backend']}, {result['device']}")
    for name, row in result["methods"].items():
        taken = np.median(row["seconds_per_step"])
        print(f"{name:20} {taken:8.4f} s/step {row['times_plain_median']:7.2f} x plain")
    if options.output is not None:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
