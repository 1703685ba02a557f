"""Learning rates against their closed forms."""

import keras
import numpy as np
import pytest

from keras_robust.training import Interpolated, PiecewiseConstant, Triangle


def rates(schedule, steps):
    return [float(keras.ops.convert_to_numpy(schedule(step))) for step in steps]


def test_the_rate_falls_at_the_milestone_itself():
    schedule = PiecewiseConstant(0.1, [10, 20], 0.1)
    np.testing.assert_allclose(rates(schedule, (0, 9, 10, 19, 20)), [0.1, 0.1, 0.01, 0.01, 0.001], rtol=1e-6)


def test_the_cyclic_rate_interpolates_between_zero_its_peak_and_zero():
    schedule = Triangle(0.2, 4, 20)
    steps = (0, 2, 4, 12, 20, 25)
    np.testing.assert_allclose(rates(schedule, steps), np.interp(steps, [0, 4, 20], [0, 0.2, 0]), atol=1e-7)


def test_the_interpolated_rate_is_straight_between_its_points_and_jumps_where_a_step_is_given_twice():
    schedule = Interpolated([0, 4, 20, 20, 30], [0.0, 0.4, 0.04, 0.1, 0.2])
    steps = (0, 1, 4, 12, 19)
    expected = np.interp(steps, [0, 4, 20], [0.0, 0.4, 0.04])
    np.testing.assert_allclose(rates(schedule, steps), expected, atol=1e-7)
    np.testing.assert_allclose(rates(schedule, (20, 25, 30, 40)), [0.1, 0.15, 0.2, 0.2], atol=1e-7)


@pytest.mark.parametrize(
    "schedule", [PiecewiseConstant(0.1, [10]), Triangle(0.2, 4, 20), Interpolated([0, 9], [0.1, 0.2])]
)
def test_a_schedule_survives_serialisation(schedule):
    copy = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert copy.get_config() == schedule.get_config()
