import numpy as np
import pytest

from keras_robust.certification import (
    ABSTAIN,
    Certificates,
    certified_accuracy,
    certified_accuracy_figure,
    certified_accuracy_table,
)

pytestmark = pytest.mark.once

FOUND = Certificates(
    prediction=np.array([0, 1, 2, ABSTAIN]),
    radius=np.array([0.5, 0.25, 1.0, 0.0]),
    lower_bound=np.array([0.8, 0.7, 0.9, 0.4]),
    successes=np.array([90, 80, 95, 45]),
    sigma=0.5,
    n=100,
    alpha=0.001,
)
LABELS = np.array([0, 1, 0, 3])


def test_certified_accuracy_counts_right_answers_of_at_least_the_radius():
    assert certified_accuracy(FOUND, LABELS, [0.0, 0.25, 0.3, 0.5, 0.6]).tolist() == [0.5, 0.5, 0.25, 0.25, 0.0]


def test_table_holds_radius_and_abstentions():
    row = certified_accuracy_table({"net": FOUND}, LABELS, [0.0])["curves"]["net"]
    assert row["average_radius"] == pytest.approx(0.75 / 4)
    assert row["abstained"] == 0.25


def test_figure_draws_one_line_a_curve():
    table = certified_accuracy_table({"a": FOUND, "b": FOUND}, LABELS, np.linspace(0, 1, 5))
    assert len(certified_accuracy_figure(table).axes[0].lines) == 2
