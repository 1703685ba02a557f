"""Tables 4 to 7 of the weight map paper: test error, clean, under uniform noise and under FGSM.

    python scripts/weight_map/tables.py 4 --setting small --rows cnn smoothing unsharp
    python scripts/weight_map/tables.py 6 --setting zoo --entries zoo
    python scripts/weight_map/tables.py 7 --setting paper --data-dir FOLDER

4 has the small networks on MNIST; 5, 6 and 7 have the ResNets and DenseNets on MNIST, CIFAR-10 and iWildCam 2019
(a download by hand; the error of an absent one says how). The setting "zoo" has the rows of the zoo, and takes
their weights from --entries. Each row is trained and measured in OUTPUT/<row>/trial<k>; a run that was killed goes
on. OUTPUT/results.json holds our numbers beside the paper's. In table 4 the wide network and kernel 9 in
convolutions cost 10 to 80 times the other rows.
"""

import argparse
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=int, choices=[4, 5, 6, 7])
    parser.add_argument("--setting", choices=["small", "zoo", "paper"], default="small")
    parser.add_argument("--rows", nargs="+", help="names of rows; all by default")
    parser.add_argument("--epochs", type=int, help="epochs of each training; the paper has 300")
    parser.add_argument("--trials", type=int, help="trainings of each row; the paper has 3")
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--rescale", nargs="+", default=["divide"], help="divide, min_max, clip")
    parser.add_argument("--entries", type=Path, help="folder of trained zoo entries, for --setting zoo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    from rich.console import Console

    from keras_robust.experiments import study_table, weight_map

    rows = weight_map.table(options.table, options.setting, epochs=options.epochs, entries=options.entries)
    known = [row.name for row in rows]
    if unknown := set(options.rows or known) - set(known):
        parser.error(f"--rows must be among {', '.join(known)}; received {', '.join(sorted(unknown))}")
    results = weight_map.measure_table(
        options.table,
        [row for row in rows if row.name in (options.rows or known)],
        setting=options.setting,
        images=options.images,
        rescale=options.rescale,
        seed=options.seed,
        output=options.output or Path(f"reports/weight_map/table_{options.table}_{options.setting}"),
        trials=options.trials,
        data_dir=options.data_dir,
    )
    Console().print(study_table(results, columns=weight_map.columns(weight_map.TABLES[options.table])))


if __name__ == "__main__":
    main()
