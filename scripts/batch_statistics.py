"""Measures networks with the statistics of batch normalization of their training, and with those of clean images.

    python scripts/batch_statistics.py cnn_cifar10.noise_sigma0.1 kap_cnn_cifar10.noise_sigma0.1 \
        --output scripts/results/batch_statistics.json

A network trained with noise has statistics of noisy activations; `keras_robust.models.recalibrate` estimates those
of clean images. Writes the numbers and, beside them, a table of Markdown. A run that was killed goes on with the
network that it was at; networks that the output has already stay there, unless they are named again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from keras_robust import datasets
from keras_robust.evaluation import Corrupted, Gaussian, Metric, Metrics, evaluate
from keras_robust.evaluation.metrics import CORRUPTIONS_MEAN
from keras_robust.evaluation.protocol import make_attacks, parse_numbers
from keras_robust.files import write_atomically
from keras_robust.models import recalibrate
from keras_robust.subject import Subject, open_subject

STATISTICS = ("training", "clean")
INTRODUCTION = """# Statistics of batch normalization: those of the training, and those of clean images

Written by `scripts/batch_statistics.py`, which trains nothing. *Training*: the entry of the zoo as it is. *Clean*:
the same weights, but the statistics of batch normalization estimated anew, without noise, on the first training
images, 10,000 unless `--training-images` says otherwise (`keras_robust.models.recalibrate`). Accuracy in % ± half
its 95 % interval, in brackets how many test images or corrupted copies of them. Measured with {software}.
"""


def measure(subject: Subject, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Returns the metrics of an entry with either statistics."""
    x, y, data = subject.test_images(options.images, options.data_dir)
    train = datasets.load(subject.dataset, data_dir=options.data_dir).train
    model = subject.load()
    models = (model, recalibrate(model, train.take(min(options.training_images, len(train)))[0]))
    radii = parse_numbers("epsilons", options.epsilons)
    found = {}
    for name, each in zip(STATISTICS, models, strict=True):
        metrics = evaluate(
            each,
            x,
            y,
            attacks=make_attacks(options.attack, norm=options.norm, epsilon=radii),
            attack_images=options.attack_images,
            noise=[Gaussian(sigma) for sigma in parse_numbers("noise", options.noise)],
            further=[] if options.no_corruptions else [Corrupted()],
            seed=options.seed,
            batch_size=options.batch_size,
            data=data,
            output=Path("reports/batch_statistics") / f"{subject.name}.{name}" / "metrics.json",
            progress=show,
        )
        found[name] = [each.model_dump(mode="json") for each in shown(metrics)]
    return found


def shown(metrics: Metrics) -> list[Metric]:
    """Returns the numbers of the table: attacks as a whole, and the mean over the corruptions."""
    return [
        metric
        for metric in metrics.metrics
        if "stage" not in (metric.attack or {})
        and (metric.kind != "corruption" or metric.name == CORRUPTIONS_MEAN)
    ]


def table(results: dict[str, Any]) -> str:
    """Returns the numbers as Markdown, two rows a network."""
    measured = {
        name: {key: [Metric(**each) for each in found[key]] for key in STATISTICS}
        for name, found in results.items()
    }
    everything = [metric for found in measured.values() for metrics in found.values() for metric in metrics]
    software = sorted(
        {
            f"{each.backend} on {each.device}, code {each.short_commit}"
            for each in (metric.environment for metric in everything)
        }
    )
    columns = list(dict.fromkeys(map(heading, everything)))
    lines = [
        INTRODUCTION.format(software="; ".join(software)),
        "| network | statistics | " + " | ".join(columns) + " |",
        "|---|---|" + "---:|" * len(columns),
    ]
    for name, found in measured.items():
        for key, metrics in found.items():
            cells = {
                heading(each): f"{100 * each.value:.1f} ± {50 * (each.high - each.low):.1f}" for each in metrics
            }
            lines.append(f"| {name} | {key} | " + " | ".join(cells.get(each, "") for each in columns) + " |")
    return "\n".join(lines) + "\n"


def heading(metric: Metric) -> str:
    steps = (metric.attack or {}).get("steps")
    return f"{metric.label}{f', {steps} steps' if steps else ''} ({metric.images})"


def show(name: str, done: int, total: int, accuracy: float, detail: str) -> None:
    print(f"\r{name} {detail} {done}/{total}   ", end="\n" if done == total else "", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entries", nargs="+", help="zoo entries or folders of trainings")
    parser.add_argument("--attack", default="autoattack")
    parser.add_argument("--norm", default="L2")
    parser.add_argument("--epsilons", default="0.25,0.5")
    parser.add_argument("--noise", default="0.1,0.2", help="sigma of Gaussian noise on the pixels")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--attack-images", type=int, default=200)
    parser.add_argument("--training-images", type=int, default=10_000, help="whose statistics are taken")
    parser.add_argument("--no-corruptions", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--data-dir")
    parser.add_argument("--output", type=Path, default=Path("reports/batch_statistics/batch_statistics.json"))
    options = parser.parse_args()
    results = json.loads(options.output.read_text(encoding="utf-8")) if options.output.is_file() else {}
    for subject in [open_subject(each) for each in options.entries]:
        print(subject.name)
        results[subject.name] = measure(subject, options)
        write_atomically(options.output, json.dumps(results, indent=1) + "\n")
        write_atomically(options.output.with_suffix(".md"), table(results))
    print(table(results))


if __name__ == "__main__":
    main()
