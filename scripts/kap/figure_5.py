"""Figure 5 of the KAP paper: accuracy under AutoAttack-L2 against epsilon.

    python scripts/kap/figure_5.py                       # three-layer nets, 15,000 CIFAR-10 images, 5 epochs
    python scripts/kap/figure_5.py --setting paper       # ResNet-18, 200 epochs

Panel a: trained without noise, plain, with kernel average and with kernel maximum pooling. Panel b: with noise of
sigma 0.1, and adversarial training (small setting: PGD of 3 steps and no early stopping). Panel c: KAP by sigma.
The paper gives the curves as images only, so that no numbers stand beside ours. Go on after a kill with the same
command.
"""

from keras_robust.experiments import draw_lines, run_study
from keras_robust.experiments.command import provenance, study_parser, write_results
from keras_robust.experiments.kap import setting_of, sweep_rows
from keras_robust.experiments.kap_measures import robustness_lines, sweep, sweep_columns

PANELS = {
    "a: no noise": {"plain_sigma0": "plain", "kap_sigma0": "KAP", "kmp_sigma0": "KMP"},
    "b: sigma 0.1": {"plain_sigma0.1": "plain", "kap_sigma0.1": "KAP", "kmp_sigma0.1": "KMP", "at": "AT"},
    "c: KAP by sigma": {"kap_sigma0": "sigma 0", "kap_sigma0.1": "sigma 0.1", "kap_sigma0.2": "sigma 0.2"},
}


def rows(setting, output):
    return sweep_rows(setting, output)


def main(arguments=None):
    options = study_parser(__doc__, "reports/kap").parse_args(arguments)
    setting, output = setting_of(options), options.output / options.setting
    results = run_study(
        rows(setting, output),
        sweep(setting, data_dir=options.data_dir),
        title=f"Figure 5, {options.setting} setting",
        setting=setting.question(),
        output=output / f"sweep_{setting.builder}",
        trials=options.trials,
        data_dir=options.data_dir,
    )
    write_results(results, output / "figure_5.json", columns=sweep_columns(setting))
    draw(results, output / "figure_5.png")


def draw(results, path):
    """Draws the panels under AutoAttack, and under PGD beside it, from the results alone."""
    for attack, file in (("AutoAttack", path), ("PGD", path.with_name(f"{path.stem}_pgd.png"))):
        lines = {panel: robustness_lines(results, names, attack) for panel, names in PANELS.items()}
        images = results["setting"]["autoattack_images" if attack == "AutoAttack" else "other_images"]
        draw_lines(
            lines,
            file,
            x_label="L2 epsilon",
            y_label=f"accuracy under {attack}",
            title=f"{results['title']}: {images} test images; {provenance(results)}",
        )
        print(f"Figure: {file}")


if __name__ == "__main__":
    main()
