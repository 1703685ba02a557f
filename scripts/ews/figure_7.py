"""Figure 7 of the weak subnets paper: the error when half of one block is missing, block by block.

    python scripts/ews/figure_7.py                    # 100 subnets a block, each ResNet-8 of table 5
    python scripts/ews/figure_7.py --setting paper    # 100 subnets a block, ResNet-50, CIFAR-10

The networks are those of table 5, trained here if they are not there yet; the paper's are ResNet-50 on ImageNet.
Half of the channels of each layer and one of the two paths of the block are kept. The paper gives the figure as an
image only, so that no numbers stand beside ours.
"""

import textwrap

from keras_robust.analysis import block_vulnerability_figure
from keras_robust.experiments import run_study
from keras_robust.experiments.command import provenance, study_parser, write_results
from keras_robust.experiments.ews import METHODS, block_measure, network, read_blocks, row, setting_of


def rows(setting, output):
    return [row(method, network(setting, method), output) for method in METHODS]


def main(arguments=None):
    options = study_parser(__doc__, "reports/ews").parse_args(arguments)
    setting, output = setting_of(options), options.output / options.setting
    study = output / "figure_7"
    results = run_study(
        rows(setting, output),
        block_measure(setting, data_dir=options.data_dir),
        title=f"Figure 7, {options.setting} setting",
        setting=setting.question(subnets=setting.block_subnets, rho=0.5),
        output=study,
        trials=options.trials,
        data_dir=options.data_dir,
    )
    write_results(results, output / "figure_7.json")
    draw(results, study, output / "figure_7.png")


def draw(results, study, path):
    """Draws the first trials."""
    figure = block_vulnerability_figure(
        {each["name"]: read_blocks(study, each["name"]) for each in results["rows"]}
    )
    setting = results["setting"]
    figure.suptitle(
        f"{results['title']}: {setting['subnets']} subnets a block, {setting['images']} test images\n"
        f"{textwrap.fill(provenance(results), 60)}",
        fontsize="x-small",
    )
    figure.savefig(path, dpi=150)
    print(f"Figure: {path}")


if __name__ == "__main__":
    main()
