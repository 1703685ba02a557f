"""Table 2 of the KAP paper: AutoAttack's images, made without noise, classified with noise at test.

    python scripts/kap/table_2.py                        # three-layer nets, 15,000 CIFAR-10 images, 5 epochs
    python scripts/kap/table_2.py --setting paper
    python scripts/kap/table_2.py --entries zoo --images 64       # the ResNet-18 that are trained already

Noise of sigma 0.1 on the input, after each convolution or pooling, or on both; each a mean of ten draws. The
paper's numbers, in brackets, are ResNet-18's. Go on after a kill with the same command.
"""

import dataclasses
from pathlib import Path

from keras_robust.experiments import Line, draw_lines, run_study
from keras_robust.experiments.command import provenance, study_parser, write_results
from keras_robust.experiments.kap import NETWORKS, network, row, setting_of, trained_rows
from keras_robust.experiments.kap_measures import noise_at_test
from keras_robust.experiments.kap_paper import TABLE_2, TABLE_2_COLUMNS, fractions


def rows(setting, output):
    return [
        row(name, network(setting, **NETWORKS[name]), output, paper=fractions(TABLE_2_COLUMNS, numbers))
        for name, numbers in TABLE_2.items()
    ]


def chosen_rows(entries, setting, output):
    return (
        rows(setting, output) if entries is None else trained_rows(rows(setting, output), entries, setting.dataset)
    )


def main(arguments=None):
    parser = study_parser(__doc__, "reports/kap")
    parser.add_argument("--entries", type=Path, help="folder of trained entries; rows that it lacks are left out")
    options = parser.parse_args(arguments)
    setting = setting_of(options)
    if options.entries is not None:
        if options.epochs is not None or options.trials != 1 or options.all_images:
            parser.error(
                "--entries takes networks as they are trained: leave out --epochs, --trials and --all-images."
            )
        setting = dataclasses.replace(setting, name="zoo")
    output = options.output / setting.name
    try:
        chosen = chosen_rows(options.entries, setting, output)
    except ValueError as error:
        parser.error(str(error))
    results = run_study(
        chosen,
        noise_at_test(setting, data_dir=options.data_dir),
        title=f"Table 2, {setting.name} setting; the paper's numbers are ResNet-18's",
        setting=setting.ask(epsilon=setting.epsilon, noise=0.1),
        output=output / "table_2",
        trials=options.trials,
        data_dir=options.data_dir,
    )
    write_results(results, output / "table_2.json", columns=["clean", *TABLE_2_COLUMNS])
    draw(results, output / "table_2.png")


def draw(results, path):
    """Draws ours and the paper's side by side; 0 to 3 are noise on nothing, activations, input, both."""
    places = list(range(len(TABLE_2_COLUMNS)))
    panels = {
        "ours": [
            Line(each["name"], places, [each["values"][column]["mean"] for column in TABLE_2_COLUMNS])
            for each in results["rows"]
        ],
        "the paper's": [
            Line(each["name"], places, [each["paper"][column] for column in TABLE_2_COLUMNS])
            for each in results["rows"]
        ],
    }
    images = results["setting"]["autoattack_images"]
    draw_lines(
        panels,
        path,
        x_label="noise on: nothing, activations, input, both",
        y_label="accuracy on AutoAttack's images",
        title=f"{results['title']}\n{images} test images; {provenance(results)}",
    )
    print(f"Figure: {path}")


if __name__ == "__main__":
    main()
