"""Table 3 of the KAP paper: clean, PGD, AutoAttack and Square on TinyImageNet and ImageNet, L2.

    python scripts/kap/table_3.py                        # the same rows as three-layer nets on CIFAR-10
    python scripts/kap/table_3.py --setting paper --datasets tiny_imagenet

The paper's numbers, in brackets, are ResNet-18's on the large data sets; the small setting shows how the rows
compare, without them: three-layer nets, 15,000 CIFAR-10 images, 5 epochs, epsilon 0.25 too, no WideX4. The head of
the paper's table says PGD-Linf, its text and Table A1 PGD-L2. Go on after a kill with the same command.
"""

from pathlib import Path

from keras_robust.experiments import run_study
from keras_robust.experiments.command import study_parser, write_results
from keras_robust.experiments.kap import row, setting_of, table_recipe
from keras_robust.experiments.kap_measures import table_columns, table_of_attacks
from keras_robust.experiments.kap_paper import ATTACKS, TABLE_3, fractions

RECIPES = Path(__file__).resolve().parents[1] / "recipes/kap"
SMALL = {"tiny_imagenet": tuple(TABLE_3["tiny_imagenet"]), "imagenet": ("fast_at",)}


def rows(setting, output, names=tuple(TABLE_3)):
    return [
        row(
            f"{dataset}.{name}",
            table_recipe(setting, dataset, name, RECIPES),
            output,
            paper=fractions(ATTACKS, TABLE_3[dataset][name]),
            point={"dataset": dataset},
        )
        for dataset in names
        for name in (TABLE_3 if setting.is_paper else SMALL)[dataset]
    ]


def main(arguments=None):
    parser = study_parser(__doc__, "reports/kap")
    parser.add_argument("--datasets", nargs="+", choices=tuple(TABLE_3), default=list(TABLE_3))
    options = parser.parse_args(arguments)
    setting, output = setting_of(options), options.output / options.setting
    results = run_study(
        rows(setting, output, options.datasets),
        table_of_attacks(setting, data_dir=options.data_dir),
        title=f"Table 3, {options.setting} setting; the paper's numbers are ResNet-18's",
        setting=setting.ask(epsilons=[*setting.more_epsilons, setting.epsilon], pgd_steps=setting.pgd_steps),
        output=output / "table_3",
        trials=options.trials,
        data_dir=options.data_dir,
    )
    write_results(results, output / "table_3.json", columns=table_columns(setting))


if __name__ == "__main__":
    main()
