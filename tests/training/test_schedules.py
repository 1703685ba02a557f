"""Learning rates against their closed forms."""

import keras
import numpy as np
import pytest

from keras_robust.training import PiecewiseConstant, Triangle


def rates(schedule, steps):
    return [float(keras.ops.convert_to_numpy(schedule(step))) for step in steps]


def test_the_rate_falls_at_the_milestone_itself():
    schedule = PiecewiseConstant(0.1, [10, 20], 0.1)
    np.testing.assert_allclose(rates(schedule, (0, 9, 10, 19, 20)), [0.1, 0.1, 0.01, 0.01, 0.001], rtol=1e-6)


def test_the_cyclic_rate_interpolates_between_zero_its_peak_and_zero():
    schedule = Triangle(0.2, 4, 20)
    steps = (0, 2, 4, 12, 20, 25)
    np.testing.assert_allclose(rates(schedule, steps), np.interp(steps, [0, 4, 20], [0, 0.2, 0]), atol=1e-7)


@pytest.mark.parametrize("schedule", [PiecewiseConstant(0.1, [10]), Triangle(0.2, 4, 20)])
def test_a_schedule_survives_serialisation(schedule):
    copy = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert copy.get_config() == schedule.get_config()
