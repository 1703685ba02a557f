"""Figures 2 to 4 of the weight map paper: test error against uniform noise and against the epsilon of FGSM.

    python scripts/weight_map/figures_2_3_4.py reports/weight_map/table_4_zoo/results.json

One figure beside each result file of `tables.py`, or at --output for one file: a panel for each reading of the
noise's "renormalized to be within [0,1]" that was measured, and one for FGSM. The paper prints no numbers there.
"""

import argparse
import json
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.output and len(options.results) > 1:
        parser.error("--output is for one result file")

    from keras_robust.experiments.curves import draw_curves

    for path in options.results:
        draw_curves(json.loads(path.read_text(encoding="utf-8")), options.output or path.with_name("curves.png"))


if __name__ == "__main__":
    main()
