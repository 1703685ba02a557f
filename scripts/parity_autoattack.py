"""Compares our AutoAttack with the reference on the same weights and images, after every attack.

    python scripts/parity_autoattack.py wm_cnn_digits.smoothing --norm Linf --epsilon 0.1 --images 100 \
        --backends jax tensorflow torch --output parity.json

Parts that a broken run has finished are not run again: they lie beside the output file.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entry", help="zoo entry, folder of a training, or .keras file")
    parser.add_argument("--norm", default="Linf")
    parser.add_argument("--epsilon", type=float, default=8 / 255)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--backends", nargs="+", default=["jax", "tensorflow", "torch"])
    parser.add_argument("--dataset", help="data set of a .keras file")
    parser.add_argument("--data-dir")
    parser.add_argument("--output", type=Path, default=Path("parity_autoattack.json"))
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run_part(options)
        return
    parts = {}
    for part in ("reference", *options.backends):
        backend = "torch" if part == "reference" else part
        if not part_path(options, part).is_file():
            command = [sys.executable, __file__, *sys.argv[1:], "--part", part]
            subprocess.run(command, env={**os.environ, "KERAS_BACKEND": backend}, check=True)
        parts[part] = json.loads(part_path(options, part).read_text(encoding="utf-8"))
    report(options, parts)


def part_path(options, part):
    radius = f"{options.norm}_{options.epsilon:.6g}_{options.images}_{options.seed}"
    return options.output.with_suffix(f".{Path(options.entry).name}.{radius}.{part}.json")


def run_part(options):
    from keras_robust.attacks import AutoAttack
    from keras_robust.evaluation.metrics import code_commit
    from keras_robust.subject import open_subject

    subject = open_subject(options.entry, dataset=options.dataset)
    x, y, data = subject.test_images(options.images, options.data_dir)
    path = part_path(options, options.part)
    ball = {"norm": options.norm, "epsilon": options.epsilon}
    rest = {"seed": options.seed, "batch_size": options.batch_size}
    model = subject.load()
    if options.part == "reference":
        from keras_robust.backend.reference_autoattack import run_reference
        from keras_robust.backend.torch_copy import native_torch_copy

        network = native_torch_copy(model)
        found = run_reference(network, x, y, **ball, **rest, state_path=path.with_suffix(".state"))
        found["robust"] = list(found["robust"].values())[-1]
    else:
        result = AutoAttack(**ball).run(model, x, y, **rest, state_path=path.with_suffix(".state"))
        result = result.to_dict()
        found = {name: result[name] for name in ("accuracy_after", "robust", "flags", "cost")}
        found["seconds"] = {name: each["seconds"] for name, each in result["cost"]["attacks"].items()}
    found |= {"code_commit": code_commit(), "data": data.model_dump(), **ball, **rest}
    path.write_text(json.dumps(found), encoding="utf-8")
    path.with_suffix(".state").unlink(missing_ok=True)


def report(options, parts):
    reference = parts["reference"]
    stages = list(reference["accuracy_after"])
    print(f"{options.entry}, {options.norm} {options.epsilon:.4g}, {options.images} images, seed {options.seed}")
    print(f"{'':12}" + "".join(f"{stage:>10}" for stage in stages) + f"{'agree':>10}{'seconds':>10}")
    table = {}
    for name, part in parts.items():
        same = sum(a == b for a, b in zip(part["robust"], reference["robust"], strict=True)) / len(part["robust"])
        values = [100 * part["accuracy_after"][stage] for stage in stages]
        seconds = sum(part["seconds"].values())
        print(f"{name:12}" + "".join(f"{value:10.2f}" for value in values) + f"{100 * same:10.2f}{seconds:10.1f}")
        differences = [part["accuracy_after"][stage] - reference["accuracy_after"][stage] for stage in stages]
        table[name] = {
            "accuracy_after": part["accuracy_after"],
            "agreement": same,
            "largest_difference": max(map(abs, differences)),
            "last_difference": differences[-1],
            "seconds": part["seconds"],
            "code_commit": part["code_commit"],
        }
    content = {
        "entry": options.entry,
        "norm": options.norm,
        "epsilon": options.epsilon,
        "images": options.images,
        "seed": options.seed,
        "batch_size": options.batch_size,
        "data": reference["data"],
        "parts": table,
    }
    options.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
