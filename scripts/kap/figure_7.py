"""Figures 7 and A1 of the KAP paper: first-layer kernels on the sheet, and a number for their topography.

    python scripts/kap/figure_7.py                       # three-layer nets, 15,000 CIFAR-10 images, 5 epochs
    python scripts/kap/figure_7.py --setting paper       # ResNet-18, 200 epochs

The number is the mean correlation of kernels that touch on the sheet, beside the mean over all pairs; p is the
share of shuffled sheets whose neighbours are at least as alike. Kernels are those that were trained, before any
averaging. The paper shows pictures only, of ImageNet nets too. Figure A1 is by the size K=S of the ensembles. Go
on after a kill with the same command.
"""

import numpy as np

from keras_robust.analysis import topography_figure
from keras_robust.experiments import run_study
from keras_robust.experiments.command import provenance, study_parser, write_results
from keras_robust.experiments.kap import network, row, setting_of, sweep_rows
from keras_robust.experiments.kap_measures import KERNELS, sheet

FIGURES = {
    "figure_7": {
        "plain_sigma0": "plain",
        "plain_sigma0.1": "plain, noise",
        "kmp_sigma0.1": "KMP, noise",
        "at": "AT",
        "kap_sigma0.1": "KAP, noise",
        "kap_sigma0": "KAP",
    },
    "figure_a1": {"plain_sigma0.1": "K=S=1", "ensembles2_sigma0.1": "K=S=2", "ensembles3_sigma0.1": "K=S=3"},
}


def rows(setting, output):
    """Rows of both figures: the nets of figure 5, and those of figure 4b."""
    found = {each.name: each for each in sweep_rows(setting, output)}
    builder = "kap_ensemble_cnn" if setting.is_paper else "kap_cnn"
    for size in (2, 3):
        arguments = {"width_multiplier": size, "pool_size": size, "strides": size}
        recipe = network(setting, builder=builder, sigma=0.1, pooling="kap", **arguments)
        name = f"ensembles{size}_sigma0.1"
        found[name] = row(name, recipe, output, point={"K": size})
    wanted = {name for names in FIGURES.values() for name in names}
    return [each for name, each in found.items() if name in wanted]


def main(arguments=None):
    options = study_parser(__doc__, "reports/kap").parse_args(arguments)
    setting, output = setting_of(options), options.output / options.setting
    results = run_study(
        rows(setting, output),
        sheet,
        title=f"Figures 7 and A1, {options.setting} setting",
        setting={"setting": setting.name},
        output=output / "topography",
        trials=options.trials,
        data_dir=options.data_dir,
    )
    write_results(results, output / "figure_7.json")
    for figure, names in FIGURES.items():
        sheets = {}
        for name, label in names.items():
            with np.load(output / "topography" / name / "trial0" / KERNELS) as file:
                sheets[label] = (file["kernels"], tuple(int(side) for side in file["grid"]))
        drawn = topography_figure(sheets)
        drawn.suptitle(f"First-layer kernels; {provenance(results)}", fontsize="small")
        drawn.savefig(output / f"{figure}.png", dpi=80)
        print(f"Figure: {output / figure}.png")


if __name__ == "__main__":
    main()
