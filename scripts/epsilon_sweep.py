"""Accuracy against epsilon for several models (Fig. 5 of the KAP paper, L2 from 0.1 to 4).

    python scripts/epsilon_sweep.py cnn_cifar10.standard kap_cnn_cifar10.noise_sigma0.1 \
        --attacks pgd --images 200 --output reports/epsilon_sweep

Each model's metrics go to OUTPUT/<model>/metrics.json, the figure to OUTPUT/figure.png. A run that was killed
goes on.
"""

import argparse
from pathlib import Path

EPSILONS = "0.1,0.25,0.5,1,1.5,2,3,4"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entries", nargs="+", help="zoo entries or folders of trainings, of one data set")
    parser.add_argument("--attacks", default="autoattack", help="one or several, such as pgd,autoattack")
    parser.add_argument("--norm", default="L2")
    parser.add_argument("--epsilons", default=EPSILONS)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--data-dir")
    parser.add_argument("--output", type=Path, default=Path("reports/epsilon_sweep"))
    options = parser.parse_args()

    from rich.console import Console

    from keras_robust.evaluation import evaluate
    from keras_robust.evaluation.compare import comparison_table, read_results
    from keras_robust.evaluation.protocol import make_attacks, parse_numbers
    from keras_robust.evaluation.report import save_figure
    from keras_robust.subject import open_subject

    radii = parse_numbers("epsilons", options.epsilons)
    names = options.attacks.split(",")
    attacks = [each for name in names for each in make_attacks(name, norm=options.norm, epsilon=radii)]
    files = []
    for subject in [open_subject(each) for each in options.entries]:
        x, y, data = subject.test_images(options.images, options.data_dir)
        files.append(options.output / subject.name / "metrics.json")
        if files[-1].is_file():
            if not holds(files[-1], subject, attacks, data, options.seed):
                parser.error(f"{files[-1]} holds other attacks, images, seed or weights; give another --output")
            print(f"Already measured: {files[-1]}")
            continue
        run = {"seed": options.seed, "batch_size": options.batch_size, "data": data}
        evaluate(subject.load(), x, y, attacks=attacks, output=files[-1], progress=show, **run)
    results = read_results(files)
    Console().print(comparison_table(results))
    save_figure(results, options.output / "figure.png")
    print(f"Figure: {options.output / 'figure.png'}")


def holds(path, subject, attacks, data, seed):
    """Tells whether a finished file is the answer to this question."""
    from keras_robust.evaluation import Metrics
    from keras_robust.evaluation.describe import describe
    from keras_robust.zoo.entry import WEIGHTS

    weights = subject.path / WEIGHTS if subject.path.is_dir() else subject.path
    if weights.stat().st_mtime > path.stat().st_mtime:
        return False
    metrics = Metrics.load(path)
    found = [{k: v for k, v in metric.attack.items() if k != "notes"} for metric in metrics.of_kind("attack")]
    same = metrics.clean.data == data and metrics.clean.seed == seed
    return same and all(describe(attack) in found for attack in attacks)


def show(name, done, total, accuracy, detail):
    print(
        f"\r{name} {detail} {done}/{total}, accuracy {accuracy:.1%}   ",
        end="\n" if done == total else "",
        flush=True,
    )


if __name__ == "__main__":
    main()
