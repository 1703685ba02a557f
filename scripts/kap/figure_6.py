"""Figure 6 of the KAP paper: certified accuracy against the L2 radius, nets trained with noise of sigma 0.1.

    python scripts/kap/figure_6.py                       # three-layer nets, 1,000 noisy copies of 100 images
    python scripts/kap/figure_6.py --setting paper       # ResNet-18, 100,000 copies of 500 images, as the paper

A panel for each sigma of the certificates, which the paper varies without saying how; confidence 0.999, the
default of Cohen et al. The paper gives the curves as an image only. Go on after a kill with the same command.
"""

from keras_robust.experiments import Line, draw_lines, run_study
from keras_robust.experiments.command import provenance, study_parser, write_results
from keras_robust.experiments.kap import NETWORKS, network, row, setting_of
from keras_robust.experiments.kap_measures import CERTIFIED_SIGMAS, RADII, certified

COPIES = {"small": (1000, 100), "paper": (100_000, 500)}


def rows(setting, output):
    names = ("noise_sigma0.1", "kap_sigma0.1")
    return [row(name, network(setting, **NETWORKS[name]), output) for name in names]


def main(arguments=None):
    options = study_parser(__doc__, "reports/kap").parse_args(arguments)
    setting, output = setting_of(options), options.output / options.setting
    n, images = COPIES[options.setting]
    images = options.images or images
    results = run_study(
        rows(setting, output),
        certified(setting, n=n, images=images, data_dir=options.data_dir),
        title=f"Figure 6, {options.setting} setting",
        setting={"setting": setting.name, "images": images, "n0": 100, "n": n, "alpha": 0.001},
        output=output / "figure_6",
        trials=options.trials,
        data_dir=options.data_dir,
    )
    write_results(results, output / "figure_6.json", columns=[f"sigma {s:g}, radius 0" for s in CERTIFIED_SIGMAS])
    draw(results, output / "figure_6.png")


def draw(results, path):
    """Draws the curves from the results alone."""

    def curve(each, sigma):
        return [each["values"][f"sigma {sigma:g}, radius {radius:g}"]["mean"] for radius in RADII]

    setting = results["setting"]
    panels = {
        f"certificates of sigma {sigma:g}": [
            Line(each["name"], RADII, curve(each, sigma)) for each in results["rows"]
        ]
        for sigma in CERTIFIED_SIGMAS
    }
    draw_lines(
        panels,
        path,
        x_label="L2 radius",
        y_label="certified accuracy",
        title=f"{results['title']}: {setting['images']} test images, n = {setting['n']:,}; {provenance(results)}",
    )
    print(f"Figure: {path}")


if __name__ == "__main__":
    main()
