"""Metrics as a table for the terminal and as a figure."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_robust.evaluation.metrics import Metric, Metrics


def terminal_table(metrics: Metrics, title: str) -> Any:
    """Returns a `rich.table.Table` of every number with its error bar."""
    from rich.table import Table

    first = metrics.clean
    where = first.environment
    table = Table(
        title=title,
        caption=(
            f"{first.data.dataset} {first.data.split}, {first.images} images from image {first.data.first_index}, "
            f"order {first.data.order}; seed {first.seed}; code {where.short_commit}; "
            f"{where.backend} {where.backend_version} on {where.device}"
        ),
    )
    table.add_column("measured")
    for column in ("accuracy", "95 % interval", "correct", "seconds"):
        table.add_column(column, justify="right")
    for metric in metrics.metrics:
        table.add_row(
            metric.label,
            f"{metric.value:.2%}",
            f"{metric.low:.2%} to {metric.high:.2%}",
            f"{metric.correct} / {metric.images}",
            f"{metric.seconds:.1f}" if metric.kind != "worst_case" else "",
        )
    return table


def curves(metrics: Metrics) -> dict[str, dict[str, list[Metric]]]:
    """Groups metrics into panels and curves: accuracy against epsilon for each norm, and against each noise.

    Returns:
        For each panel, named by its horizontal axis, the curves by label, sorted; the clean accuracy starts each.
    """
    panels: dict[str, dict[str, dict[str, list[Metric]]]] = {}
    for metric in metrics.metrics:
        if metric.kind in ("attack", "worst_case") and metric.norm and metric.epsilon:
            panel, label = f"{metric.norm} epsilon", _label(metric)
        elif metric.kind == "gaussian_noise":
            panel, label = "sigma of Gaussian noise", "Gaussian noise"
        elif metric.kind == "uniform_noise":
            panel, label = "width of uniform noise", "uniform noise"
        else:
            continue
        same = {k: v for k, v in (metric.attack or {}).items() if k not in _VARIES}
        attacks = same.pop("attacks", None)
        if attacks and metric.kind == "attack":  # AutoAttack's own; a worst case is over whatever was run
            same["attacks"] = str(attacks).replace(f"epsilon={metric.epsilon!r}", "")
        panels.setdefault(panel, {}).setdefault(label, {}).setdefault(_text(same), []).append(metric)
    return {panel: _named(groups, metrics.clean) for panel, groups in panels.items()}


_VARIES = ("epsilon", "step_size", "sigma", "width")


def _text(options: dict[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)


def _label(metric: Metric) -> str:
    attack = metric.attack or {}
    return " ".join(str(attack[key]) for key in ("name", "stage") if attack.get(key))


def _named(groups: dict[str, dict[str, list[Metric]]], clean: Metric) -> dict[str, list[Metric]]:
    named = {}
    for label, variants in groups.items():
        for number, curve in enumerate(variants.values(), 1):
            points = sorted(curve, key=_position)
            if _position(points[0]) > 0:
                points = [clean, *points]
            named[label if len(variants) == 1 else f"{label} ({number})"] = points
    return named


def _position(metric: Metric) -> float:
    return float(metric.epsilon or metric.sigma or 0.0)


def save_figure(results: Sequence[tuple[str, Metrics]], path: str | Path) -> bool:
    """Draws accuracy against epsilon and against sigma, with 95 % intervals, for one model or several.

    Args:
        results: Pairs of a model's name and its metrics.
        path: Image file to write; its ending decides the format.

    Returns:
        Whether there was anything to draw.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    panels: dict[str, list[tuple[str, list[Metric]]]] = {}
    for name, metrics in results:
        for panel, found in curves(metrics).items():
            for label, points in found.items():
                label = label if len(results) == 1 else f"{name}: {label}"
                panels.setdefault(panel, []).append((label, points))
    if not panels:
        return False
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"Figures need matplotlib: pip install 'keras-robust[plots]'. Received: {error}."
        ) from error
    figure = Figure(figsize=(4.5 * len(panels), 3.8), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (panel, lines) in zip(all_axes, sorted(panels.items()), strict=True):
        for label, points in lines:
            x = [_position(point) for point in points]
            value = [point.value for point in points]
            # The Wilson interval of 0 of n begins a rounding error above 0.
            below = [max(point.value - point.low, 0.0) for point in points]
            above = [max(point.high - point.value, 0.0) for point in points]
            # A line through a single measurement and the clean accuracy would show what nobody measured.
            line = "-" if len(points) > 2 else ""
            axes.errorbar(
                x, value, yerr=[below, above], linestyle=line, marker="o", markersize=4, capsize=2, label=label
            )
        axes.set(xlabel=panel, ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    all_axes[0].set_ylabel("accuracy")
    clean = results[0][1].clean
    figure.suptitle(
        f"{', '.join(name for name, _ in results)}: {clean.images} {clean.data.dataset} {clean.data.split} images,"
        f" seed {clean.seed}, code {clean.environment.short_commit}",
        fontsize="small",
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return True
