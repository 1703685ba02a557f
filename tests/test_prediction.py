import keras
import numpy as np
import pytest
from keras import ops

from keras_robust import backend, models
from keras_robust.attacks import repeated_accuracy
from keras_robust.layers import GaussianNoise, noise_at_inference
from keras_robust.prediction import Predictor, _largest_output

SHAPE = (16, 16, 3)


@pytest.fixture(scope="module")
def model():
    return models.build("kap_cnn", num_classes=4, input_shape=SHAPE)


@pytest.fixture
def seen(monkeypatch):
    """Lets a model take three rows at once, and records the rows of each pass."""
    passes = []
    call = keras.Model.stateless_call

    def counted(self, trainable, non_trainable, x, **options):
        passes.append(x.shape[0])
        return call(self, trainable, non_trainable, x, **options)

    monkeypatch.setattr(keras.Model, "stateless_call", counted)
    monkeypatch.setattr(backend, "rows_in_cache", lambda x, bytes_a_row: 3)
    return passes


def images(count):
    return np.random.default_rng(0).random((count, *SHAPE)).astype("float32")


def test_a_batch_in_parts_has_the_logits_of_the_whole(model, seen, monkeypatch):
    x = images(8)
    parts = Predictor(model).predict(x)
    assert seen == [3, 3, 2]
    monkeypatch.undo()
    whole = Predictor(model).predict(x)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5)


def test_each_part_of_a_random_model_draws_anew(seen):
    model = keras.Sequential([keras.Input(SHAPE), GaussianNoise(1.0), keras.layers.Flatten()])
    with noise_at_inference(model, inputs=False, activations=True):
        logits = Predictor(model).predict(np.zeros((7, *SHAPE), "float32"))
    assert seen == [3, 2, 2]
    assert len(np.unique(logits[:, 0])) == 7


def test_training_takes_the_whole_batch(model, seen):
    predictor = Predictor(model)
    predictor.logits(predictor.variables(), ops.convert_to_tensor(images(8)), training=True)
    assert seen == [8]


def test_the_largest_activation_counts(model):
    inner = keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(10, 3, padding="same")])
    nested = keras.Sequential([keras.Input(SHAPE), inner, keras.layers.GlobalAveragePooling2D()])
    assert _largest_output(nested) == 16 * 16 * 10
    assert _largest_output(model) >= np.prod(SHAPE)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the other backends keep their speed")
def test_pytorch_takes_a_large_batch_in_parts_but_not_under_a_gradient():
    x = ops.convert_to_tensor(images(2))
    assert backend.rows_in_cache(x, 4 * 64 * 32 * 32) == 64
    assert backend.rows_in_cache(x, 2**30) == 1
    assert backend.rows_in_cache(x, 0) is None
    found = []

    def loss(each):
        found.append(backend.rows_in_cache(each * 2, 2**20))
        return ops.sum(each)

    backend.value_and_grad(loss, x)
    assert found == [None]


class KnowsNothingOfTraining(keras.Model):
    """A model whose `call` has no argument `training`."""

    def __init__(self):
        super().__init__()
        self.norm = keras.layers.BatchNormalization(momentum=0.5)
        self.flat = keras.layers.Flatten()

    def call(self, inputs):
        return self.flat(self.norm(inputs))


def test_a_model_whose_call_does_not_know_training_runs_in_the_mode_asked_for():
    model, x = KnowsNothingOfTraining(), images(8)
    model(x)
    predictor = Predictor(model)
    np.testing.assert_allclose(predictor.predict(x), x.reshape(8, -1) / np.sqrt(1 + 1e-3), rtol=1e-5)
    train = ops.convert_to_numpy(predictor.logits(predictor.variables(), ops.convert_to_tensor(x), training=True))
    np.testing.assert_allclose(train.reshape(x.shape).mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_array_equal(model.norm.moving_mean, np.zeros(3))


def test_a_model_that_was_never_called_has_its_variables_made_before_it_is_compiled():
    model, x = KnowsNothingOfTraining(), images(8)
    found = Predictor.of(model).predict(x)
    np.testing.assert_allclose(model.predict(x, verbose=0), found, rtol=1e-5)


class NoiseOfNoGenerator(keras.layers.Layer):
    """Adds noise from Keras's global generator, which a compiled function draws once and for all."""

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x))


def test_noise_of_keras_s_global_generator_is_refused():
    model = keras.Sequential([NoiseOfNoGenerator(), keras.layers.Flatten(), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="SeedGenerator"):
        Predictor.of(model).predict(images(8))
    with pytest.raises(ValueError, match="SeedGenerator"):
        repeated_accuracy(model, images(8), np.zeros(8, int))


@pytest.mark.parametrize("kind", [list, dict])
def test_a_model_of_several_outputs_is_an_error_that_says_so(kind):
    inputs = keras.Input((4,))
    outputs = {str(units): keras.layers.Dense(units)(inputs) for units in (2, 3)}
    model = keras.Model(inputs, outputs if kind is dict else [*outputs.values()])
    with pytest.raises(ValueError, match=rf"one tensor, its logits.*a {kind.__name__} of 2 outputs"):
        Predictor.of(model).predict(np.zeros((2, 4), "float32"))
