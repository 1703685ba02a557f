"""How many times as long one function takes as another, on a machine whose speed drifts."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats


@dataclasses.dataclass(frozen=True)
class PairedTimes:
    """Seconds of two functions, block by block.

    Attributes:
        variant: Seconds of one call of the function in question, one number a block.
        reference: Seconds of one call of the function it is compared with, in the same blocks.
    """

    variant: tuple[float, ...]
    reference: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Variant over reference, one number a block."""
        return tuple(a / b for a, b in zip(self.variant, self.reference, strict=True))


def paired_times(
    variant: Callable[[], object],
    reference: Callable[[], object],
    *,
    blocks: int,
    calls: int = 1,
) -> PairedTimes:
    """Times two functions in blocks of reference, variant, variant, reference.

    So each has the same mean place in the block: a drift of the machine's speed falls out of the ratio, and each
    runs as often after the other as before it. Every second block is the other way round. Neither is warmed up.

    Args:
        variant: Function that returns when its work is done.
        reference: Function to compare it with.
        blocks: Number of blocks.
        calls: Calls of each function at each of its places.

    Returns:
        Seconds of a call.
    """

    def seconds(function):
        begun = time.perf_counter()
        for _ in range(calls):
            function()
        return time.perf_counter() - begun

    found: list[tuple[float, float]] = []
    for block in range(blocks):
        outer, inner = (variant, reference) if block % 2 else (reference, variant)
        first, second, third, fourth = (seconds(each) for each in (outer, inner, inner, outer))
        pair = ((first + fourth) / (2 * calls), (second + third) / (2 * calls))
        found.append(pair if block % 2 else pair[::-1])
    return PairedTimes(*(tuple(each) for each in zip(*found, strict=True)))


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Returns the median with its interval by order statistics, which assumes no distribution.

    Args:
        values: Independent numbers.
        confidence: At least this probability that the interval holds the median of their distribution.

    Returns:
        Median, lower and upper end.

    Raises:
        ValueError: If so few values have no such interval.
    """
    ordered = np.sort(np.asarray(values, "float64"))
    # The largest k so that fewer than k values lie below the median with probability <= (1 - confidence) / 2.
    k = int(stats.binom.ppf((1 - confidence) / 2, len(ordered), 0.5))
    if k < 1:
        raise ValueError(
            f"An interval of confidence {confidence:g} for a median needs more values. Received: {len(ordered)}."
        )
    return float(np.median(ordered)), float(ordered[k - 1]), float(ordered[-k])
