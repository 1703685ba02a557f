"""Curves over noise and attacks, read from the results of a study, and which of two lies lower."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_robust.checks import check_choice
from keras_robust.evaluation.metrics import wilson_interval
from keras_robust.experiments.command import provenance
from keras_robust.experiments.figure import Line, draw_lines

_NAMES = {"noise": r"error uniform noise ([0-9.e-]+)", "attack": r"error FGSM Linf ([0-9.e-]+)"}


def curve(row: Mapping[str, Any], kind: str, *, reading: str = "divide") -> dict[float, Mapping[str, Any]]:
    """Returns the test errors of a row by level, from the clean images on.

    Args:
        row: One of `results["rows"]` of a study that was measured with `weight_map.errors`.
        kind: `"noise"` (levels are widths) or `"attack"` (radii).
        reading: Reading of the noise's renormalisation, see `Uniform`.

    Returns:
        For each level, in rising order, mean, deviation and trials.
    """
    check_choice("kind", kind, tuple(_NAMES))
    end = f" {reading}" if kind == "noise" and reading != "divide" else ""
    found = {0.0: row["values"]["error clean"]}
    for name, number in row["values"].items():
        match = re.fullmatch(_NAMES[kind] + end, name)
        if match:
            found[float(match[1])] = number
    return dict(sorted(found.items()))


def error_lines(results: Mapping[str, Any], kind: str, *, reading: str = "divide") -> list[Line]:
    """Returns one line a row, in per cent, with the deviation over the trials where there are several.

    Labels have the row's error on clean images, and the paper's where it prints one.

    Args:
        results: What `run_study` returned.
        kind: As for `curve`.
        reading: As for `curve`.
    """
    lines = []
    for row in results["rows"]:
        levels = curve(row, kind, reading=reading)
        numbers = list(levels.values())
        spread = None if numbers[0]["deviation"] is None else [100 * each["deviation"] for each in numbers]
        label = f"{row['name']} ({100 * numbers[0]['mean']:.2f}"
        paper = row["paper"].get("error clean")
        label += ")" if paper is None else f", paper {100 * paper:.2f})"
        lines.append(Line(label, list(levels), [100 * each["mean"] for each in numbers], spread))
    return lines


def draw_curves(results: Mapping[str, Any], path: str | Path) -> None:
    """Draws test error against the noise, a panel for each reading that was measured, and against FGSM's epsilon.

    Args:
        results: What `run_study` returned or wrote.
        path: Image file to write.
    """
    measured = readings(results)
    panels = {f"uniform noise ({name})": error_lines(results, "noise", reading=name) for name in measured}
    panels["FGSM, Linf"] = error_lines(results, "attack")
    draw_lines(
        panels,
        path,
        x_label=[*("upper bound of the noise" for _ in measured), "epsilon"],
        y_label="test error, %",
        title=f"{results['title']}: {results['setting']['images']} test images; {provenance(results)}",
    )


def readings(results: Mapping[str, Any]) -> list[str]:
    """Returns the readings of the noise's renormalisation that a study has measured."""
    values = results["rows"][0]["values"]
    known = {"divide": r"error uniform noise [0-9.e-]+", "min_max": r".* min_max", "clip": r".* clip"}
    return [name for name, pattern in known.items() if any(re.fullmatch(pattern, each) for each in values)]


def compare(
    results: Mapping[str, Any], first: str, second: str, kind: str, *, images: int, reading: str = "divide"
) -> dict[str, Any]:
    """Tells whether one row of a study is more robust than another.

    At each level above 0 the one with the lower error wins if the 95 % Wilson intervals, over the images of all
    trials, do not overlap. What another training of the same network would change is not in these intervals.

    Args:
        results: What `run_study` returned.
        first: Name of a row.
        second: Name of the row that it is compared with.
        kind: As for `curve`.
        images: Test images behind each number.
        reading: As for `curve`.

    Returns:
        The verdict on `first` (`"more robust"`, `"less robust"`, `"mixed"` or `"no difference"`), the mean of its
        errors minus those of `second`, and the levels that each wins.

    Raises:
        ValueError: If a row is not there.
    """
    rows = {row["name"]: row for row in results["rows"]}
    for name in (first, second):
        check_choice("row", name, tuple(rows))
    ours, theirs = (curve(rows[name], kind, reading=reading) for name in (first, second))
    wins, losses, differences = [], [], []
    for level in [each for each in ours if each > 0 and each in theirs]:
        (low, high), (other_low, other_high) = (_interval(each[level], images) for each in (ours, theirs))
        differences.append(ours[level]["mean"] - theirs[level]["mean"])
        if high < other_low:
            wins.append(level)
        elif low > other_high:
            losses.append(level)
    verdict = {(True, False): "more robust", (False, True): "less robust", (True, True): "mixed"}
    return {
        "verdict": verdict.get((bool(wins), bool(losses)), "no difference"),
        "mean_difference": sum(differences) / len(differences) if differences else None,
        "lower_error_at": wins,
        "higher_error_at": losses,
    }


def _interval(number: Mapping[str, Any], images: int) -> tuple[float, float]:
    count = images * len(number["trials"])
    return wilson_interval(round(number["mean"] * count), count)
