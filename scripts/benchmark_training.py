"""Measures what adversarial training costs over plain training, and writes it as JSON.

    KERAS_BACKEND=jax python scripts/benchmark_training.py --model resnet18 --output training.json
    KERAS_BACKEND=jax python scripts/benchmark_training.py --model resnet8 --weak-subnets --output ews.json
    KERAS_BACKEND=torch python scripts/benchmark_training.py --model resnet18 --precision mixed_bfloat16 \
        --methods "plain,plain (Keras's normalization)" --output normalization.json

Every method trains the same network through `fit`; their epochs take turns, so that all see the same load.
--weak-subnets measures plain training, AT-10, and AT-10 with random subnets and with those of the controller, and
in the same turns the forward and backward pass of a subnet alone. From these it prints the controller's share of a
step (a lesson every tenth step, spread over all) and what weak subnets add beside that pass.
"plain (Keras's normalization)" is plain training with keras.layers.BatchNormalization in place of ours.
"""

import argparse
import functools
import json
import time
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_robust import backend, losses, models
from keras_robust.evaluation.metrics import Environment
from keras_robust.layers import BatchNormalization, SubnetSpace, subnet
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


KERAS_NORMALIZATION = "plain (Keras's normalization)"
METHODS = {
    "plain": lambda model, shape: {},
    KERAS_NORMALIZATION: lambda model, shape: {},
    "Fast-AT": lambda model, shape: {"perturbations": [Adversarial.fast()]},
    "Free-AT": lambda model, shape: {"perturbations": [FreeAdversarial(shape)]},
    "AT-10": lambda model, shape: {"perturbations": [Adversarial(steps=10)]},
    "AT-10 (train mode)": lambda model, shape: {"perturbations": [Adversarial(steps=10, model_mode="train")]},
    "TRADES": lambda model, shape: {"objective": Trades()},
    "AT-10 + AWP": lambda model, shape: {"perturbations": [Adversarial(steps=10)], "weight_perturbation": AWP()},
    # Networks with residual blocks; the controller is due in one step of ten.
    "weak subnets": lambda model, shape: {"terms": [enhance(model, ControllerSearch)]},
    "random subnets": lambda model, shape: {"terms": [enhance(model, RandomSearch)]},
    "AT-10 + random subnets": lambda model, shape: {
        "perturbations": [Adversarial(steps=10)],
        "terms": [enhance(model, RandomSearch)],
    },
    "AT-10 + weak subnets": lambda model, shape: {
        "perturbations": [Adversarial(steps=10)],
        "terms": [enhance(model, ControllerSearch)],
    },
}
DEFAULT = [name for name in METHODS if "subnets" not in name and name != KERAS_NORMALIZATION]
WEAK_SUBNETS = ["plain", "AT-10", "AT-10 + random subnets", "AT-10 + weak subnets"]
INTERVAL = 10
PASS = "subnet's pass alone"


def with_keras_normalization(model):
    """Returns a copy whose batch normalization is Keras's layer."""

    def copy(layer):
        kind = keras.layers.BatchNormalization if isinstance(layer, BatchNormalization) else type(layer)
        return kind.from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=copy)


def subnet_pass(model_name, x):
    """Returns a function that runs the divergence of one subnet forward and backward, once."""
    model = models.build(model_name, num_classes=10, input_shape=x.shape[1:], seed=0)
    space = SubnetSpace(model, rho=0.7)
    masks = space.highest(keras.random.uniform((space.size,), seed=0))
    x = ops.convert_to_tensor(x)
    teacher = ops.stop_gradient(ops.convert_to_tensor(model(x)))

    @backend.jit
    def run(weights, others, x, masks, teacher):
        def divergence(weights):
            with subnet(model, masks):
                logits, _ = model.stateless_call(weights, others, x, training=True)
            return ops.mean(losses.kl(teacher, logits))

        return backend.value_and_grad(divergence, weights)

    def once():
        weights = [variable.value for variable in model.trainable_variables]
        others = [variable.value for variable in model.non_trainable_variables]
        return backend.synchronize(run(weights, others, x, masks, teacher))

    return once


def weak_subnet_costs(seconds):
    """Median shares, turn by turn, from what took turns."""
    plain, attack, drawn, enhanced, alone = (np.array(seconds[name]) for name in (*WEAK_SUBNETS, PASS))
    return {
        "AT-10, times plain": float(np.median(attack / plain)),
        "subnet's pass, share of AT-10 + weak subnets": float(np.median(alone / enhanced)),
        "controller, share of AT-10 + weak subnets": float(np.median((enhanced - drawn) / enhanced)),
        "AT-10 + weak subnets, times AT-10": float(np.median(enhanced / attack)),
        "AT-10 + weak subnets, times AT-10 and the pass": float(np.median(enhanced / (attack + alone))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="kap_cnn")
    parser.add_argument("--methods", default=",".join(DEFAULT), help="names, with commas between them")
    parser.add_argument("--weak-subnets", action="store_true", help="the methods and figures of weak subnets")
    parser.add_argument("--precision", choices=("float32", "mixed_bfloat16"), default="float32")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, help="training steps of each turn; default 4, with subnets 10")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    names = WEAK_SUBNETS if options.weak_subnets else options.methods.split(",")
    with_controller = any(name.endswith("weak subnets") for name in names)
    options.steps = options.steps or (INTERVAL if with_controller else 4)
    if with_controller and options.steps % INTERVAL:
        parser.error(f"--steps must be a multiple of {INTERVAL}, the controller's interval: {options.steps}")
    for name in ("plain", *names):
        if name not in METHODS or name not in names:
            parser.error(f"--methods takes 'plain' and any of {', '.join(METHODS)}. Received: {options.methods}")

    rng = np.random.default_rng(0)
    count = options.steps * options.batch_size
    x = rng.random((count, 32, 32, 3), dtype="float32")
    y = rng.integers(0, 10, count).astype("int32")
    keras.config.set_dtype_policy(options.precision)
    trainers = {}
    for name in names:
        model = models.build(options.model, num_classes=10, input_shape=(32, 32, 3), seed=0)
        if name == KERAS_NORMALIZATION:
            model = with_keras_normalization(model)
        trainer = RobustTrainer(model, **METHODS[name](model, (options.batch_size, 32, 32, 3)))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        trainer.compile(optimizer=SGD(0.01, momentum=0.9), loss=loss)
        trainers[name] = trainer

    def fit(trainer):
        trainer.fit(x, y, batch_size=options.batch_size, verbose=0)

    def repeat(once):
        for _ in range(options.steps):
            once()

    runs = {name: functools.partial(fit, trainer) for name, trainer in trainers.items()}
    if options.weak_subnets:
        runs[PASS] = functools.partial(repeat, subnet_pass(options.model, x[: options.batch_size]))
    seconds = {name: [] for name in runs}
    for number in range(options.turns + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:  # the first turn compiles
                seconds[name].append((time.perf_counter() - start) / options.steps)

    plain = np.array(seconds["plain"])
    result = {
        "model": options.model,
        "backend": f"{keras.backend.backend()} {backend.VERSION}",
        "device": backend.device_name(),
        "precision": options.precision,
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
    if options.weak_subnets:
        result["weak_subnets"] = {name: round(cost, 4) for name, cost in weak_subnet_costs(seconds).items()}
    result["environment"] = Environment.here().model_dump()
    print(f"{options.model}, batch {options.batch_size}, {result['backend']}, {result['device']}")
    for name, row in result["methods"].items():
        taken = np.median(row["seconds_per_step"])
        print(f"{name:32} {taken:8.4f} s/step {row['times_plain_median']:7.2f} x plain")
    for name, cost in result.get("weak_subnets", {}).items():
        print(f"{name:50} {cost:7.3f}")
    if options.output is not None:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
