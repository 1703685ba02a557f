"""Times kernel average pooling against the same net without it; run it on an idle machine.

    python scripts/benchmark_kap.py --model resnet18 --output benchmark_kap.json

Each variant is timed in blocks of plain, variant, variant, plain; its ratio is the median over the blocks, with
the 95 % interval of that median. `kernels` averages the kernels, as our builders do; `activations` pools the
outputs with KAP layers; `folded` is `fold_kap` of the first; `again` is the plain net built and compiled a second
time: what it differs from 1 by, the clock cannot tell. `same_program` says whether what a net was compiled to for
inference equals the plain net's, instruction by instruction. The paper (table A2): 1.16 in training, 1.31 at
inference.

Backends that the output file already has and that are not run again keep their numbers.
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
    parser.add_argument("--seconds", type=float, default=30, help="for each comparison, compilation aside")
    parser.add_argument(
        "--skip", nargs="*", default=[], metavar="STEP/VARIANT", help="such as training/activations"
    )
    parser.add_argument("--backends", nargs="+", default=["jax", "tensorflow"])
    parser.add_argument("--output", type=Path, default=Path("benchmark_kap.json"))
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        path = options.output.with_suffix(f".{options.part}.partial")
        path.write_text(json.dumps(measure(options)), encoding="utf-8")
        return
    results = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    for name in options.backends:
        env = {**os.environ, "KERAS_BACKEND": name}
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--part", name], env=env, check=True)
        path = options.output.with_suffix(f".{name}.partial")
        results[name] = json.loads(path.read_text(encoding="utf-8"))
        path.unlink()
        for step, variants in results[name]["ratio"].items():
            for key, found in variants.items():
                low, high = found["interval"]
                print(f"{name:11} {step:10} {key:12} {found['median']:.4f} ({low:.4f} to {high:.4f})")
        print(f"{name:11} same program as plain: {results[name]['same_program']}")
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
    nets = {"plain": build(None), "again": build(None), "kernels": averaged}
    nets["activations"] = pooled_activations(build("kap"))
    every = nets | {"folded": models.fold_kap(averaged)}
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(options.batch_size, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, options.batch_size)
    images = keras.ops.convert_to_tensor(x)

    def forward(net):
        run = Predictor.of(net).compiled("benchmark", lambda logits, batch: logits(batch))
        return lambda: backend.synchronize(run(images))

    def program(net):
        predictor = Predictor.of(net)
        run = backend.jit(lambda variables, batch: predictor.logits(variables, batch))
        return backend.compiled_program(run, predictor.variables(), images)

    def training(net):
        net.compile(
            keras.optimizers.SGD(0.01, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return lambda: net.train_on_batch(x, y)

    programs = {name: program(net) for name, net in every.items()}
    found = {"inference": compare(options, "inference", {name: forward(net) for name, net in every.items()})}
    found["training"] = compare(options, "training", {name: training(net) for name, net in nets.items()})
    return {
        "model": options.model,
        "batch_size": options.batch_size,
        "code_commit": code_commit(),
        "backend": f"{keras.backend.backend()} {backend.VERSION}",
        "keras": keras.__version__,
        "device": backend.device_name(),
        "cores": len(os.sched_getaffinity(0)),
        "same_program": {
            name: None if text is None else text == programs["plain"]
            for name, text in programs.items()
            if name != "plain"
        },
        "ratio": found,
    }


def compare(options, step, variants):
    """Each variant's time over the plain net's; the number of blocks is fixed before the first is timed."""
    from keras_robust.experiments.timing import median_interval, paired_times

    plain = variants.pop("plain")
    found = {}
    for name, run in variants.items():
        if f"{step}/{name}" in options.skip:
            continue
        for function in (plain, run):
            function()
        begun = time.perf_counter()
        for function in (plain, run):
            function()
        once = time.perf_counter() - begun
        calls = max(1, round(0.1 / once))  # a place in a block lasts some 50 ms at least
        blocks = max(6, round(options.seconds / (2 * calls * once)))
        times = paired_times(run, plain, blocks=blocks, calls=calls)
        median, low, high = median_interval(times.ratios)
        found[name] = {
            "median": round(median, 4),
            "interval": [round(low, 4), round(high, 4)],
            "blocks": blocks,
            "calls_a_block": 4 * calls,
            "seconds": round(median_interval(times.variant)[0], 6),
            "seconds_plain": round(median_interval(times.reference)[0], 6),
            "ratios": [round(ratio, 4) for ratio in times.ratios],
        }
    return found


if __name__ == "__main__":
    main()
