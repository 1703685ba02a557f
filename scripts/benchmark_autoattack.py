"""Times AutoAttack against the reference and against the bare cost of its passes; run it on an idle machine.

On a machine with a GPU that the frameworks find, the reference and ours run there.

    python scripts/benchmark_autoattack.py wm_cnn_digits.smoothing --norm Linf --epsilon 0.1 --images 100

One table. `gradient` and `forward` are the bare cost of a pass of a full batch, in milliseconds. The floor of an
attack is its passes times the bare cost at the batch size of the rows that were left when it began. `attainable`
is the reference's seconds over our floor: the most that ours can be faster. `speed-up` is the reference's seconds
over ours, without compilation. `overhead` is our seconds over the floor, for each attack and for the whole run.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

REPEATS = 15


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entry", help="zoo entry, folder of a training, or .keras file")
    parser.add_argument("--norm", default="Linf")
    parser.add_argument("--epsilon", type=float, default=8 / 255)
    parser.add_argument("--broken-epsilon", type=float, help="radius at which hardly an image stays robust")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--backends", nargs="+", default=["jax", "tensorflow", "torch"])
    parser.add_argument("--dataset", help="data set of a .keras file")
    parser.add_argument("--data-dir")
    parser.add_argument("--output", type=Path, default=Path("benchmark_autoattack.json"))
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run_part(options)
        return
    parts = {}
    for part in ("reference", *options.backends):
        env = {**os.environ, "KERAS_BACKEND": "torch" if part == "reference" else part}
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--part", part], env=env, check=True)
        parts[part] = json.loads(part_path(options, part).read_text(encoding="utf-8"))
    report(options, parts)
    for part in ("reference", *options.backends):
        part_path(options, part).unlink()


def part_path(options, part):
    return options.output.with_suffix(f".{part}.partial")


def run_part(options):
    from keras_robust.subject import open_subject

    subject = open_subject(options.entry, dataset=options.dataset)
    x, y, data = subject.test_images(options.images, options.data_dir)
    size = min(options.batch_size, len(x))
    model = subject.load()
    measure = time_reference if options.part == "reference" else time_ours
    radii = {"defended": options.epsilon, "broken": options.broken_epsilon}
    found = measure(options, model, x, y, size, {name: value for name, value in radii.items() if value})
    found["data"] = data.model_dump()
    part_path(options, options.part).write_text(json.dumps(found), encoding="utf-8")


def median_ms(run):
    for _ in range(3):  # PyTorch's graphs are recorded at the third call
        run()
    seconds = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return 1e3 * sorted(seconds)[REPEATS // 2]


def time_reference(options, model, x, y, size, radii):
    from keras_robust.backend.reference_autoattack import bare_passes, run_reference
    from keras_robust.backend.torch_copy import native_torch_copy

    network = native_torch_copy(model)
    bare = {}
    for channels_last in (False, True):  # the reference is given the faster memory format
        forward, gradient = bare_passes(network, x[:size], y[:size], channels_last=channels_last)
        cost = {"forward": median_ms(forward), "gradient": median_ms(gradient), "channels_last": channels_last}
        bare = min((each for each in (bare, cost) if each), key=lambda each: each["gradient"])
    found = {"bare": bare}
    for name, epsilon in radii.items():
        rest = {"norm": options.norm, "epsilon": epsilon, "seed": options.seed, "batch_size": size}
        found[name] = run_reference(network, x, y, **rest, channels_last=bare["channels_last"])
        del found[name]["robust"]
    return found


def time_ours(options, model, x, y, size, radii):
    from keras import ops

    from keras_robust import backend, losses
    from keras_robust.attacks import AutoAttack, Predictor
    from keras_robust.evaluation.metrics import code_commit

    predictor = Predictor.of(model)
    forward = predictor.compiled("bare forward", lambda logits, batch: logits(batch))
    gradient = predictor.compiled(
        "bare gradient",
        lambda logits, batch, labels: backend.value_and_grad(
            lambda each: ops.sum(losses.cross_entropy(logits(each), labels)), batch
        ),
    )

    def bare(rows):
        batch = ops.convert_to_tensor(x[:rows]), ops.convert_to_tensor(y[:rows])
        return {
            "forward": median_ms(lambda: backend.synchronize(forward(batch[0]))),
            "gradient": median_ms(lambda: backend.synchronize(gradient(*batch))),
        }

    found = {"bare": bare(size), "code_commit": code_commit()}
    for name, epsilon in radii.items():
        attack = AutoAttack(options.norm, epsilon)
        run = {"batch_size": size, "seed": options.seed}
        # The first run compiles; the second, of the same shapes, is measured.
        first = attack.run(model, x, y, **run)
        second = attack.run(model, x, y, **run)
        after = {name: value for name, value in second.accuracy_after.items() if name != "clean"}
        begins = [second.clean_accuracy, *after.values()][:-1]
        rows = [min(size, max(1, round(each * len(x)))) for each in begins]
        found[name] = {
            "bare_of": {each: bare(count) | {"rows": count} for each, count in zip(after, rows, strict=True)},
            "accuracy_after": second.accuracy_after,
            "cost": second.cost,
            "first_seconds": first.cost["seconds"],
            "flags": [dataclasses.asdict(flag) for flag in second.flags],
        }
    return found


def floor_seconds(cost, bare):
    """Bare cost of an attack's passes; a backward pass comes with its forward pass."""
    forward, gradient = bare["forward"] / bare["rows"], bare["gradient"] / bare["rows"]
    backward_passes = cost["backward_passes"]
    return 1e-3 * (backward_passes * gradient + (cost["forward_passes"] - backward_passes) * forward)


def report(options, parts):
    size = min(options.batch_size, options.images)
    reference = parts.pop("reference")
    device = reference["defended"]["device"]
    print(f"{options.entry}, {options.norm}, {options.images} images, batch {size}, seed {options.seed}, {device}")
    columns = ("gradient", "forward", "robust", "seconds", "attainable", "speed-up", "overhead")
    table = []
    for case in ("defended", "broken"):
        if case not in reference:
            continue
        print(f"\n{case:14}" + "".join(f"{name:>11}" for name in columns))
        whole = sum(reference[case]["seconds"].values())
        robust = list(reference[case]["accuracy_after"].values())[-1]
        bare = reference["bare"]
        print(f"{'reference':14}{bare['gradient']:11.2f}{bare['forward']:11.2f}{robust:11.3f}{whole:11.1f}")
        for name, part in parts.items():
            cost, bare = part[case]["cost"], part["bare"]
            floors = {
                each: floor_seconds(values, part[case]["bare_of"][each])
                for each, values in cost["attacks"].items()
            }
            floor = sum(floors.values())
            overhead = {each: cost["attacks"][each]["seconds"] / max(floors[each], 1e-9) for each in floors}
            robust = list(part[case]["accuracy_after"].values())[-1]
            row = {
                "case": case,
                "backend": name,
                "gradient_ms": bare["gradient"],
                "forward_ms": bare["forward"],
                "robust_accuracy": robust,
                "seconds": cost["seconds"],
                "attainable": whole / floor,
                "speed_up": whole / cost["seconds"],
                "overhead": cost["seconds"] / floor,
                "overhead_of": overhead,
            }
            table.append(row)
            numbers = (robust, cost["seconds"], row["attainable"], row["speed_up"], row["overhead"])
            print(
                f"{name:14}{bare['gradient']:11.2f}{bare['forward']:11.2f}{numbers[0]:11.3f}{numbers[1]:11.1f}"
                + "".join(f"{number:11.2f}" for number in numbers[2:])
                + "   "
                + ", ".join(f"{each} {value:.2f}" for each, value in overhead.items())
            )
    content = {"entry": options.entry, "images": options.images, "batch_size": size, "seed": options.seed}
    content |= {"norm": options.norm, "epsilon": options.epsilon, "broken_epsilon": options.broken_epsilon}
    content |= {"rows": table, "reference": reference, "parts": parts}
    options.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
