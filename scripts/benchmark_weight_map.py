"""Times a weight map layer against the convolution that the paper pairs it with; run it on an idle machine.

    python scripts/benchmark_weight_map.py --output benchmark_weight_map.json

One run: 32 to 32 channels of 28 x 28, smoothing and unsharp, against the 3 x 3 convolution of 33 to 33 channels.
A training step is the gradient with respect to the input and the weights, and the update of the weights. Layers
take turns; each ratio is the median over the turns of seconds over the convolution's seconds of the same turn.
`forward` and `training` are a peak over the bytes of weights, input and output. `training_with_gradients` is over
twice those: each of them has a gradient of its size, and a step that returns the gradient of the input and the new
weights holds most of them at once. On JAX the peak is what the compiler has assigned, to the byte; on TensorFlow
how far the process's peak grows when a pass of a large batch, and then a training step of it, follow those of a
small one.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

SIZE, MAPS, KERNELS = 28, 32, 33
LAYERS = ("convolution", "smoothing", "unsharp")
MEMORIES = ("forward", "training", "training_with_gradients")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--memory-batch-size", type=int, default=2048)
    parser.add_argument("--turns", type=int, default=21)
    parser.add_argument("--backends", nargs="+", default=["jax", "tensorflow"])
    parser.add_argument("--output", type=Path, default=Path("benchmark_weight_map.json"))
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        measure = measure_time if options.part == "time" else measure_memory
        options.output.write_text(json.dumps(measure(options)), encoding="utf-8")
        return
    results = {}
    for name in options.backends:
        results[name] = run_part(options, name, "time")
        results[name]["memory"] = {layer: run_part(options, name, layer) for layer in LAYERS[1:]}
        print(f"{name:11}", *(f"{key} {value:.3f}" for key, value in results[name]["ratio"].items()), sep="  ")
        for layer, found in results[name]["memory"].items():
            parts = ", ".join(f"{name} {found[name]:.2f}" for name in MEMORIES)
            print(f"{'':11}  memory of {layer}: {parts}")
    options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def run_part(options, name, part):
    path = options.output.with_suffix(f".{name}.{part}.partial")
    arguments = [sys.executable, __file__, *sys.argv[1:], "--part", part, "--output", str(path)]
    subprocess.run(arguments, env={**os.environ, "KERAS_BACKEND": name}, check=True)
    found = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    return found


def steps(kind, batch_size):
    """Functions that run a forward pass and a training step of the layer, and the bytes of what they must hold."""
    import math

    import keras
    from keras import ops

    from keras_robust import backend
    from keras_robust.layers import WeightMap

    channels = KERNELS if kind == "convolution" else MAPS
    layer = keras.layers.Conv2D(channels, 3) if kind == "convolution" else WeightMap(channels, 3, mode=kind)
    shape = (batch_size, SIZE, SIZE, channels)
    layer.build(shape)
    x = ops.ones(shape)
    outputs = layer.compute_output_shape(shape)
    nest = [x, *(variable.value for variable in layer.trainable_variables)]

    def call(tensors):
        return layer.stateless_call(tensors[1:], [], tensors[0])[0]

    def step(tensors):
        _, gradients = backend.value_and_grad(lambda each: ops.mean(ops.square(call(each))), tensors)
        return [gradients[0], *(w - 0.01 * g for w, g in zip(tensors[1:], gradients[1:], strict=True))]

    forward, training = backend.jit(call), backend.jit(step)
    held = 4 * (math.prod(shape) + math.prod(outputs) + sum(math.prod(v.shape) for v in layer.trainable_variables))
    compiled = [backend.compiled_memory(each, nest) for each in (forward, training)]
    return lambda: backend.synchronize(forward(nest)), lambda: backend.synchronize(training(nest)), held, compiled


def measure_time(options):
    import keras

    from keras_robust import backend
    from keras_robust.evaluation.metrics import code_commit

    runs = {kind: steps(kind, options.batch_size)[1] for kind in LAYERS}
    for run in runs.values():
        run()
    seconds = {kind: [] for kind in LAYERS}
    for _ in range(options.turns):
        for kind, run in runs.items():
            begun = time.perf_counter()
            run()
            seconds[kind].append(round(time.perf_counter() - begun, 6))
    each = {
        kind: sorted(a / b for a, b in zip(seconds[kind], seconds["convolution"], strict=True)) for kind in LAYERS
    }
    return {
        "code_commit": code_commit(),
        "batch_size": options.batch_size,
        "backend": f"{keras.backend.backend()} {backend.VERSION}",
        "keras": keras.__version__,
        "device": backend.device_name(),
        "cores": len(os.sched_getaffinity(0)),
        "ratio": {kind: round(values[len(values) // 2], 4) for kind, values in each.items()},
        "seconds": seconds,
    }


def measure_memory(options):
    def peak():
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB

    for run in steps(options.part, 32)[:2]:  # enough images for parts, whose compilation is not counted
        run()
    before = peak()
    forward, training, held, (of_forward, of_training) = steps(options.part, options.memory_batch_size)
    measured_by = "resident set" if of_forward is None else "compiler"
    if of_forward is None:
        forward()
        of_forward = peak() - before
        training()
        of_training = peak() - before
    return {
        "batch_size": options.memory_batch_size,
        "bytes_held": held,
        "measured_by": measured_by,
        "forward": round(of_forward / held, 3),
        "training": round(of_training / held, 3),
        "training_with_gradients": round(of_training / (2 * held), 3),
    }


if __name__ == "__main__":
    main()
