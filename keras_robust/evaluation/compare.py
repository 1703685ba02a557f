"""Several models side by side, from the files that their evaluations wrote; a model beside its stored numbers."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from keras_robust.evaluation.metrics import Metric, Metrics

TOLERANCE = 0.005  # half a point: what rounding on another backend may change


def read_results(paths: Sequence[str | Path]) -> list[tuple[str, Metrics]]:
    """Reads the metrics of several models that were measured on the same images.

    Args:
        paths: Files `metrics.json`; the folder of each names its model.

    Returns:
        Name and metrics of each model.

    Raises:
        ValueError: If a file is missing or not valid, or two files speak of different images.
    """
    results = []
    for path in map(Path, paths):
        if not path.is_file():
            raise ValueError(
                f"Each result must be a metrics.json that `keras-robust evaluate` wrote. Received: {path}, "
                "which is not there. Run the evaluation first."
            )
        results.append((path.resolve().parent.name, Metrics.load(path)))
    name, first = results[0]
    for other, metrics in results[1:]:
        if metrics.clean.data != first.clean.data:
            raise ValueError(
                "Models can be compared on the same images only: order, first index, count and digest must agree. "
                f"Received: {first.clean.data} for {name}, {metrics.clean.data} for {other}. "
                "Evaluate both with the same --images."
            )
    return results


def comparison_table(results: Sequence[tuple[str, Metrics]]) -> Any:
    """Returns a `rich.table.Table` with a column for each model, accuracies with half their 95 % interval.

    Args:
        results: Name and metrics of each model.

    Returns:
        The table; a measurement that a model lacks is left blank, one on fewer images than the title's says so.
    """
    from rich.table import Table

    images = results[0][1].clean
    what = f"{images.data.dataset} {images.data.split}, {images.images} images"
    table = Table(title=f"{what}; accuracy in %, ± 95 % interval (Wilson; corruptions: normal, over images)")
    table.add_column("measured")
    columns = []
    for name, metrics in results:
        table.add_column(name, justify="right")
        columns.append({(metric.label, _options(metric)): metric for metric in metrics.metrics})
    rows = list(dict.fromkeys(row for column in columns for row in column))
    for row in rows:
        cells = [column.get(row) for column in columns]
        name = _told_apart(*row, [options for label, options in rows if label == row[0]])
        table.add_row(name, *("" if metric is None else _cell(metric, images.images) for metric in cells))
    return table


def _options(metric: Metric) -> str:
    # How AutoAttack adapted itself, and what a worst case is over, are of the model.
    of_the_model = {"notes", "attacks"} if metric.kind == "worst_case" else {"notes"}
    options = {key: value for key, value in (metric.attack or {}).items() if key not in of_the_model}
    return json.dumps(_rounded(options), sort_keys=True)


def _told_apart(label: str, options: str, variants: list[str]) -> str:
    """Adds to a label the options in which measurements of that label differ."""
    if len(variants) == 1:
        return label
    all_of_them, own = [json.loads(each) for each in variants], json.loads(options)
    differ = [key for key in own if any(each.get(key) != own[key] for each in all_of_them)]
    return f"{label} ({', '.join(f'{key}={own[key]}' for key in differ)})" if differ else label


def _cell(metric: Metric, images: int) -> str:
    # Corrupted copies are of the same images.
    other = metric.kind != "corruption" and metric.images != images
    return f"{100 * metric.value:.1f} ± {50 * (metric.high - metric.low):.1f}" + (
        f" ({metric.images} images)" if other else ""
    )


def repeated(metrics: Metrics, stored: Iterable[Metric]) -> list[tuple[Metric, Metric]]:
    """Pairs numbers with stored ones of the same measurement: same attack or noise, seed and images.

    Args:
        metrics: Numbers measured now.
        stored: Numbers measured before, such as those of an entry.

    Returns:
        The number now and the stored one, for each that was measured both times.
    """
    before = {_measurement(metric): metric for metric in stored}
    return [(metric, before[key]) for metric in metrics.metrics if (key := _measurement(metric)) in before]


def _measurement(metric: Metric) -> str:
    identity = {"name", "kind", "norm", "epsilon", "sigma", "attack", "seed", "data", "images"}
    return json.dumps(_rounded(metric.model_dump(mode="json", include=identity)), sort_keys=True)


def _rounded(value: Any) -> Any:
    """Rounds every number within: 8 / 255 and the 0.03137255 of a recipe are one radius."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value


def differs(metric: Metric, stored: Metric) -> bool:
    """Whether two numbers of one measurement lie more than half a point apart."""
    return abs(metric.value - stored.value) > TOLERANCE + 1e-9


def repetition(metrics: Metrics, stored: Iterable[Metric], verb: str) -> tuple[str, list[str]]:
    """Says how many of the stored numbers came out again, and which did not.

    Args:
        metrics: Numbers measured now.
        stored: Numbers of the entry.
        verb: 'holds', or 'held' where the numbers measured now take their place.

    Returns:
        A sentence, empty where nothing was measured both times, and a warning for each number that differs.
    """
    pairs = repeated(metrics, stored)
    other = [(now, before) for now, before in pairs if differs(now, before)]
    same = len(pairs) - len(other)
    sentence = f"Of {len(pairs)} numbers that entry.json {verb}, {same} come out within 0.5 points."
    return sentence if pairs else "", [
        f"{now.label} is {now.value:.2%} of {now.images} images; entry.json {verb} {before.value:.2%}, "
        f"of code {before.environment.short_commit} on {before.environment.backend}."
        for now, before in other
    ]
