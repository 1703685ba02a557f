"""Table 4 of the weak subnets paper: adversarial training with weak subnets on CIFAR-10, Linf 8/255.

    python scripts/ews/table_4.py                                            # ResNet-8, 15,000 images, 5 epochs
    python scripts/ews/table_4.py --setting paper --network wrn34_10         # 200 epochs
    python scripts/ews/table_4.py --setting paper --rows at_ews              # one row alone
    python scripts/ews/table_4.py --setting paper --extra-data ti_500k.npz   # the rows with pseudo-labelled images

--extra-data names an .npz in the folder of the data sets, with `pixels` (uint8) and `labels`; half of each batch
comes from it. The small setting attacks 500 images by PGD-20 and 100 by AutoAttack. Go on after a kill with the
same command.
"""

import hashlib

from keras_robust.datasets import data_folder
from keras_robust.experiments import run_study
from keras_robust.experiments.command import study_parser, write_results
from keras_robust.experiments.ews import adversarial_measure, adversarial_network, row, setting_of
from keras_robust.experiments.ews_paper import NETWORKS_4, NOTES, TABLE_4, fractions

COLUMNS = ("clean error", "PGD-20 error", "AutoAttack error")
NETWORKS = {
    "resnet8": ("resnet8", {}),
    "preact_resnet18": ("preact_resnet18", {}),
    "wrn28_10": ("wide_resnet", {"depth": 28, "width": 10}),
    "wrn34_10": ("wide_resnet", {"depth": 34, "width": 10}),
}


def rows(setting, output, network, trainings, extra_data=None):
    builder, arguments = NETWORKS[network]
    # The small net stands beside the paper's smallest.
    first = 3 * NETWORKS_4.index(network if network in NETWORKS_4 else "preact_resnet18")
    made = []
    for (training, tag), printed in TABLE_4.items():
        if training not in trainings:
            continue
        recipe = adversarial_network(
            setting,
            training.removesuffix("_500k"),
            "ews" if "ews" in tag else "vanilla",
            awp="awp" in tag,
            builder=builder,
            arguments=arguments,
            changes={"extra_data": extra_data} if training.endswith("_500k") else None,
        )
        paper = fractions(COLUMNS, printed[first : first + 3])
        made.append(row(f"{training}_{tag}", recipe, output, paper=paper, point={"training": training}))
    return made


def main(arguments=None):
    parser = study_parser(__doc__, "reports/ews")
    parser.add_argument("--network", choices=tuple(NETWORKS), help="default: resnet8, or preact_resnet18 (paper)")
    parser.add_argument("--trainings", nargs="+", choices=("at", "trades"), default=["at", "trades"])
    parser.add_argument("--rows", nargs="+", help="names of rows, such as at_ews; all by default")
    parser.add_argument("--extra-data", help="adds the rows with pseudo-labelled images of this file")
    options = parser.parse_args(arguments)
    setting, output = setting_of(options), options.output / options.setting
    network = options.network or ("preact_resnet18" if options.setting == "paper" else "resnet8")
    trainings, extra_data = list(options.trainings), None
    if options.extra_data:
        trainings.append("trades_500k")
        with (data_folder(options.data_dir) / options.extra_data).open("rb") as file:
            extra_data = {"file": options.extra_data, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    made = rows(setting, output, network, trainings, extra_data)
    known = [each.name for each in made]
    if unknown := set(options.rows or known) - set(known):
        parser.error(f"--rows must be among {', '.join(known)}; received {', '.join(sorted(unknown))}")
    results = run_study(
        [each for each in made if each.name in (options.rows or known)],
        adversarial_measure(setting, data_dir=options.data_dir),
        title=f"Table 4, {network}, {options.setting} setting",
        setting=setting.question(autoattack_images=setting.attacked_images, norm="Linf", epsilon="8/255"),
        output=output / f"table_4_{network}",
        trials=options.trials,
        data_dir=options.data_dir,
    )
    results["notes"] = NOTES[4]
    write_results(results, output / f"table_4_{network}.json", columns=COLUMNS)


if __name__ == "__main__":
    main()
