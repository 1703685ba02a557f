"""Writes README.md of a folder of results: what agrees with the KAP paper and what does not.

    python scripts/kap/report.py                         # scripts/results/kap

Every number comes from the JSON files in the folder; the verdicts follow from the numbers.
"""

import argparse
import json
from pathlib import Path

from keras_robust.experiments.command import provenance
from keras_robust.experiments.kap_claims import (
    CLAIMS,
    claims_summary,
    claims_table,
    sweep_table,
    topography_summary,
    topography_table,
)

FOLDER = Path(__file__).resolve().parents[1] / "results/kap"
INTRODUCTION = """# The figures of the KAP paper in their small setting

Written by `python scripts/kap/report.py` from the files beside it. Three-layer nets (3 x 3 convolutions of stride
2) on real CIFAR-10, all trained alike: {provenance}. The first {autoattack_images} test images are
under AutoAttack, the first {other_images} clean, noisy and under PGD ({pgd_steps} steps). The paper trains 200
epochs on all images, and gives its curves as pictures, so that claims are compared and not numbers.

A claim *agrees* or *contradicts* where the difference of the two networks is beyond its 95 % interval over the
images; else it is *open*: so many images do not tell. One training each: what another seed would change is not in
the interval.
"""

EXPLANATION = """## What is behind it

KAP directly after a convolution is linear in the kernel: the network that it makes is an ordinary convolutional
network, whose kernels are the averages. What it changes is the training. With K=S the averages do not overlap, and
the change is exact: a gradient step moves an average as it would move a plain kernel with the learning rate over K
squared, and the average starts K times smaller. Batch normalisation, which follows, takes out the scale: without
noise such a net trains like the plain one from another draw of the start, and noise of sigma after the pooling is
noise of K times sigma after a plain convolution. So K=S in Figure 4b is a choice of the noise (a test holds that:
tests/models/test_ensembles.py).
"""


def report(folder):
    """Returns the text."""
    results = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    first = results["figure_5"]
    lines = [INTRODUCTION.format(provenance=provenance(first), **first["setting"])]
    for name, claims in CLAIMS.items():
        lines += claims_summary(claims, results[name]) if name in results else []
    lines += topography_summary(results["figure_7"]) if "figure_7" in results else []
    lines.append("")
    for name, claims in CLAIMS.items():
        if name not in results:
            continue
        setting = results[name]["setting"]
        columns = ["clean", "gaussian noise 0.1"]
        columns += [f"PGD L2 {epsilon:.4g}" for epsilon in setting["epsilons"]]
        columns += [f"AutoAttack L2 {epsilon:.4g}" for epsilon in setting["autoattack_epsilons"]]
        lines += [f"## {name.replace('_', ' ').capitalize()}\n", f"![{name}]({name}.png)\n"]
        lines += [
            *claims_table(claims, results[name]),
            "",
            "Accuracy in %:\n",
            *sweep_table(results[name], columns),
        ]
        middle = setting["autoattack_epsilons"][len(setting["autoattack_epsilons"]) // 2]
        stages = [f"AutoAttack L2 {middle:.4g} after {stage}" for stage in ("apgd-ce", "apgd-t", "fab-t")]
        stages.append(f"AutoAttack L2 {middle:.4g}")
        lines += ["", f"Attack by attack, each on what those before it left, L2 {middle:g}:\n"]
        lines += [*sweep_table(results[name], [f"PGD L2 {middle:.4g}", *stages]), ""]
    if "figure_7" in results:
        lines += ["## Figures 7 and A1\n", "![figure 7](figure_7.png)\n", "![figure A1](figure_a1.png)\n"]
        lines += ["Mean correlation of first-layer kernels:\n", *topography_table(results["figure_7"]), ""]
    for name, title in OTHERS.items():
        if name in results:
            columns = list(dict.fromkeys(key for row in results[name]["rows"] for key in row["values"]))
            columns = [key for key in columns if not key.endswith(" sd")]
            lines += [f"## {title}\n", *sweep_table(results[name], columns), ""]
    return "\n".join([*lines, EXPLANATION])


OTHERS = {
    "table_2": "Table 2: AutoAttack's images, L2 1, with noise of sigma 0.1 on at test",
    "table_a3": "Table A3: transfer of AutoAttack's images, L2 1",
    "figure_6": "Figure 6: certified accuracy",
}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    folder = parser.parse_args(arguments).folder
    (folder / "README.md").write_text(report(folder), encoding="utf-8")
    print(f"Written: {folder / 'README.md'}")


if __name__ == "__main__":
    main()
