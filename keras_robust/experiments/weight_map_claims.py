"""What the weight map paper says of robustness, beside what a study shows."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_robust.experiments.curves import compare, readings


@dataclasses.dataclass(frozen=True)
class Claim:
    """A comparison of two rows of a table.

    Args:
        table: Number of the table.
        kind: `"noise"` or `"attack"` (FGSM).
        first: Row that is spoken of.
        second: Row that it is compared with.
        paper: The paper's verdict on `first`, in the words of `compare`; None where we know that section 5 speaks
            of the pair, and not which way.
    """

    table: int
    kind: str
    first: str
    second: str
    paper: str | None = None


_MORE, _LESS, _MIXED, _SAME = "more robust", "less robust", "mixed", "no difference"


def _against_conv(table: int, kind: str, net: str, verdicts: Mapping[str, str]) -> list[Claim]:
    return [Claim(table, kind, f"{net}_{row}", f"{net}_conv", verdict) for row, verdict in verdicts.items()]


_SECTION_5 = [
    ("cnn_batchnorm", "cnn"),
    ("smoothing_batchnorm", "smoothing"),
    ("smoothing_batchnorm", "cnn_batchnorm"),
    ("unsharp", "smoothing"),
]
CLAIMS: tuple[Claim, ...] = (
    Claim(4, "noise", "smoothing", "cnn", _MORE),
    Claim(4, "noise", "unsharp", "cnn", _MORE),
    Claim(4, "attack", "smoothing", "cnn", _SAME),
    Claim(4, "attack", "unsharp", "cnn", _MORE),
    *(Claim(4, kind, *pair) for pair in _SECTION_5 for kind in ("noise", "attack")),
    *_against_conv(
        5,
        "noise",
        "resnet",
        {"unsharp": _MORE, "alternating_smoothing": _MORE, "alternating_unsharp": _MORE},
    ),
    *_against_conv(
        5,
        "noise",
        "densenet",
        {"smoothing": _MORE, "unsharp": _MORE, "alternating_smoothing": _MORE, "alternating_unsharp": _MORE},
    ),
    *_against_conv(
        5,
        "attack",
        "densenet",
        {"smoothing": _MORE, "unsharp": _MORE, "alternating_smoothing": _MORE, "alternating_unsharp": _SAME},
    ),
    *_against_conv(6, "noise", "resnet", {"alternating_smoothing": _LESS, "alternating_unsharp": _MIXED}),
    *_against_conv(6, "noise", "densenet", {"alternating_smoothing": _MIXED, "alternating_unsharp": _MIXED}),
    *_against_conv(6, "attack", "resnet", {"alternating_smoothing": _LESS, "alternating_unsharp": _LESS}),
    *_against_conv(6, "attack", "densenet", {"alternating_smoothing": _MORE, "alternating_unsharp": _MORE}),
    *_against_conv(7, "noise", "resnet", {"alternating_smoothing": _LESS, "alternating_unsharp": _LESS}),
    *_against_conv(7, "noise", "densenet", {"alternating_smoothing": _MORE, "alternating_unsharp": _MORE}),
    *_against_conv(7, "attack", "resnet", {"alternating_smoothing": _SAME, "alternating_unsharp": _SAME}),
    *_against_conv(7, "attack", "densenet", {"alternating_smoothing": _LESS, "alternating_unsharp": _LESS}),
)
"""Sections 4.4 and 5 of https://arxiv.org/abs/1905.00568; its figures have no numbers, so neither have these."""


def verdicts(results: Mapping[str, Any], table: int) -> list[dict[str, Any]]:
    """Judges every claim whose two rows a study has.

    Args:
        results: What `run_study` returned for rows of `weight_map.table`, measured with `weight_map.errors`.
        table: Number of the table.

    Returns:
        For each claim, and for each reading of the noise that was measured, the claim and what `compare` found.
    """
    present = {row["name"] for row in results["rows"]}
    found = []
    for claim in CLAIMS:
        if claim.table != table or not {claim.first, claim.second} <= present:
            continue
        for reading in readings(results) if claim.kind == "noise" else [""]:
            options: dict[str, Any] = {"reading": reading} if reading else {}
            ours = compare(
                results, claim.first, claim.second, claim.kind, images=results["setting"]["images"], **options
            )
            found.append({**dataclasses.asdict(claim), **options, **ours})
    return found
