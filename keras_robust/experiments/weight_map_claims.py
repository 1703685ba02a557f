"""What the weight map paper says of robustness, beside what a study shows."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_robust.analysis import variance_amplification
from keras_robust.evaluation.metrics import Environment
from keras_robust.evaluation.noise import Gaussian
from keras_robust.experiments.curves import compare, readings
from keras_robust.subject import Subject


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
        For each claim, and for each reading of the noise that was measured, the claim, what `compare` found, and
        whether that is the paper's verdict (None where we do not know the paper's).
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
            agrees = None if claim.paper is None else claim.paper == ours["verdict"]
            found.append({**dataclasses.asdict(claim), **options, **ours, "agrees": agrees})
    return found


def claims_report(
    studies: Sequence[tuple[int, Mapping[str, Any]]],
    subjects: Sequence[Subject],
    *,
    images: int = 1_000,
    sigma: float = 0.1,
    seed: int = 0,
    data_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Judges the claims of several studies and measures how the layers of networks amplify variance.

    Args:
        studies: Number of the table and what `run_study` returned, for each.
        subjects: Networks of one data set, whose variance is measured; none are fine.
        images: First test images of the variances.
        sigma: Standard deviation of the Gaussian noise of the variances.
        seed: Seed of that noise.
        data_dir: Folder of TensorFlow Datasets.

    Returns:
        The verdicts, and the variances by name of the network and layer, as JSON.
    """
    found: dict[str, Any] = {"verdicts": [], "variance": {}}
    for table, results in studies:
        found["verdicts"] += [{"study": results["title"], **each} for each in verdicts(results, table)]
    for subject in subjects:
        x, y, data = subject.test_images(images, data_dir)
        noisy = Gaussian(sigma)(x, seed=seed)
        layers = variance_amplification(subject.load(), x, y, noisy)
        found["variance"][subject.name] = [dataclasses.asdict(layer) for layer in layers]
        found |= {"sigma": sigma, "seed": seed, "data": data.model_dump()}
    return found | {"environment": Environment.here().model_dump()}


def sentence(verdict: Mapping[str, Any]) -> str:
    """Returns one of the verdicts as a line of text."""
    against = f"{verdict['first']} against {verdict['second']}, {verdict['kind']} {verdict.get('reading', '')}"
    paper = verdict["paper"] or "not known"
    return f"table {verdict['table']}, {against.strip()}: {verdict['verdict']} (paper: {paper})"
