"""Table 5 of the weak subnets paper: where subnets come from, by clean and corruption error on CIFAR-10.

    python scripts/ews/table_5.py                     # ResNet-8, 15,000 images, 10 epochs
    python scripts/ews/table_5.py --setting paper     # ResNet-50, 400 epochs

Corruptions are those of CIFAR-10-C, made here on the first test images, or read with --official. Dropout is no row
of the paper's table; its rate is not given and is 0.1 here. Go on after a kill with the same command.
"""

from keras_robust.experiments import Line, draw_lines, run_study
from keras_robust.experiments.command import provenance, study_parser, write_results
from keras_robust.experiments.ews import METHODS, corruption_measure, network, row, setting_of, training_log
from keras_robust.experiments.ews_paper import NOTES, TABLE_5, fractions

COLUMNS = ("clean error", "corruption error")


def rows(setting, output):
    return [
        row(method, network(setting, method), output, paper=fractions(COLUMNS, TABLE_5[method]))
        for method in METHODS
    ]


def main(arguments=None):
    parser = study_parser(__doc__, "reports/ews")
    parser.add_argument("--official", help="folder of the published CIFAR-10-C")
    options = parser.parse_args(arguments)
    setting, output = setting_of(options), options.output / options.setting
    made = rows(setting, output)
    results = run_study(
        made,
        corruption_measure(setting, output, official=options.official, data_dir=options.data_dir),
        title=f"Table 5, {options.setting} setting",
        setting=setting.question(official=options.official is not None),
        output=output / "table_5",
        trials=options.trials,
        data_dir=options.data_dir,
    )
    results["training_accuracy"] = {each.name: training_log(each)["history"][-1]["accuracy"] for each in made}
    results["notes"] = NOTES[5]
    write_results(results, output / "table_5.json", columns=COLUMNS)
    draw(results, output / "table_5.png")


def draw(results, path):
    """Draws each error by method, ours and the paper's."""
    rows = results["rows"]
    names = [each["name"] for each in rows]
    panels = {}
    for column in COLUMNS:
        found = [each["values"][column] for each in rows]
        deviations = None if found[0]["deviation"] is None else [each["deviation"] for each in found]
        panels[column] = [
            Line("here", names, [each["mean"] for each in found], deviations),
            Line("paper", names, [each["paper"][column] for each in rows]),
        ]
    images = f"{results['setting']['images']} test images corrupted"
    title = f"{results['title']}: {images}\n{provenance(results)}; paper: ResNet-50, 400 epochs"
    draw_lines(panels, path, x_label="", y_label="error", title=title)
    print(f"Figure: {path}")


if __name__ == "__main__":
    main()
