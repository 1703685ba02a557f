"""Sets numbers of the zoo that were measured again beside the stored ones, number by number.

    KERAS_BACKEND=tensorflow keras-robust evaluate zoo/cnn_digits.at
    python scripts/reproduction.py reports/cnn_digits.at --output reproduction.json

Each folder is named after an entry and holds the metrics.json that `keras-robust evaluate` wrote. Pairs are of
the same attack or noise, seed and images. --stored is the folder of the entries as they were stored: zoo, or that
of an older checkout where they have been measured anew since. Their weights must be those of the entries now.
Entries that the output has already stay there, unless they are among the folders. The table stands beside it, as
Markdown. It says whether the entries still store these numbers: once an entry is measured anew, write it anew, by
the command without folders.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_robust.evaluation.compare import differs, read_results, repeated
from keras_robust.evaluation.metrics import Metric
from keras_robust.files import write_atomically
from keras_robust.zoo.entry import WEIGHTS, Entry, sha256
from keras_robust.zoo.registry import find, list_entries


def reproduction(folder: Path, stored: Path) -> dict[str, Any]:
    """Pairs the numbers of a folder with those that the entry of its name stored.

    Raises:
        ValueError: If there is no metrics.json, the weights are others now, or no number was measured both times.
    """
    ((name, again),) = read_results([folder / "metrics.json"])
    entry = Entry.load(stored / name)
    if sha256(find(name) / WEIGHTS) != entry.weights.sha256:
        raise ValueError(
            f"{stored / name} must hold numbers of the weights that {name} has now. Received: numbers of SHA-256 "
            f"{entry.weights.sha256[:12]}... Choose the folder of entries with --stored."
        )
    pairs = repeated(again, entry.metrics)
    if not pairs:
        raise ValueError(f"{folder} must hold a number that {stored / name} holds too. Received: none of them.")
    return {
        "numbers": len(pairs),
        "equal": sum(now.correct == before.correct for now, before in pairs),
        "within_half_a_point": sum(not differs(now, before) for now, before in pairs),
        "autoattack": [beside(*pair) for pair in pairs if in_sequence(pair[0])],
        "apart": [beside(*pair) for pair in pairs if differs(*pair)],
        "stored_with": software(before for _, before in pairs),
        "again_with": software(now for now, _ in pairs),
    }


def beside(now: Metric, before: Metric) -> dict[str, Any]:
    """A number measured again beside the stored one."""
    return {"name": now.label, "stored": before.value, "again": now.value, "images": now.images}


def in_sequence(metric: Metric) -> bool:
    """Whether a number is that of AutoAttack as a whole."""
    return metric.attack is not None and metric.attack["name"] == "AutoAttack" and "stage" not in metric.attack


def software(metrics: Iterable[Metric]) -> list[str]:
    """Backend, device and code of numbers."""
    environments = [metric.environment for metric in metrics]
    return sorted(
        {
            f"{each.backend} {each.backend_version} on {each.device}, code {each.short_commit}"
            for each in environments
        }
    )


def status(found: dict[str, Any], entry: Entry) -> str:
    """Says whether an entry still stores the numbers that were measured again, or which ones took their place."""
    now = set(software(entry.metrics))
    kept = {(metric.label, metric.value, metric.images) for metric in entry.metrics}
    for numbers, name in (("stored", "current"), ("again", "superseded by again")):
        same = all((each["name"], each[numbers], each["images"]) in kept for each in found["autoattack"])
        if same and now.issuperset(found[f"{numbers}_with"]):
            return name
    return "superseded"


def table(found: dict[str, Any]) -> str:
    """Returns the reproductions as a Markdown table, with what the entries of the zoo store now."""
    lines = [
        "# Stored numbers, measured again",
        "",
        "Current: the entry of the zoo holds the stored numbers of this row; superseded: it holds others by now,",
        "of other code or images; superseded by again: it holds those that were measured again.",
        "",
        "| entry | numbers | equal | within 0.5 points | AutoAttack: stored, again | stored with | again with "
        "| stored numbers |",
        "|---|---:|---:|---:|---|---|---|---|",
    ]
    entries = {entry.name: entry for entry in list_entries()}
    for name, entry in found.items():
        attacks = "; ".join(
            f"{each['name'].removeprefix('AutoAttack ')}: {100 * each['stored']:.1f}, {100 * each['again']:.1f} % "
            f"of {each['images']}"
            for each in entry["autoattack"]
        )
        lines.append(
            f"| {name} | {entry['numbers']} | {entry['equal']} | {entry['within_half_a_point']} | {attacks} "
            f"| {'; '.join(entry['stored_with'])} | {'; '.join(entry['again_with'])} "
            f"| {status(entry, entries[name])} |"
        )
    apart = [(name, each) for name, entry in found.items() for each in entry["apart"]]
    if apart:
        lines += ["", "More than half a point apart:", ""]
        lines += [
            f"- {name}, {each['name']}: {100 * each['stored']:.1f} %, again {100 * each['again']:.1f} %, "
            f"of {each['images']} images"
            for name, each in apart
        ]
    if missing := sorted(entries.keys() - found.keys()):
        lines += ["", f"Not measured again: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="folders that hold metrics.json, as reports/<entry>")
    parser.add_argument("--stored", type=Path, default=Path("zoo"), help="folder of the entries as stored")
    parser.add_argument("--output", type=Path, default=Path("reproduction.json"))
    options = parser.parse_args()
    try:
        found = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
        found |= {folder.resolve().name: reproduction(folder, options.stored) for folder in options.folders}
    except (ValueError, OSError) as error:
        parser.error(str(error))
    found = dict(sorted(found.items()))
    write_atomically(options.output, json.dumps(found, indent=1) + "\n")
    write_atomically(options.output.with_suffix(".md"), table(found))
    print(table(found), end="")


if __name__ == "__main__":
    main()
