"""Writes README.md of a folder of results: what agrees with the KAP paper and what does not.

    python scripts/kap/report.py                         # scripts/results/kap

Every number comes from the JSON files in the folder; the verdicts follow from the numbers.
"""

import argparse
import json
from pathlib import Path
from statistics import NormalDist

from keras_robust.certification.smoothing import lower_confidence_bound
from keras_robust.experiments.command import provenance
from keras_robust.experiments.kap_claims import (
    CLAIMS,
    certified_table,
    claims_summary,
    claims_table,
    paper_table,
    shift_table,
    sweep_table,
    topography_summary,
    topography_table,
    widest_interval,
)

FOLDER = Path(__file__).resolve().parents[1] / "results/kap"
INTRODUCTION = """# The figures of the KAP paper in their small setting

Written by `python scripts/kap/report.py` from the files beside it. Three-layer nets (3 x 3 convolutions of stride
2) on real CIFAR-10, all trained alike, on {chosen}: {provenance}.
In figures 4 and 5 the first {autoattack_images} test images are under AutoAttack (`--images`), the first
{other_images} clean, noisy and under PGD ({pgd_steps} steps). The paper trains 200 epochs on all images, and gives
its curves as pictures, so that claims are compared and not numbers.

A claim *agrees* or *contradicts* where the difference of the two networks is beyond its 95 % interval over the
images; else it is *open*: so many images do not tell; *mixed*: one number agrees and another contradicts. One
training each: what another seed would change is not in the interval.
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
    some = first["rows"][0]["recipe"]["dataset"].get("images")
    chosen = "some training images" if some else "all training images (`--all-images`)"
    lines = [INTRODUCTION.format(provenance=provenance(first), chosen=chosen, **first["setting"])]
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
    for name, (title, pictures, text) in OTHERS.items():
        if name in results:
            lines += [f"## {title}\n", *(f"![{picture}]({picture}.png)\n" for picture in pictures)]
            lines += [scope(results[name], text), "", *TABLES[name](results[name]), ""]
    note = folder / "NOTES.md"
    notes = [note.read_text(encoding="utf-8")] if note.is_file() else []
    return "\n".join([*lines, *notes, EXPLANATION])


def scope(results, text):
    """Returns what a section begins with: what was measured, and on what."""
    setting = results["setting"]
    images = setting["images"] if "images" in setting else setting["autoattack_images"]
    half = f"{100 * widest_interval(images):.0f}"
    if "alpha" in setting:
        bound = lower_confidence_bound(setting["n"], setting["n"], setting["alpha"])
        setting = setting | {"largest": f"{NormalDist().inv_cdf(float(bound)):.2f}"}
    return f"{text.format(**setting | {'images': images, 'half': half})} ({provenance(results)})"


def _columns(results):
    found = dict.fromkeys(key for row in results["rows"] for key in row["values"])
    return [key for key in found if not key.endswith(" sd")]


_WIDE = "each number is ± {half} at most (95 %)."
OTHERS = {
    "table_2": (
        "Table 2: AutoAttack's images, L2 1, with noise of sigma 0.1 on at test",
        ["table_2"],
        "Accuracy in %, the paper's (ResNet-18) in brackets; first {images} test images, " + _WIDE,
    ),
    "table_2_zoo": (
        "Table 2, the zoo's ResNet-18: AutoAttack's images, L2 1, with noise of sigma 0.1 on at test",
        ["table_2_zoo"],
        "Accuracy in %, the paper's in brackets; first {images} test images, " + _WIDE,
    ),
    "figure_6": (
        "Figure 6: certified accuracy",
        ["figure_6"],
        "Accuracy in % at each certified L2 radius, first {images} test images, n = {n}, confidence 0.999. The "
        "paper has 500 images and n = 100,000, in a picture. So many copies certify {largest} sigma at most; "
        + _WIDE,
    ),
    "table_a3": (
        "Table A3: transfer of AutoAttack's images, L2 1",
        ["table_a3"],
        "Accuracy in %, the paper's (ResNet-18) in brackets; first {images} test images, " + _WIDE,
    ),
    "figures_a3_a4": (
        "Figures A2 to A4: how far noise and AutoAttack move the activations",
        ["figure_a2", "figure_a3", "figure_a4"],
        "Distance of the activations over their clean norm, mean over those of the first {images} images that "
        "the network classifies correctly (A4); A3 has {copies} copies of one image. The paper has pictures.",
    ),
}
TABLES = {
    **dict.fromkeys(
        ("table_2", "table_2_zoo", "table_a3"), lambda results: paper_table(results, _columns(results))
    ),
    "figure_6": certified_table,
    "figures_a3_a4": shift_table,
}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    folder = parser.parse_args(arguments).folder
    (folder / "README.md").write_text(report(folder), encoding="utf-8")
    print(f"Written: {folder / 'README.md'}")


if __name__ == "__main__":
    main()
