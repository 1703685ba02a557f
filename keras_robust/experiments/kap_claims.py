"""What the kernel average pooling paper says of its figures, held against measured results."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from keras_robust.experiments.kap_measures import CERTIFIED_SIGMAS, CLEAN_OF_ATTACKED, RADII

AGREES, CONTRADICTS, OPEN = "agrees", "contradicts", "open"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence of the paper as a difference of two networks.

    Args:
        figure: Panel of the paper.
        text: What it says, in our words.
        better: Row that should be higher.
        worse: Row that should be lower.
        keys: Numbers to compare them by.
    """

    figure: str
    text: str
    better: str
    worse: str
    keys: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One number of a claim.

    Attributes:
        better: Accuracy of the network that should be higher, a fraction.
        worse: Accuracy of the other.
        half: Half width of the 95 % interval of their difference over the images, as if they were not the same.
        verdict: `"agrees"` or `"contradicts"` where the difference is beyond the interval, else `"open"`.
    """

    better: float
    worse: float
    half: float
    verdict: str


def robust(*radii: float) -> tuple[str, ...]:
    """Returns the names of PGD and of AutoAttack at L2 radii."""
    return tuple(f"{attack} L2 {radius:.4g}" for radius in radii for attack in ("PGD", "AutoAttack"))


_UNDER = robust(0.25, 0.5)
CLAIMS = {
    "figure_4": (
        Claim("4a", "depth 3 is more robust than depth 1, KAP", "kap_sigma0.1", "kap_sigma0.1_depth1", _UNDER),
        Claim(
            "4a", "depth 2 is more robust than depth 1, KAP", "kap_sigma0.1_depth2", "kap_sigma0.1_depth1", _UNDER
        ),
        Claim("4b", "ensembles of K=S=2 are more robust than 1", "ensembles2_sigma0.1", "plain_sigma0.1", _UNDER),
        Claim("4b", "ensembles of K=S=3 are more robust than 1", "ensembles3_sigma0.1", "plain_sigma0.1", _UNDER),
        Claim("4c", "input noise 0.1 is more robust than none, KAP", "kap_input_sigma0.1", "kap_sigma0", _UNDER),
        Claim(
            "4c",
            "input noise 0.2 is more robust than 0.1, KAP",
            "kap_input_sigma0.2",
            "kap_input_sigma0.1",
            _UNDER,
        ),
        Claim("4c", "more input noise costs clean accuracy, KAP", "kap_sigma0", "kap_input_sigma0.2", ("clean",)),
    ),
    "figure_5": (
        Claim(
            "5a", "KAP without noise beats plain at small epsilon", "kap_sigma0", "plain_sigma0", robust(0.1, 0.25)
        ),
        Claim("5a", "KMP without noise is no better than plain", "plain_sigma0", "kmp_sigma0", robust(0.1, 0.25)),
        Claim("5b", "KAP with noise beats plain with noise", "kap_sigma0.1", "plain_sigma0.1", _UNDER),
        Claim(
            "5b", "KMP with noise is less robust than plain with noise", "plain_sigma0.1", "kmp_sigma0.1", _UNDER
        ),
        Claim("5b", "KMP with noise is less robust than KAP with noise", "kap_sigma0.1", "kmp_sigma0.1", _UNDER),
        Claim("5b", "adversarial training beats KAP at epsilon 1", "at", "kap_sigma0.1", robust(1.0)),
        Claim("5c", "sigma 0.1 is more robust than 0, KAP", "kap_sigma0.1", "kap_sigma0", _UNDER),
        Claim("5c", "sigma 0.2 is more robust than 0.1, KAP", "kap_sigma0.2", "kap_sigma0.1", _UNDER),
        Claim("5c", "sigma 0.2 costs clean accuracy, KAP", "kap_sigma0", "kap_sigma0.2", ("clean",)),
    ),
}


def findings(claim: Claim, results: Mapping[str, Any]) -> dict[str, Finding]:
    """Compares the two networks of a claim by each of its numbers that was measured.

    Args:
        claim: The claim.
        results: What `run_study` wrote for the measure `sweep`.

    Returns:
        A finding for each number.
    """
    values = {row["name"]: row["values"] for row in results["rows"]}
    setting = results["setting"]
    found = {}
    for key in claim.keys:
        if key not in values[claim.better]:
            continue
        automatic = key.startswith("AutoAttack") or key == CLEAN_OF_ATTACKED
        images = setting["autoattack_images" if automatic else "other_images"]
        better, worse = (values[name][key]["mean"] for name in (claim.better, claim.worse))
        half = 1.96 * math.sqrt((better * (1 - better) + worse * (1 - worse)) / images)
        verdict = AGREES if better - worse > half else CONTRADICTS if worse - better > half else OPEN
        found[key] = Finding(better, worse, half, verdict)
    return found


def verdict(claim: Claim, results: Mapping[str, Any]) -> str:
    """Returns the verdict of all numbers of a claim together; `"mixed"` where they contradict each other."""
    found = {each.verdict for each in findings(claim, results).values()} - {OPEN}
    return "mixed" if len(found) > 1 else next(iter(found), OPEN)


def claims_summary(claims: Sequence[Claim], results: Mapping[str, Any]) -> list[str]:
    """Returns a Markdown list of claims, each with its verdict."""
    return [f"- {claim.figure}: {claim.text}: **{verdict(claim, results)}**" for claim in claims]


def topography_summary(results: Mapping[str, Any]) -> list[str]:
    """Returns a Markdown list: which first layers are laid out more smoothly than 99 of 100 shuffled sheets."""
    lines = []
    for row in results["rows"]:
        near, every, p = (row["values"][name]["mean"] for name in ("neighbours", "all pairs", "p"))
        found = "neighbours are alike" if p <= 0.01 and near > every else "neighbours are like any two"
        lines.append(f"- 7: {row['name']}: **{found}**")
    return lines


def claims_table(claims: Sequence[Claim], results: Mapping[str, Any]) -> list[str]:
    """Returns a Markdown table of claims, numbers in per cent."""
    lines = ["| figure | the paper | measured | should be higher | lower | difference | |", "|" + "---|" * 7]
    for claim in claims:
        for key, each in findings(claim, results).items():
            gap = f"{100 * (each.better - each.worse):+.1f} ± {100 * each.half:.1f}"
            lines.append(
                f"| {claim.figure} | {claim.text} | {key} | {100 * each.better:.1f} | {100 * each.worse:.1f} | "
                f"{gap} | {each.verdict} |"
            )
    return lines


def sweep_table(results: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """Returns a Markdown table of a study's numbers in per cent."""
    lines = [f"| row | {' | '.join(columns)} |", "|---" + "|---:" * len(columns) + "|"]
    for row in results["rows"]:
        cells = (f"{100 * row['values'][name]['mean']:.1f}" if name in row["values"] else "" for name in columns)
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return lines


def paper_table(results: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """Returns a Markdown table of a study's numbers in per cent, the paper's in brackets."""
    lines = [f"| row | {' | '.join(columns)} |", "|---" + "|---:" * len(columns) + "|"]
    for row in results["rows"]:
        cells = []
        for name in columns:
            given = f" ({100 * row['paper'][name]:.1f})" if name in row["paper"] else ""
            cells.append(f"{100 * row['values'][name]['mean']:.1f}{given}")
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return lines


def certified_table(results: Mapping[str, Any]) -> list[str]:
    """Returns a Markdown table of certified accuracy in per cent, a column for each radius."""
    lines = [f"| row | sigma | {' | '.join(f'{radius:g}' for radius in RADII)} |"]
    lines.append("|---|---:" + "|---:" * len(RADII) + "|")
    for sigma in CERTIFIED_SIGMAS:
        for row in results["rows"]:
            found = (row["values"][f"sigma {sigma:g}, radius {radius:g}"]["mean"] for radius in RADII)
            cells = " | ".join(f"{100 * value:.0f}" for value in found)
            lines.append(f"| {row['name']} | {sigma:g} | {cells} |")
    return lines


def shift_table(results: Mapping[str, Any]) -> list[str]:
    """Returns a Markdown table: how far noise and AutoAttack move activations, as a share of their clean norm."""
    names = [key for key in results["rows"][0]["values"] if key.startswith("relative ") and key[-3:] != " sd"]
    layers = list(dict.fromkeys(name.split(", ", 1)[1] for name in names))
    lines = [f"| row | by | {' | '.join(layers)} |", "|---|---" + "|---:" * len(layers) + "|"]
    for row in results["rows"]:
        for kind in ("noise", "attack"):
            found = (row["values"][f"relative {kind}, {layer}"]["mean"] for layer in layers)
            lines.append(f"| {row['name']} | {kind} | {' | '.join(f'{value:.2f}' for value in found)} |")
    return lines


def widest_interval(images: int) -> float:
    """Returns the half width of the 95 % interval of an accuracy of one half over so many images."""
    return 1.96 * math.sqrt(0.25 / images)


def topography_table(results: Mapping[str, Any]) -> list[str]:
    """Returns a Markdown table of the topography of first layers."""
    lines = ["| row | neighbours on the sheet | all pairs | p of shuffled sheets |", "|---|---:|---:|---:|"]
    for row in results["rows"]:
        near, every, p = (row["values"][name]["mean"] for name in ("neighbours", "all pairs", "p"))
        lines.append(f"| {row['name']} | {near:.3f} | {every:.3f} | {p:.3f} |")
    return lines
