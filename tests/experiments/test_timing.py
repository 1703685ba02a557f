import numpy as np
import pytest
from scipy import stats

from keras_robust.experiments import timing
from keras_robust.experiments.timing import median_interval, paired_times

pytestmark = pytest.mark.once


def test_a_drift_of_the_machines_speed_falls_out_of_the_ratio(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    calls = []

    def work(name, seconds):
        def run():
            calls.append(name)
            now[0] += seconds + 0.01 * len(calls)  # each call takes longer than the one before

        return run

    found = paired_times(work("a", 2.0), work("b", 1.0), blocks=4, calls=3)
    assert "".join(calls[:24]) == "bbbaaaaaabbb" + "aaabbbbbbaaa"
    drift = np.array([2.0, 1.0])[:, None] + 0.01 * (6.5 + 12 * np.arange(4))
    np.testing.assert_allclose([found.variant, found.reference], drift, rtol=1e-12)
    assert found.ratios == pytest.approx(drift[0] / drift[1])


@pytest.mark.parametrize("count", [6, 7, 20, 101])
def test_the_interval_of_a_median_is_the_tightest_of_its_confidence(count):
    _, low, high = median_interval(range(1, count + 1))
    below = stats.binom(count, 0.5)
    assert low + high == count + 1
    assert below.cdf(low - 1) <= 0.025 < below.cdf(low)


def test_the_interval_of_a_median_covers_it_as_often_as_it_says():
    draws = np.random.default_rng(0).exponential(size=(2000, 25))
    ends = np.array([median_interval(row)[1:] for row in draws])
    held = np.mean((ends[:, 0] <= np.log(2)) & (np.log(2) <= ends[:, 1]))
    assert held > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 2000)  # three standard errors


def test_too_few_values_have_no_interval():
    with pytest.raises(ValueError, match="needs more values"):
        median_interval([1.0] * 5)
