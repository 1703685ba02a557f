"""What the weak subnets paper says of its tables and figures, held against measured results."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

TEST_IMAGES = 10_000
"""CIFAR's test images, over which the clean error is."""

_ERRORS = ("clean error", "corruption error")
_SUBNETS = tuple(f"{each}, mean of subnets" for each in ("clean", "noisy", "adversarial"))
_BLOCKS = ("stage1_block1", "stage2_block1", "stage3_block1")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence of the paper as a comparison of two rows.

    Args:
        text: What it says, in our words.
        lower: Row whose number should be lower.
        higher: Row whose number should be higher.
        columns: Numbers to compare them by.
    """

    text: str
    lower: str
    higher: str
    columns: tuple[str, ...]


CLAIMS: dict[str, tuple[Claim, ...]] = {
    "table_5": (
        Claim("dropout errs less than vanilla (table 1)", "dropout", "vanilla", _ERRORS),
        Claim("random subnets err less than vanilla", "random", "vanilla", _ERRORS),
        Claim("L1 subnets err less than vanilla", "l1", "vanilla", _ERRORS),
        Claim("the controller's subnets err less than vanilla", "ews", "vanilla", _ERRORS),
        Claim("the controller's err less than random ones", "ews", "random", _ERRORS),
        Claim("the controller's err less than L1's", "ews", "l1", _ERRORS),
    ),
    "figure_1": (
        Claim("subnets of EWS do better than those of vanilla", "vanilla", "ews", _SUBNETS),
        Claim("subnets of EWS do better than those of dropout", "dropout", "ews", _SUBNETS),
        Claim("subnets of EWS do better than those of random search", "random", "ews", _SUBNETS),
    ),
    "figure_6": (
        Claim("lambda 1 errs less than 0", "lambda1", "lambda0", _ERRORS[:1]),
        Claim("lambda 1 errs less than 10", "lambda1", "lambda10", _ERRORS[:1]),
        Claim("lambda 10 errs less than 0", "lambda10", "lambda0", _ERRORS[:1]),
        Claim("rho 0.7 errs less than 0.1", "rho0.7", "rho0.1", _ERRORS[:1]),
        Claim("rho 0.7 errs less than 0.9", "rho0.7", "rho0.9", _ERRORS[:1]),
    ),
    "figure_5": (
        Claim("K = 10 errs less than K = 50", "interval10", "interval50", _ERRORS[:1]),
        Claim("K = 10 errs less than vanilla", "interval10", "vanilla", _ERRORS[:1]),
    ),
    "figure_7": (
        Claim("half a block of EWS lost is milder than of vanilla", "ews", "vanilla", _BLOCKS),
        Claim("half a block of EWS lost is milder than of random search", "ews", "random", _BLOCKS),
    ),
}
"""Claims by the table or figure that makes them."""


def compare(lower: float, higher: float, images: int) -> tuple[float, str]:
    """Compares two shares of images.

    Args:
        lower: The share that should be lower.
        higher: The other.
        images: Images behind each.

    Returns:
        Half width of the 95 % interval of the difference, as if the images were not the same, and the verdict:
        `"agrees"` or `"contradicts"` beyond it, else `"open"`.
    """
    half = 1.96 * math.sqrt((lower * (1 - lower) + higher * (1 - higher)) / images)
    gap = higher - lower
    return half, "agrees" if gap > half else "contradicts" if -gap > half else "open"


def claims_table(name: str, results: Mapping[str, Any]) -> list[str]:
    """Returns the claims of a table or figure, each with a verdict.

    Args:
        name: Key of `CLAIMS`.
        results: What `run_study` wrote for it.

    Returns:
        Lines of a Markdown table, numbers in per cent; claims on rows that were not measured are left out.
    """
    values = {row["name"]: row["values"] for row in results["rows"]}
    lines = ["| the paper | measured | should be lower | higher | difference | |", "|---|---|---:|---:|---:|---|"]
    for claim in CLAIMS[name]:
        for column in claim.columns:
            if not all(column in values.get(row, {}) for row in (claim.lower, claim.higher)):
                continue
            lower, higher = (values[row][column]["mean"] for row in (claim.lower, claim.higher))
            images = TEST_IMAGES if column == "clean error" else results["setting"]["images"]
            half, verdict = compare(lower, higher, images)
            gap = f"{100 * (higher - lower):+.1f} ± {100 * half:.1f}"
            lines.append(
                f"| {claim.text} | {column} | {100 * lower:.1f} | {100 * higher:.1f} | {gap} | {verdict} |"
            )
    return lines
