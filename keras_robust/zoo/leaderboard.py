"""The zoo as one HTML page that needs nothing else, and as RobustBench's `model_info` files."""

import json
import os
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from keras_robust.evaluation.metrics import Metric, radius, robust_accuracy
from keras_robust.files import write_atomically
from keras_robust.zoo.entry import Entry

_PLACE = "/*entries*/[]"
_PAGE = "leaderboard.html"


def leaderboard_page(entries: Iterable[Entry], links: str = "") -> str:
    """Returns a self-contained HTML page: a sortable table and a plot of accuracy against robustness.

    Args:
        entries: Entries of the zoo.
        links: What stands before the path of an entry's card, such as 'zoo/'.

    Returns:
        HTML that loads nothing from elsewhere.
    """
    rows = [_row(entry, links) for entry in sorted(entries, key=lambda each: each.name)]
    # A "</script>" within a string would end the script.
    data = json.dumps(rows, sort_keys=True).replace("<", "\\u003c")
    template = files("keras_robust.zoo").joinpath(_PAGE).read_text(encoding="utf-8")
    return template.replace(_PLACE, data)


def write_leaderboard(path: str | Path, entries: Iterable[Entry], zoo: str | Path | None = None) -> None:
    """Writes `leaderboard_page`, in one piece.

    Args:
        path: The page.
        entries: Entries of the zoo.
        zoo: Folder of their folders, which the page links to; None for that of the page.
    """
    links = "" if zoo is None else f"{os.path.relpath(zoo, Path(path).resolve().parent)}/"
    write_atomically(Path(path), leaderboard_page(entries, links))


def _row(entry: Entry, links: str) -> dict[str, Any]:
    clean = next(metric for metric in entry.metrics if metric.kind == "clean")
    threats = {}
    for found in robust_accuracy(entry.metrics):
        number = _number(found.metric)
        number["attacks"] = [f"{each}{found.within}" for each in number["attacks"]]
        threats[f"{found.metric.norm} {radius(found.epsilon)}"] = number
    for metric in entry.metrics:
        if metric.kind in ("gaussian_noise", "uniform_noise") and metric.sigma:
            threats[f"{metric.kind.replace('_', ' ')} {metric.sigma:.4g}"] = _number(metric)
    return {
        "name": entry.name,
        "card": f"{links}{entry.name}/card.md",
        "dataset": entry.dataset,
        "architecture": entry.model.builder,
        "parameters": entry.parameters,
        "clean": _number(clean),
        "threats": threats,
    }


def _number(metric: Metric) -> dict[str, Any]:
    attack = metric.attack or {}
    members = attack["attacks"] if metric.kind == "worst_case" else [attack]
    members = [each["name"] for each in members if each.get("name")]
    return {
        "value": metric.value,
        "low": metric.low,
        "high": metric.high,
        "images": metric.images,
        "attacks": list(dict.fromkeys(members)),
        "flags": metric.flags,
        "code": metric.environment.short_commit,
    }


def model_info(entry: Entry, norm: str, epsilon: float) -> dict[str, Any]:
    """Returns an entry in the form of RobustBench's `model_info/<dataset>/<norm>/<name>.json`.

    Accuracies are texts in per cent, as there. The leaderboard counts 10,000 test images; with fewer, the footnote
    says how many.

    Args:
        entry: Entry of the zoo.
        norm: 'Linf', 'L2' or 'L1'.
        epsilon: Radius in pixel units, under which the whole AutoAttack was measured.

    Returns:
        A dictionary for JSON.

    Raises:
        ValueError: If the entry has no standard AutoAttack under this norm and epsilon.

    Reference:
        Croce et al., 2021, https://arxiv.org/abs/2010.09670
    """
    whole = [metric for metric in entry.metrics if _is_standard_autoattack(metric)]
    found = next((m for m in whole if m.norm == norm and abs((m.epsilon or 0) - epsilon) < 1e-6), None)
    if found is None:
        known = ", ".join(f"{m.norm} {radius(m.epsilon or 0)}" for m in whole) or "none"
        raise ValueError(
            "RobustBench lists the accuracy under the standard AutoAttack. "
            f"Received: {entry.name} with norm={norm!r}, epsilon={radius(epsilon)}; measured: {known}. "
            "Add a row to its recipe's [evaluation], [[evaluation.attacks]] with "
            f'name = "autoattack", norm = "{norm}", epsilon = {round(epsilon, 8)}, then run '
            f"`keras-robust evaluate {entry.name} --only attacks --update-entry`."
        )
    clean = next(metric for metric in entry.metrics if metric.kind == "clean")
    paper, _, link = (entry.references[0] if entry.references else "").partition(", http")
    info: dict[str, Any] = {
        "link": f"http{link}" if link else "",
        "name": entry.name,
        "authors": "The keras_robust authors" + (f", after {paper}" if paper else ""),
        "additional_data": entry.extra_data is not None,
        "number_forward_passes": 1,
        "dataset": entry.dataset,
        "venue": "Unpublished",
        "architecture": entry.model.builder,
        "eps": radius(epsilon),
        "clean_acc": f"{100 * clean.value:.2f}",
        "reported": f"{100 * found.value:.2f}",
        "autoattack_acc": f"{100 * found.value:.2f}",
    }
    lower = [each for each in entry.external if each.norm == norm and abs(each.epsilon - epsilon) < 1e-6]
    if lower:
        info["external"] = f"{100 * min(each.value for each in lower):.2f}"
    notes = []
    if found.images != clean.images:
        images = f"the first {found.images} test images, clean_acc of the first {clean.images}"
        notes.append(f"autoattack_acc is of {images}.")
    elif found.images < 10_000:
        notes.append(f"Measured on the first {found.images} test images.")
    if entry.extra_data:
        notes.append(f"Additional data: {entry.extra_data}.")
    if found.flags:
        notes.append(" ".join(found.flags))
    if notes:
        info["footnote"] = " ".join(notes)
    return info


def write_model_info(folder: str | Path, entries: Iterable[Entry]) -> list[Path]:
    """Writes `model_info` of every entry and radius that the standard AutoAttack was measured under.

    Args:
        folder: Folder to write `<dataset>/<norm>/<name>.json` into; a second radius adds `_<epsilon>` to the name.
        entries: Entries of the zoo.

    Returns:
        The files.
    """
    written: list[Path] = []
    for entry in entries:
        for metric in filter(_is_standard_autoattack, entry.metrics):
            info = model_info(entry, str(metric.norm), float(metric.epsilon or 0))
            path = Path(folder) / entry.dataset / str(metric.norm) / f"{entry.name}.json"
            if path in written:
                path = path.with_name(f"{entry.name}_{metric.epsilon:.4g}.json")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(info, indent=2) + "\n")
            written.append(path)
    return written


def _is_standard_autoattack(metric: Metric) -> bool:
    attack = metric.attack or {}
    whole = attack.get("name") == "AutoAttack" and attack.get("version") == "standard" and not attack.get("stage")
    return metric.kind == "attack" and whole and metric.norm is not None
