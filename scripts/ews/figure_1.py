"""Figure 1 of the weak subnets paper: how random subnets do on clean, noisy and adversarial images.

    python scripts/ews/figure_1.py                    # 100 subnets of each ResNet-8 of table 5
    python scripts/ews/figure_1.py --setting paper    # 1,000 subnets, ResNet-50, CIFAR-10

The networks are those of table 5, trained here if they are not there yet; the paper's are ResNet-50 on ImageNet.
Subnets keep 0.7 of the channels and run with the moving averages of the whole network. Noise is Gaussian of sigma
0.1; adversarial images are made against the whole network by PGD-10, Linf 2/255 (the paper gives neither number).
"""

from keras_robust.analysis import subnet_accuracy_figure
from keras_robust.experiments import run_study
from keras_robust.experiments.command import provenance, study_parser, write_results
from keras_robust.experiments.ews import network, read_accuracies, row, setting_of, subnet_measure

METHODS = ("vanilla", "dropout", "random", "l1", "ews")
PAPER = {"vanilla": {"clean, subnets below 20%": 0.5}}
NOTES = (
    "The paper gives the figure as an image only; its text says that more than half of the subnets of the vanilla "
    "network are below 20 % on clean images: the 50.0 in brackets is that bound.",
)


def rows(setting, output):
    return [row(each, network(setting, each), output, paper=PAPER.get(each, {})) for each in METHODS]


def main(arguments=None):
    options = study_parser(__doc__, "reports/ews").parse_args(arguments)
    setting, output = setting_of(options), options.output / options.setting
    study = output / "figure_1"
    results = run_study(
        rows(setting, output),
        subnet_measure(setting, data_dir=options.data_dir),
        title=f"Figure 1, {options.setting} setting",
        setting=setting.question(subnets=setting.subnets, rho=0.7, sigma=0.1, epsilon="2/255", pgd_steps=10),
        output=study,
        trials=options.trials,
        data_dir=options.data_dir,
    )
    results["notes"] = NOTES
    write_results(results, output / "figure_1.json")
    draw(results, study, output / "figure_1.png")


def draw(results, study, path):
    """Draws the distributions over the subnets of the first trials."""
    found = {each["name"]: read_accuracies(study, each["name"]) for each in results["rows"]}
    setting = results["setting"]
    title = f"{results['title']}: {setting['subnets']} subnets, {setting['images']} test images"
    figure = subnet_accuracy_figure(found)
    figure.suptitle(f"{title}\n{provenance(results)}", fontsize="small")
    figure.savefig(path, dpi=150)
    print(f"Figure: {path}")


if __name__ == "__main__":
    main()
