import numpy as np
import pytest
from keras import ops

from keras_robust.layers import Standardize


def test_standardize_subtracts_the_mean_and_divides_by_the_deviation_of_each_channel(rng):
    x = rng.uniform(size=(2, 4, 4, 3)).astype("float32")
    mean, std = [0.1, 0.5, 0.9], [0.2, 0.3, 0.4]
    outputs = ops.convert_to_numpy(Standardize(mean, std)(x))
    np.testing.assert_allclose(outputs, (x - np.array(mean)) / np.array(std), atol=1e-6)  # float32 rounding


def test_numbers_that_do_not_fit_the_channels_are_an_error():
    with pytest.raises(ValueError, match="`mean` must hold one number for each of the 3 channels"):
        Standardize([0.5, 0.5], 1.0)(np.zeros((1, 4, 4, 3), "float32"))


@pytest.mark.parametrize("std", [0.0, [0.1, -1.0], float("nan")])
def test_deviation_that_is_not_positive_is_an_error(std):
    with pytest.raises(ValueError, match="`std` positive numbers"):
        Standardize(0.5, std)
