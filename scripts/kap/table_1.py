"""Table 1 of the KAP paper: clean, PGD, AutoAttack and Square on CIFAR-10 and CIFAR-100, L2.

    python scripts/kap/table_1.py                        # three-layer nets, 15,000 CIFAR-10 images, 5 epochs
    python scripts/kap/table_1.py --setting paper --trials 3

The paper's numbers, in brackets, are ResNet-18's; the small setting has three-layer nets, epsilon 0.25 too, and AT
without early stopping. Each attack of AutoAttack is measured alone as well: where PGD leaves far more than Square,
gradients are masked and PGD's number means nothing. Go on after a kill with the same command.
"""

from pathlib import Path

from keras_robust.experiments import run_study
from keras_robust.experiments.command import study_parser, write_results
from keras_robust.experiments.kap import row, setting_of, table_recipe
from keras_robust.experiments.kap_measures import table_columns, table_of_attacks
from keras_robust.experiments.kap_paper import ATTACKS, TABLE_1, fractions

RECIPES = Path(__file__).resolve().parents[1] / "recipes/kap"


def rows(setting, output, names=tuple(TABLE_1)):
    return [
        row(
            f"{dataset}.{name}",
            table_recipe(setting, dataset, name, RECIPES),
            output,
            paper=fractions(ATTACKS, numbers),
            point={"dataset": dataset},
        )
        for dataset in names
        for name, numbers in TABLE_1[dataset].items()
    ]


def main(arguments=None):
    parser = study_parser(__doc__, "reports/kap")
    help_text = "both in the paper setting, cifar10 in the small one"
    parser.add_argument("--datasets", nargs="+", choices=tuple(TABLE_1), help=help_text)
    options = parser.parse_args(arguments)
    setting, output = setting_of(options), options.output / options.setting
    names = options.datasets or (tuple(TABLE_1) if setting.is_paper else ("cifar10",))
    results = run_study(
        rows(setting, output, names),
        table_of_attacks(setting, data_dir=options.data_dir),
        title=f"Table 1, {options.setting} setting; the paper's numbers are ResNet-18's",
        setting=setting.ask(epsilons=[*setting.more_epsilons, setting.epsilon], pgd_steps=setting.pgd_steps),
        output=output / "table_1",
        trials=options.trials,
        data_dir=options.data_dir,
    )
    write_results(results, output / "table_1.json", columns=table_columns(setting))


if __name__ == "__main__":
    main()
