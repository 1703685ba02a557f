"""Times kernel average pooling against the same net without it; run it on an idle machine.

    python scripts/benchmark_kap.py --model resnet18 --output benchmark_kap.json

One table of ratios within one run: the variants take turns, and each ratio is the median over the turns of
seconds over the plain net's seconds of the same turn. `kernels` averages the kernels, as our builders do;
`activations` pools the outputs with KAP layers; `folded` is `fold_kap` of the first. The paper (table A2): 1.16 in
training, 1.31 at inference.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", choices=["resnet18", "kap_cnn"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--backends", nargs="+", default=["jax", "tensorflow"])
    parser.add_argument("--output", type=Path, default=Path("benchmark_kap.json"))
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        path = options.output.with_suffix(f".{options.part}.partial")
        path.write_text(json.dumps(measure(options)), encoding="utf-8")
        return
    results = {}
    for name in options.backends:
        env = {**os.environ, "KERAS_BACKEND": name}
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--part", name], env=env, check=True)
        path = options.output.with_suffix(f".{name}.partial")
        results[name] = json.loads(path.read_text(encoding="utf-8"))
        path.unlink()
        for step, variants in results[name]["ratio"].items():
            print(f"{name:11} {step:10}", *(f"{key} {value:.3f}" for key, value in variants.items()), sep="  ")
    options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure(options):
    import keras
    import numpy as np

    from keras_robust import backend, models
    from keras_robust.evaluation.metrics import code_commit
    from keras_robust.layers import Conv2D
    from keras_robust.models.rebuild import Edit, rebuild
    from keras_robust.prediction import Predictor

    def pooled_activations(model):
        edits = {}
        for layer in model.layers:
            if isinstance(layer, Conv2D):
                config = {key: value for key, value in layer.get_config().items() if key != "averaging"}
                edits[id(layer)] = Edit(keras.layers.Conv2D.from_config(config), [layer.averaging])
        return rebuild(model, edits)

    def build(pooling):
        return models.build(options.model, num_classes=10, input_shape=(32, 32, 3), pooling=pooling, seed=0)

    averaged = build("kap")
    nets = {"plain": build(None), "kernels": averaged, "activations": pooled_activations(build("kap"))}
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(options.batch_size, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, options.batch_size)

    def forward(net):
        run = Predictor.of(net).compiled("benchmark", lambda logits, batch: logits(batch))
        images = keras.ops.convert_to_tensor(x)
        return lambda: backend.synchronize(run(images))

    every = nets | {"folded": models.fold_kap(averaged)}
    inference = {name: forward(net) for name, net in every.items()}
    forward_seconds = take_turns(inference, 3 * options.turns)
    training = {}
    for name, net in nets.items():
        net.compile(
            keras.optimizers.SGD(0.01, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        training[name] = lambda net=net: net.train_on_batch(x, y)
    training_seconds = take_turns(training, options.turns)
    seconds = {"training": training_seconds, "inference": forward_seconds}
    return {
        "model": options.model,
        "batch_size": options.batch_size,
        "code_commit": code_commit(),
        "backend": f"{keras.backend.backend()} {backend.VERSION}",
        "keras": keras.__version__,
        "device": backend.device_name(),
        "cores": len(os.sched_getaffinity(0)),
        "ratio": {step: ratios(variants) for step, variants in seconds.items()},
        "seconds": seconds,
    }


def take_turns(variants, turns):
    """Seconds of each variant, turn by turn, each in another order; the compiling call is not counted."""
    for run in variants.values():
        run()
    seconds = {name: [] for name in variants}
    order = list(variants)
    for _ in range(turns):
        order = [*order[1:], order[0]]  # what ran just before leaves its traces in the caches
        for name in order:
            run = variants[name]
            begun = time.perf_counter()
            run()
            seconds[name].append(round(time.perf_counter() - begun, 5))
    return seconds


def ratios(seconds):
    found = {}
    for name in seconds:
        if name != "plain":
            each = sorted(a / b for a, b in zip(seconds[name], seconds["plain"], strict=True))
            found[name] = round(each[len(each) // 2], 4)
    return found


if __name__ == "__main__":
    main()
