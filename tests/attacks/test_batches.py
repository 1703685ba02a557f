"""Tests of how the rows of an attack's stage are cut into batches of a few sizes."""

import numpy as np
import pytest

from keras_robust.attacks.base import bucketed_batches


@pytest.mark.once
@pytest.mark.parametrize("batch_size", [1, 3, 16, 40, 250])
def test_batches_hold_all_rows_in_order_in_few_sizes(batch_size):
    sizes = {-(-batch_size * eighths // 8) for eighths in (1, 2, 4, 6, 8)}
    for count in range(3 * batch_size):
        rows = np.arange(count) * 7
        batches = bucketed_batches(rows, batch_size)
        assert np.array_equal(np.concatenate([part for part, _ in batches] or [rows]), rows)
        assert {len(batch) for _, batch in batches} <= sizes
        for part, batch in batches:
            assert np.array_equal(batch[: len(part)], part)
            assert np.all(batch[len(part) :] == part[-1])


@pytest.mark.once
@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (12, [12]),  # not 8 and 4: two passes of small batches cost more than one
        (9, [12]),
        (16, [16]),
        (28, [16, 12]),
        (130, [16] * 8 + [2]),
    ],
)
def test_small_batches_are_not_split(count, sizes):
    assert [len(batch) for _, batch in bucketed_batches(np.arange(count), 16)] == sizes


@pytest.mark.once
@pytest.mark.parametrize(("count", "sizes"), [(160, [188]), (140, [125, 32]), (200, [188, 32]), (126, [125, 32])])
def test_large_batches_are_split_rather_than_half_empty(count, sizes):
    assert [len(batch) for _, batch in bucketed_batches(np.arange(count), 250)] == sizes
