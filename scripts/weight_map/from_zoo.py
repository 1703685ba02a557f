"""A table of the weight map paper, its figure and our verdicts, from trained entries of the zoo.

    python scripts/weight_map/from_zoo.py 4
    python scripts/weight_map/from_zoo.py 6 --rows resnet_conv resnet_alternating_unsharp

4 has the conv, smoothing and unsharp networks on MNIST, 5 the residual and the densely connected ones on MNIST, 6
those on CIFAR-10. Nothing is trained.
OUTPUT/table_<n>_zoo.json has the test error, clean, under uniform noise and under FGSM, beside the paper's,
table_<n>_zoo.png the same as curves, and table_<n>_zoo_claims.json the paper's claims with our verdicts, and how
each layer amplifies variance. What a killed run has measured is in --work, and is not measured again.
"""

import argparse
import json
from pathlib import Path


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=int, choices=[4, 5, 6, 7])
    parser.add_argument("--entries", type=Path, default=Path("zoo"), help="folder of the trained entries")
    parser.add_argument("--rows", nargs="+", help="names of rows; all of the zoo by default")
    parser.add_argument("--images", type=int, default=10_000, help="test images, of the variances 1,000 at most")
    parser.add_argument("--rescale", nargs="+", default=["divide", "min_max", "clip"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir")
    parser.add_argument("--output", type=Path, default=Path("scripts/results/weight_map"))
    parser.add_argument("--work", type=Path, default=Path("reports/weight_map"), help="folder of single rows")
    options = parser.parse_args(arguments)

    from keras_robust.experiments import weight_map
    from keras_robust.experiments.command import write_results
    from keras_robust.experiments.curves import draw_curves
    from keras_robust.experiments.weight_map_claims import claims_report, sentence
    from keras_robust.files import write_atomically
    from keras_robust.subject import open_subject

    rows = weight_map.table(options.table, "zoo", entries=options.entries)
    rows = [row for row in rows if row.name in (options.rows or [row.name])]
    untrained = [row.name for row in rows if row.folder is None]
    if untrained or not rows:
        parser.error(
            f"{options.entries} must hold the weights of every row. Received: none of "
            f"{', '.join(untrained) or 'any'}. Train them (keras-robust train zoo/<entry>), or choose others "
            "with --rows."
        )
    name = f"table_{options.table}_zoo"
    results = weight_map.measure_table(
        options.table,
        rows,
        setting="zoo",
        images=options.images,
        rescale=options.rescale,
        seed=options.seed,
        output=options.work / name,
        data_dir=options.data_dir,
    )
    columns = weight_map.columns(weight_map.TABLES[options.table])
    write_results(results, options.output / f"{name}.json", columns=columns)
    draw_curves(results, options.output / f"{name}.png")
    claims = claims_report(
        [(options.table, results)],
        [open_subject(f"{row.folder}/") for row in rows],
        images=min(options.images, 1_000),
        seed=options.seed,
        data_dir=options.data_dir,
    )
    print(*map(sentence, claims["verdicts"]), sep="\n")
    write_atomically(options.output / f"{name}_claims.json", json.dumps(claims, indent=1) + "\n")


if __name__ == "__main__":
    main()
