"""Table 1 of the weak subnets paper: clean and corruption error by augmentation and method.

    python scripts/ews/table_1.py                                     # ResNet-8, 15,000 images, 10 epochs
    python scripts/ews/table_1.py --setting paper --dataset cifar100  # ResNet-50, 400 epochs

Corruptions are those of CIFAR-10-C, made here on the first test images, or read with --official. Dropout's rate is
not given in the paper and is 0.1 here. Go on after a kill with the same command.
"""

from keras_robust.experiments import run_study
from keras_robust.experiments.command import study_parser, write_results
from keras_robust.experiments.ews import AUGMENTATIONS, corruption_measure, network, row, setting_of
from keras_robust.experiments.ews_paper import NOTES, TABLE_1, fractions

COLUMNS = ("clean error", "corruption error")


def rows(setting, output, dataset, augmentations):
    first = {"cifar10": 0, "cifar100": 2}[dataset]
    return [
        row(
            f"{augmentation}_{method}",
            network(setting, method, dataset=dataset, changes=AUGMENTATIONS[augmentation]),
            output,
            paper=fractions(COLUMNS, printed[first : first + 2]),
            point={"augmentation": augmentation, "method": method},
        )
        for (augmentation, method), printed in TABLE_1.items()
        if augmentation in augmentations
    ]


def main(arguments=None):
    parser = study_parser(__doc__, "reports/ews")
    parser.add_argument("--dataset", choices=("cifar10", "cifar100"), default="cifar10")
    parser.add_argument("--augmentations", nargs="+", choices=tuple(AUGMENTATIONS), default=list(AUGMENTATIONS))
    parser.add_argument("--official", help="folder of the published CIFAR-10-C or CIFAR-100-C")
    options = parser.parse_args(arguments)
    setting, output = setting_of(options), options.output / options.setting
    name = f"table_1_{options.dataset}"
    results = run_study(
        rows(setting, output, options.dataset, options.augmentations),
        corruption_measure(setting, output, official=options.official, data_dir=options.data_dir),
        title=f"Table 1, {options.dataset}, {options.setting} setting",
        setting=setting.question(official=options.official is not None),
        output=output / name,
        trials=options.trials,
        data_dir=options.data_dir,
    )
    results["notes"] = NOTES[1]
    write_results(results, output / f"{name}.json", columns=COLUMNS)


if __name__ == "__main__":
    main()
