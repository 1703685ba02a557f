"""Peak memory of AutoAttack against the number of images; beyond the images themselves it should not grow.

    python scripts/benchmark_memory.py kap_cnn_cifar10.noise_sigma0.1 --norm L2 --epsilon 0.1 --images 500 2000

Each row is a process of its own: the four attacks of the standard ensemble with few steps, on batches of one size.
`images` is what the images, their attacked copies and the labels take; `growth` is what a process takes more than
the one with the fewest images, without that.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entry", help="zoo entry, folder of a training, or .keras file")
    parser.add_argument("--norm", default="L2")
    parser.add_argument("--epsilon", type=float, default=0.1)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backends", nargs="+", default=["jax", "tensorflow", "torch"])
    parser.add_argument("--data-dir")
    parser.add_argument("--output", type=Path, default=Path("benchmark_memory.json"))
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(measure(options)))
        return
    rows = []
    for backend in options.backends:
        for count in sorted(options.images):
            command = [sys.executable, __file__, *sys.argv[1:], "--part", str(count)]
            env = {**os.environ, "KERAS_BACKEND": backend}
            done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
            row = {"backend": backend, **json.loads(done.stdout.splitlines()[-1])}
            first = next((each for each in rows if each["backend"] == backend), row)
            row["growth_mb"] = round(row["peak_mb"] - first["peak_mb"] - row["images_mb"] + first["images_mb"], 1)
            rows.append(row)
            print(*(f"{key} {value}" for key, value in row.items() if key != "code_commit"), sep="   ", flush=True)
    keys = ("entry", "norm", "epsilon", "batch_size", "seed")
    content = {key: getattr(options, key) for key in keys} | {"rows": rows}
    options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def measure(options):
    from keras_robust.attacks import APGD, FAB, AutoAttack, Square
    from keras_robust.evaluation.metrics import code_commit
    from keras_robust.subject import open_subject

    subject = open_subject(options.entry)
    # The data set is read whole whatever the count, so that its own memory is in every row.
    x, y, _ = subject.test_images(options.part, options.data_dir)
    ball = (options.norm, options.epsilon)
    attacks = [
        APGD(*ball, steps=5),
        APGD(*ball, steps=5, loss="targeted_dlr", targets=2),
        FAB(*ball, steps=5, targeted=True, targets=2),
        Square(*ball, queries=20),
    ]
    attack = AutoAttack(*ball, version="custom", attacks=attacks)
    result = attack.run(subject.load(), x, y, seed=options.seed, batch_size=options.batch_size)
    return {
        "images": len(x),
        "robust": round(list(result.accuracy_after.values())[-1], 4),
        "images_mb": round((x.nbytes + result.x_adv.nbytes + y.nbytes) / 2**20, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1),
        "code_commit": code_commit(),
    }


if __name__ == "__main__":
    main()
