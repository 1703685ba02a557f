"""Figure 5 of the weak subnets paper: clean error and cost against K, the steps between lessons of the controller.

    python scripts/ews/figure_5.py                    # ResNet-8, 5,000 images, 6 epochs
    python scripts/ews/figure_5.py --setting paper    # ResNet-50, 400 epochs

Cost is the time that training took over that of the vanilla network in the same study, as the logs have it: it
means something on a machine that did nothing else. The paper says that the error is flat up to K=10 and rises
then, and that the controller adds some 3 %. Go on after a kill with the same command.
"""

from keras_robust.experiments import Line, draw_lines, run_study
from keras_robust.experiments.command import provenance, study_parser, write_results
from keras_robust.experiments.ews import corruption_measure, network, row, sweep_setting, training_log

INTERVALS = (1, 2, 5, 10, 20, 50)
COLUMNS = ("clean error", "corruption error")


def rows(setting, output):
    made = [row("vanilla", network(setting, "vanilla"), output)]
    for interval in INTERVALS:
        recipe = network(setting, "ews", changes={"weak_subnets.interval": interval})
        made.append(row(f"interval{interval}", recipe, output, point={"K": interval}))
    return made


def main(arguments=None):
    options = study_parser(__doc__, "reports/ews").parse_args(arguments)
    setting, output = sweep_setting(options), options.output / options.setting
    made = rows(setting, output)
    results = run_study(
        made,
        corruption_measure(setting, output, data_dir=options.data_dir),
        title=f"Figure 5, {options.setting} setting",
        setting=setting.question(),
        output=output / "figure_5",
        trials=options.trials,
        data_dir=options.data_dir,
    )
    results["training_seconds"] = {each.name: training_log(each)["seconds"] for each in made}
    write_results(results, output / "figure_5.json", columns=COLUMNS)
    draw(results, output)


def draw(results, folder):
    """Draws error and cost into two files, as their axes differ."""
    rows = [each for each in results["rows"] if each["point"]]
    xs = [each["point"]["K"] for each in rows]
    lines = [Line(name, xs, [each["values"][name]["mean"] for each in rows]) for name in COLUMNS[:1]]
    vanilla = results["rows"][0]["values"]["clean error"]["mean"]
    lines.append(Line("vanilla", xs, [vanilla] * len(xs)))
    title = f"{results['title']}\n{provenance(results)}"
    options = {"x_label": "K", "title": title, "log_x": True}
    draw_lines({"error": lines}, folder / "figure_5.png", y_label="clean error", **options)
    seconds = results["training_seconds"]
    cost = [seconds[each["name"]] / seconds["vanilla"] for each in rows]
    draw_lines({"cost": [Line("", xs, cost)]}, folder / "figure_5_cost.png", y_label="times vanilla", **options)
    print(f"Figures: {folder / 'figure_5.png'}, {folder / 'figure_5_cost.png'}")


if __name__ == "__main__":
    main()
