import keras
import numpy as np
import pytest
from keras import ops

from keras_robust.attacks.base import Predictor
from keras_robust.layers import GaussianNoise, noise_at_inference


@pytest.fixture
def model():
    inputs = keras.Input((8,))
    x = GaussianNoise(0.5, role="input", seed=1)(inputs)
    x = GaussianNoise(0.25, role="activation", seed=2)(x)
    return keras.Model(inputs, x)


def test_noise_is_off_at_inference():
    x = np.ones((3, 4), "float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(GaussianNoise(1.0)(x, training=False)), x)


def test_training_noise_has_the_stated_moments():
    layer = GaussianNoise(0.3, seed=0)
    noise = ops.convert_to_numpy(layer(np.zeros((100, 1000), "float32"), training=True))
    assert abs(noise.mean()) < 5 * 0.3 / np.sqrt(noise.size)
    assert abs(noise.std() - 0.3) < 5 * 0.3 / np.sqrt(2 * noise.size)


def test_each_call_draws_anew_and_the_seed_repeats_the_sequence():
    x = np.zeros((2, 5), "float32")
    first, second = GaussianNoise(1.0, seed=7), GaussianNoise(1.0, seed=7)
    draws = [ops.convert_to_numpy(first(x, training=True)) for _ in range(2)]
    assert not np.array_equal(*draws)
    for draw in draws:
        np.testing.assert_array_equal(ops.convert_to_numpy(second(x, training=True)), draw)


def test_compiled_training_follows_an_assigned_sigma():
    inputs = keras.Input((50,))
    layer = GaussianNoise(1.0, seed=0)
    model = keras.Model(inputs, layer(inputs))
    model.compile(optimizer="sgd", loss="mse")
    x = np.zeros((64, 50), "float32")
    assert model.train_on_batch(x, x) > 0.5
    layer.sigma.assign(0.0)
    assert model.train_on_batch(x, x) == 0.0


@pytest.mark.parametrize(
    ("inputs", "activations", "sigma"),
    [(False, False, 0.0), (True, False, 0.5), (False, True, 0.25), (True, True, 0.559)],
)
def test_noise_at_inference_switches_by_role(model, inputs, activations, sigma):
    x = np.zeros((2000, 8), "float32")
    assert not model.predict(x, verbose=0).any()
    with noise_at_inference(model, inputs=inputs, activations=activations):
        assert abs(model.predict(x, verbose=0).std() - sigma) < 0.02  # 16,000 draws: 0.003 is one standard error
    assert not model.predict(x, verbose=0).any()


def test_the_first_use_of_a_compiled_model_may_be_with_noise_at_inference(model):
    x = np.zeros((2000, 8), "float32")
    model.compile(loss="mse")
    with noise_at_inference(model, inputs=True, activations=False):
        assert abs(model.evaluate(x, x, verbose=0) - 0.25) < 0.02  # 16,000 draws: 0.003 is one standard error
    assert model.evaluate(x, x, verbose=0) == 0.0


def test_noise_at_inference_reaches_functions_compiled_for_attacks(model):
    x = np.zeros((4, 8), "float32")
    predictor = Predictor.of(model)
    assert not predictor.predict(x).any()
    with noise_at_inference(model, inputs=True, activations=False):
        assert predictor.predict(x).all()
    assert not predictor.predict(x).any()


def test_noise_at_inference_is_switched_off_after_an_error(model):
    with pytest.raises(KeyError), noise_at_inference(model, inputs=True, activations=True):
        raise KeyError
    assert not any(layer.at_inference for layer in model.layers[1:])


def test_noise_at_inference_without_a_noise_layer_is_an_error():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, GaussianNoise(0.1, role="input")(inputs))
    with (
        pytest.raises(ValueError, match="without a GaussianNoise layer of that role"),
        noise_at_inference(model, inputs=True, activations=True),
    ):
        pass


def test_assigned_sigma_is_saved_with_the_model(model, tmp_path):
    model.layers[1].sigma.assign(0.75)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert float(again.layers[1].sigma.value) == 0.75
    assert [layer.role for layer in again.layers[1:]] == ["input", "activation"]


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), "0.1", None])
def test_sigma_that_is_no_standard_deviation_is_an_error(sigma):
    with pytest.raises(ValueError, match="`sigma` must be a standard deviation"):
        GaussianNoise(sigma)


def test_unknown_role_is_an_error():
    with pytest.raises(ValueError, match="`role` must be one of 'input', 'activation'"):
        GaussianNoise(0.1, role="pixels")
