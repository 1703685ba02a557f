"""Measurements in words."""

import pytest

from keras_robust.evaluation.describe import radius

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        (8 / 255, "8/255"),
        (0.03137255, "8/255"),
        (0.00196078, "0.5/255"),
        (128 / 255, "128/255"),
        (0.1, "0.1"),
        (0.3, "0.3"),
        (0.5, "0.5"),
        (1.0, "1"),
        (0.0314, "0.0314"),
        (1 / 3, "85/255"),
        (0.123456, "0.1235"),
    ],
)
def test_a_radius_is_written_in_255ths_where_few_digits_do_not_say_it(epsilon, text):
    assert radius(epsilon) == text
