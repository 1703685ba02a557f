"""Table A3 of the KAP paper: KAP networks on AutoAttack's images of a plain and an adversarially trained network.

    python scripts/kap/table_a3.py                       # three-layer nets, 15,000 CIFAR-10 images, 5 epochs
    python scripts/kap/table_a3.py --setting paper

Every network is attacked with every network's images; the paper has two sources. Its numbers, in brackets, are
ResNet-18's. `scripts/transfer.py` does the same for entries of the zoo. Go on after a kill with the same command.
"""

from keras_robust.evaluation.transfer import save_transfer_figure
from keras_robust.experiments import attacked_and_noisy, run_study
from keras_robust.experiments.command import study_parser, write_results
from keras_robust.experiments.kap import NETWORKS, network, row, setting_of, trained_model
from keras_robust.experiments.kap_measures import transfer_between, transfer_rows
from keras_robust.experiments.kap_paper import TABLE_A3

ROWS = ("standard", "at", "kap_sigma0.1", "kap_sigma0.2")


def rows(setting, output):
    return [row(name, network(setting, **NETWORKS[name]), output) for name in ROWS]


def main(arguments=None):
    options = study_parser(__doc__, "reports/kap").parse_args(arguments)
    setting, output = setting_of(options), options.output / options.setting
    networks = rows(setting, output)
    study = run_study(
        networks,
        attacked_and_noisy(images=setting.images, data_dir=options.data_dir),
        title=f"Table A3, {options.setting} setting; the paper's numbers are ResNet-18's",
        setting=setting.ask(epsilon=setting.epsilon),
        output=output / "table_a3",
        data_dir=options.data_dir,
    )
    models = {each.name: trained_model(each, output) for each in networks}
    table = transfer_between(models, networks[0].recipe, setting, output / "table_a3", data_dir=options.data_dir)
    results = transfer_rows(study, table, TABLE_A3)
    write_results(results, output / "table_a3.json", columns=["clean", *(f"images of {name}" for name in ROWS)])
    save_transfer_figure(table, output / "table_a3.png")
    print(f"Figure: {output / 'table_a3.png'}")


if __name__ == "__main__":
    main()
