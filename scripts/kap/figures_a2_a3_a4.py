"""Figures A2 to A4 of the KAP paper: how far noise and AutoAttack move the activations, layer by layer.

    python scripts/kap/figures_a2_a3_a4.py               # three-layer nets, 15,000 CIFAR-10 images, 5 epochs
    python scripts/kap/figures_a2_a3_a4.py --setting paper

A2: a random kernel's activations, clean, noisy and attacked. A3: L2 distance of the activations on copies of one
image. A4: distance over the clean norm, over those of the first test images that the network classifies correctly.
Noise has sigma 0.1, which the paper does not state. It gives pictures only. Go on after a kill with the same
command.
"""

import numpy as np

from keras_robust.analysis import kernel_maps_figure
from keras_robust.experiments import Line, draw_lines, run_study
from keras_robust.experiments.command import provenance, study_parser, write_results
from keras_robust.experiments.kap import NETWORKS, network, row, setting_of
from keras_robust.experiments.kap_measures import MAPS, shifts

ROWS = ("standard", "noise_sigma0.1", "kap_sigma0.1")
COPIES = {"small": 25, "paper": 100}


def rows(setting, output):
    return [row(name, network(setting, **NETWORKS[name]), output) for name in ROWS]


def main(arguments=None):
    options = study_parser(__doc__, "reports/kap").parse_args(arguments)
    setting, output = setting_of(options), options.output / options.setting
    copies = COPIES[options.setting]
    results = run_study(
        rows(setting, output),
        shifts(setting, copies=copies, data_dir=options.data_dir),
        title=f"Figures A2 to A4, {options.setting} setting",
        setting=setting.ask(epsilon=setting.epsilon, noise=0.1, copies=copies),
        output=output / "shifts",
        trials=options.trials,
        data_dir=options.data_dir,
    )
    write_results(results, output / "figures_a3_a4.json")
    draw(results, output / "figures_a3_a4.png")
    maps = {}
    for name in ROWS:
        with np.load(output / "shifts" / name / "trial0" / MAPS) as file:
            maps[name] = {layer: file[layer] for layer in file.files}
    figure = kernel_maps_figure(maps, ("clean", "noise", "attack"))
    figure.suptitle(f"One kernel a layer; {provenance(results)}", fontsize="small")
    figure.savefig(output / "figure_a2.png", dpi=80)
    print(f"Figure: {output / 'figure_a2.png'}")


def draw(results, path):
    """Draws Figures A3 and A4 from the results alone; the layers are numbered from 1."""

    def line(each, prefix):
        names = [key for key in each["values"] if key.startswith(f"{prefix}, ") and not key.endswith(" sd")]
        found = [(each["values"][name]["mean"], each["values"][f"{name} sd"]["mean"]) for name in names]
        means, spread = zip(*found, strict=True)
        return Line(each["name"], range(1, len(names) + 1), means, spread)

    titles = {"noise": "A3: noise", "attack": "A3: AutoAttack"}
    titles |= {"relative noise": "A4: noise", "relative attack": "A4: AutoAttack"}
    setting = results["setting"]
    images = {
        "A3": f"{setting['copies']} copies of an image",
        "A4": f"those of {setting['autoattack_images']} images that the network classifies correctly",
    }
    for part, label in (("A3", "L2 distance of activations"), ("A4", "relative L2 distance of activations")):
        draw_lines(
            {
                title: [line(each, prefix) for each in results["rows"]]
                for prefix, title in titles.items()
                if title.startswith(part)
            },
            path.with_name(f"figure_{part.lower()}.png"),
            x_label="layer",
            y_label=label,
            title=f"{results['title']}: {images[part]}\n{provenance(results)}",
        )
        print(f"Figure: {path.with_name(f'figure_{part.lower()}.png')}")


if __name__ == "__main__":
    main()
