"""Writes README.md of a folder of results: what agrees with the weak subnets paper and what does not.

    python scripts/ews/report.py                         # scripts/results/ews

Every number comes from the JSON files in the folder; the verdicts follow from the numbers.
"""

import argparse
import json
from pathlib import Path

from keras_robust.experiments.command import provenance
from keras_robust.experiments.ews_claims import TEST_IMAGES, claims_table
from keras_robust.experiments.study import markdown_table

FOLDER = Path(__file__).resolve().parents[1] / "results/ews"
INTRODUCTION = """# The weak subnets paper in a small setting

Written by `python scripts/ews/report.py` from the files beside it; numbers are in %, the paper's in brackets
(ResNet-50, 400 epochs, all training images). A claim *agrees* or *contradicts* where the difference is beyond its
95 % interval over the images; else it is *open*: so many images do not tell. Clean errors are over {test} test
images, others over the number that is given. One training each: what another seed would change is not in the
interval.
"""
TITLES = {
    "table_5": "Table 5: where subnets come from",
    "figure_1": "Figure 1: random subnets, rho 0.7",
    "figure_7": "Figure 7: half of one block lost",
    "figure_6": "Figure 6: lambda and rho",
    "figure_5": "Figure 5: steps between lessons of the controller",
}


def report(folder):
    """Returns the text."""
    lines = [INTRODUCTION.format(test=f"{TEST_IMAGES:,}")]
    for name, title in TITLES.items():
        path = folder / f"{name}.json"
        if not path.is_file():
            lines += [f"## {title}\n", f"Not run; `python scripts/ews/{name}.py` runs it.\n"]
            continue
        results = json.loads(path.read_text(encoding="utf-8"))
        network = results["rows"][0]["recipe"]["model"]["builder"]
        lines += [
            f"## {title}\n",
            f"{network}, {provenance(results)}; {results['setting']['images']} test images.\n",
        ]
        if (folder / f"{name}.png").is_file():
            lines += [f"![{name}]({name}.png)\n"]
        columns = list(dict.fromkeys(key for row in results["rows"] for key in row["values"]))
        lines += [*markdown_table(results, columns[:2] if "clean error" in columns else columns), ""]
        lines += [*claims_table(name, results), ""]
        if "training_accuracy" in results:
            shares = (f"{row} {100 * share:.1f}" for row, share in results["training_accuracy"].items())
            lines += [f"Accuracy on the training images in the last epoch: {', '.join(shares)}.\n"]
        lines += [f"- {note}" for note in results.get("notes", ())]
        lines += [""] if results.get("notes") else []
    note = folder / "NOTES.md"
    if note.is_file():
        lines += [note.read_text(encoding="utf-8").rstrip()]
    return "\n".join(lines).rstrip() + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    folder = parser.parse_args(arguments).folder
    (folder / "README.md").write_text(report(folder), encoding="utf-8")
    print(f"Written: {folder / 'README.md'}")


if __name__ == "__main__":
    main()
