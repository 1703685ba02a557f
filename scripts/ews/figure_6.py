"""Figure 6 of the weak subnets paper: clean error against lambda and against rho.

    python scripts/ews/figure_6.py                    # ResNet-8, 5,000 images, 6 epochs
    python scripts/ews/figure_6.py --setting paper    # ResNet-50, 400 epochs

The paper says that lambda 1 is best and 10 still better than 0, and that rho 0.5 and 0.7 are best. Paths are kept
as everywhere here, rounded up: one of two at rho 0.5 and below, both above. Go on after a kill with the same
command.
"""

from keras_robust.experiments import Line, draw_lines, run_study
from keras_robust.experiments.command import provenance, study_parser, write_results
from keras_robust.experiments.ews import corruption_measure, network, row, sweep_setting

SWEEPS = {
    "lambda": ("distillation_weight", (0.0, 0.001, 0.01, 0.1, 1.0, 10.0)),
    "rho": ("rho", (0.1, 0.3, 0.5, 0.7, 0.9)),
}
COLUMNS = ("clean error", "corruption error")


def rows(setting, output):
    made = []
    for symbol, (key, values) in SWEEPS.items():
        for value in values:
            # Without a divergence nothing is left of the method, and the search would only cost time.
            recipe = network(setting, "ews", changes={f"weak_subnets.{key}": value})
            if value == 0.0:
                recipe = network(setting, "vanilla")
            made.append(row(f"{symbol}{value:g}", recipe, output, point={symbol: value}))
    return made


def main(arguments=None):
    options = study_parser(__doc__, "reports/ews").parse_args(arguments)
    setting, output = sweep_setting(options), options.output / options.setting
    results = run_study(
        rows(setting, output),
        corruption_measure(setting, output, data_dir=options.data_dir),
        title=f"Figure 6, {options.setting} setting",
        setting=setting.question(),
        output=output / "figure_6",
        trials=options.trials,
        data_dir=options.data_dir,
    )
    write_results(results, output / "figure_6.json", columns=COLUMNS)
    draw(results, output / "figure_6.png")


def draw(results, path):
    """Draws both sweeps, one place for each value."""
    panels = {}
    for symbol in SWEEPS:
        rows = [each for each in results["rows"] if symbol in each["point"]]
        places = [f"{each['point'][symbol]:g}" for each in rows]
        panels[symbol] = [Line(name, places, [each["values"][name]["mean"] for each in rows]) for name in COLUMNS]
    title = f"{results['title']}: {provenance(results)}"
    draw_lines(panels, path, x_label=list(SWEEPS), y_label="error", title=title)
    print(f"Figure: {path}")


if __name__ == "__main__":
    main()
