"""The scaling talk: clean, noisy and attacked accuracy of KAP networks by depth and by width, attack by attack.

    python scripts/kap/scaling.py                        # ResNet-8 to -20 of 8 to 32 planes, CIFAR-10
    python scripts/kap/scaling.py --setting paper        # ResNet-18 family, CIFAR-100, 200 epochs

All with KAP and noise of sigma 0.1. The slides have no numbers; their claim is a gain about linear in depth, which
depends on the attack. Go on after a kill with the same command.
"""

from keras_robust.experiments import Line, draw_lines, run_study
from keras_robust.experiments.command import provenance, study_parser, write_results
from keras_robust.experiments.kap import network, row, setting_of
from keras_robust.experiments.kap_measures import table_columns, table_of_attacks

SMALL = {
    "depth": {depth: {"builder": f"resnet{depth}"} for depth in (8, 14, 20)},
    "width": {width: {"builder": "resnet8", "planes": [width, 2 * width, 4 * width]} for width in (8, 16, 32)},
}
PAPER = {
    "depth": {2 + 8 * blocks: {"depths": [blocks] * 4} for blocks in (1, 2, 3, 4)},
    "width": {width: {"planes": [width * 2**stage for stage in range(4)]} for width in (16, 32, 64, 128)},
}


def rows(setting, output):
    """Rows of each panel, by where they stand in it."""
    dataset = "cifar100" if setting.is_paper else None
    panels = {}
    for panel, points in (PAPER if setting.is_paper else SMALL).items():
        panels[panel] = {}
        for place, arguments in points.items():
            recipe = network(setting, dataset=dataset, sigma=0.1, pooling="kap", **arguments)
            panels[panel][place] = row(f"{panel}{place}", recipe, output, point={panel: place})
    return panels


def main(arguments=None):
    options = study_parser(__doc__, "reports/kap").parse_args(arguments)
    setting, output = setting_of(options), options.output / options.setting
    results = run_study(
        [each for points in rows(setting, output).values() for each in points.values()],
        table_of_attacks(setting, data_dir=options.data_dir),
        title=f"Scaling in depth and width, {options.setting} setting",
        setting=setting.ask(epsilons=[*setting.more_epsilons, setting.epsilon], pgd_steps=setting.pgd_steps),
        output=output / "scaling",
        trials=options.trials,
        data_dir=options.data_dir,
    )
    columns = ["gaussian noise 0.1", *table_columns(setting)]
    write_results(results, output / "scaling.json", columns=columns)
    draw(results, output / "scaling.png")


def draw(results, path):
    """Draws clean, noisy and each attack at each radius against depth and width, from the results alone."""
    setting = results["setting"]
    panels, labels = {}, []
    for panel in ("depth", "width"):
        found = [each for each in results["rows"] if panel in each["point"]]
        places = [each["point"][panel] for each in found]
        for epsilon in setting["epsilons"]:
            attack = f"AutoAttack L2 {epsilon:.4g}"
            names = {"clean": "clean", "noise 0.1": "gaussian noise 0.1", "PGD": f"PGD L2 {epsilon:.4g}"}
            names |= {stage: f"{attack}, {stage} alone" for stage in ("apgd-ce", "apgd-t", "fab-t", "square")}
            names["AutoAttack"] = attack
            panels[f"{panel}, L2 {epsilon:.4g}"] = [
                Line(label, places, [each["values"][name]["mean"] for each in found])
                for label, name in names.items()
            ]
            labels.append({"depth": "layers", "width": "channels of the first stage"}[panel])
    images = setting["autoattack_images"]
    title = f"{results['title']}: {images} test images; {provenance(results)}"
    draw_lines(panels, path, x_label=labels, title=title)
    print(f"Figure: {path}")


if __name__ == "__main__":
    main()
