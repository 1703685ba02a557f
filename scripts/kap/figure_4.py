"""Figure 4 of the KAP paper: AutoAttack-L2 against epsilon by depth (a), by ensemble size K=S (b), by sigma (c).

    python scripts/kap/figure_4.py                       # three-layer nets, 15,000 CIFAR-10 images, 5 epochs
    python scripts/kap/figure_4.py --panels c --setting paper --trials 3

The paper's own nets are small too; which of them is behind which panel, and sigma in a and b, are not stated: here
one to three strided convolutions, sigma 0.1. Panel c has noise on the input alone, as the text says. The paper
gives the curves as images only, so that no numbers stand beside ours. Go on after a kill with the same command.
"""

from keras_robust.experiments import draw_lines, run_study
from keras_robust.experiments.command import provenance, study_parser, write_results
from keras_robust.experiments.kap import network, row, setting_of, sweep_rows
from keras_robust.experiments.kap_measures import robustness_lines, sweep, sweep_columns

BUILDER = "kap_cnn"
TITLES = {"a": "depth", "b": "ensemble size K=S", "c": "sigma of the input noise"}
SIGMAS = {"small": (0.0, 0.1, 0.2), "paper": (0.0, 0.05, 0.1, 0.15, 0.2)}


def rows(setting, output):
    """Rows of each panel, by the label of their lines."""
    # The net whose ensembles stay 64, 144 and 225 costs nine times as much as the strided one.
    ensemble = "kap_ensemble_cnn" if setting.is_paper else BUILDER
    panels = {"a": {}, "b": {}, "c": {}}
    for pooling, label in (("kap", "KAP"), (None, "plain"))[: 2 if setting.is_paper else 1]:
        for depth in (1, 2, 3):
            # Depth 3 is the default, and the three-layer nets of figure 5 are the same trainings.
            arguments = {"pooling": pooling} | ({"depth": depth} if depth < 3 else {})
            recipe = network(setting, builder=BUILDER, sigma=0.1, **arguments)
            name = f"{label.lower()}_sigma0.1" + ("" if depth == 3 else f"_depth{depth}")
            panels["a"][f"{label}, depth {depth}"] = row(name, recipe, output, point={"depth": depth})
    for sigma in (0.1, 0.0) if setting.is_paper else (0.1,):
        for size in (1, 2, 3):
            arguments = {"pooling": "kap", "width_multiplier": size, "pool_size": size, "strides": size}
            if size == 1 and not setting.is_paper:
                arguments = {"pooling": None}  # a window of one kernel is no pooling
            recipe = network(setting, builder=ensemble, sigma=sigma, **arguments)
            name = f"plain_sigma{sigma:g}" if arguments["pooling"] is None else f"ensembles{size}_sigma{sigma:g}"
            label = f"K=S={size}, sigma {sigma:g}"
            panels["b"][label] = row(name, recipe, output, point={"K": size, "sigma": sigma})
    for sigma in SIGMAS[setting.name]:
        recipe = network(setting, builder=BUILDER, method="input_noise", sigma=sigma, pooling="kap")
        name = f"kap_input_sigma{sigma:g}" if sigma else "kap_sigma0"
        panels["c"][f"sigma {sigma:g}"] = row(name, recipe, output, point={"sigma": sigma})
    return panels


def main(arguments=None):
    parser = study_parser(__doc__, "reports/kap")
    parser.add_argument("--panels", nargs="+", choices=tuple(TITLES), default=list(TITLES))
    options = parser.parse_args(arguments)
    setting, output = setting_of(options), options.output / options.setting
    panels = {each: lines for each, lines in rows(setting, output).items() if each in options.panels}
    unique = {each.name: each for lines in panels.values() for each in lines.values()}
    # Last what figure 5 has too: another process may be at it, and it will be there by then.
    of_figure_5 = {each.name for each in sweep_rows(setting, output)}
    results = run_study(
        sorted(unique.values(), key=lambda each: each.name in of_figure_5),
        sweep(setting, data_dir=options.data_dir),
        title=f"Figure 4 {', '.join(panels)}, {options.setting} setting",
        setting=setting.question(),
        output=output / f"sweep_{BUILDER}",
        trials=options.trials,
        data_dir=options.data_dir,
    )
    results["panels"] = {
        each: {label: line.name for label, line in lines.items()} for each, lines in panels.items()
    }
    path = output / f"figure_4{''.join(panels) if len(panels) < len(TITLES) else ''}.json"
    write_results(results, path, columns=sweep_columns(setting))
    draw(results, path.with_suffix(".png"))


def draw(results, path):
    """Draws each panel under AutoAttack, and under PGD on more images, from the results alone."""
    for attack, file in (("AutoAttack", path), ("PGD", path.with_name(f"{path.stem}_pgd.png"))):
        lines = {
            f"{panel}: {TITLES[panel]}": robustness_lines(
                results, {row: label for label, row in names.items()}, attack
            )
            for panel, names in results["panels"].items()
        }
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
