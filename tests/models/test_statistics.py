"""Batch normalization's statistics after `recalibrate`: those of the images given, and nothing else changes."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_robust import models
from keras_robust.layers import BatchNormalization, GaussianNoise

pytestmark = pytest.mark.usefixtures("numpy_weights")
ROUNDING = 1e-5


def images(count=64, seed=0):
    return np.random.default_rng(seed).random((count, 8, 8, 3)).astype("float32")


def noisy_cnn(normalization=layers.BatchNormalization):
    inputs = keras.Input((8, 8, 3))
    x = GaussianNoise(0.3, role="input", seed=0)(inputs)
    x = layers.Conv2D(6, 3, padding="same", name="conv")(x)
    x = GaussianNoise(0.3, role="activation", seed=1)(x)
    x = normalization(name="first")(x)
    x = layers.ReLU()(x)
    x = layers.Dropout(0.5, seed=2)(x)
    x = layers.Conv2D(4, 3, name="second_conv")(x)
    x = normalization(scale=False, name="second")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(10, name="logits")(x))
    generator = np.random.default_rng(3)
    for name in ("first", "second"):
        layer = model.get_layer(name)
        layer.set_weights([generator.uniform(0.5, 2.0, each.shape) for each in layer.get_weights()])
    return model


def normalized_in(model, name, x):
    """What a layer normalizes, in inference."""
    return keras.Model(model.inputs, model.get_layer(name).input).predict(x, verbose=0)


@pytest.mark.parametrize("normalization", [layers.BatchNormalization, BatchNormalization])
def test_one_batch_gives_each_layer_the_statistics_of_its_input_without_noise(normalization):
    x = images()
    renewed = models.recalibrate(noisy_cnn(normalization), x, batch_size=len(x))
    for name in ("first", "second"):
        layer, values = renewed.get_layer(name), normalized_in(renewed, name, x)
        np.testing.assert_allclose(layer.moving_mean, values.mean((0, 1, 2)), atol=ROUNDING)
        np.testing.assert_allclose(layer.moving_variance, values.var((0, 1, 2)), rtol=1e-3, atol=ROUNDING)
        assert type(layer) is normalization


def test_a_batch_counts_by_its_images():
    x = images() * np.repeat([0.2, 1.0], 32)[:, None, None, None].astype("float32")
    renewed = models.recalibrate(noisy_cnn(), [x[:60], x[60:]])
    values = normalized_in(renewed, "first", x)
    layer = renewed.get_layer("first")
    np.testing.assert_allclose(layer.moving_mean, values.mean((0, 1, 2)), atol=ROUNDING)
    np.testing.assert_allclose(layer.moving_variance, values.var((0, 1, 2)), rtol=1e-3, atol=ROUNDING)


def test_batches_are_pooled_into_the_mean_and_variance_of_all_their_images():
    # Brightness differs from batch to batch, so that means do and their spread belongs to the variance.
    x = images() * np.repeat([0.2, 0.5, 0.8, 1.0], 16)[:, None, None, None].astype("float32")
    renewed = models.recalibrate(noisy_cnn(), x, batch_size=16)
    values = normalized_in(renewed, "first", x)
    layer = renewed.get_layer("first")
    np.testing.assert_allclose(layer.moving_mean, values.mean((0, 1, 2)), atol=ROUNDING)
    np.testing.assert_allclose(layer.moving_variance, values.var((0, 1, 2)), rtol=1e-3)


def test_an_array_and_its_batches_are_the_same_and_a_rest_is_left_out():
    x = images(40)
    model = noisy_cnn()
    whole = models.recalibrate(model, x, batch_size=16)
    batches = models.recalibrate(model, iter([x[:16], x[16:32]]))
    for one, other in zip(whole.get_weights(), batches.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_weights_stay_and_so_does_the_model_given():
    model = noisy_cnn()
    before = model.get_weights()
    renewed = models.recalibrate(model, images())
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [each.path for each in renewed.weights] == [each.path for each in model.weights]
    changed = {
        each.name
        for each, one, other in zip(renewed.weights, before, renewed.get_weights(), strict=True)
        if not np.array_equal(one, other)
    }
    assert changed == {"moving_mean", "moving_variance"}


def test_statistics_found_twice_are_the_same():
    x = images()
    once = models.recalibrate(noisy_cnn(), x)
    twice = models.recalibrate(once, x)
    for one, other in zip(once.get_weights(), twice.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=ROUNDING)


def test_a_layer_called_twice_pools_both_calls_and_nested_models_are_reached():
    shared = layers.BatchNormalization(name="shared")
    inner_inputs = keras.Input((8, 8, 3))
    inner = keras.Model(inner_inputs, shared(inner_inputs), name="inner")
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Concatenate()([inner(inputs), inner(2.0 * inputs)]))
    x = images()
    layer = models.recalibrate(model, x, batch_size=64).get_layer("inner").get_layer("shared")
    both = np.concatenate([x, 2 * x])
    np.testing.assert_allclose(layer.moving_mean, both.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(layer.moving_variance, both.var((0, 1, 2)), rtol=1e-3)


def test_a_frozen_layer_gets_new_statistics_and_stays_frozen():
    model = noisy_cnn()
    model.get_layer("first").trainable = False
    x = images()
    layer = models.recalibrate(model, x).get_layer("first")
    assert not layer.trainable
    expected = normalized_in(model, "first", x).mean((0, 1, 2))
    np.testing.assert_allclose(layer.moving_mean, expected, atol=ROUNDING)


def test_a_model_of_the_zoo_that_saw_noise_is_its_own_without_it():
    model = models.build("kap_cnn", num_classes=10, input_shape=(8, 8, 1), depth=2, sigma=0.1)
    x = images()[..., :1]
    renewed = models.recalibrate(model, x)
    assert len(renewed.weights) == len(model.weights)
    assert np.abs(renewed.predict(x, verbose=0) - model.predict(x, verbose=0)).max() > 0.01


class Block(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.normalization = layers.BatchNormalization(name="hidden")

    def call(self, x):
        return self.normalization(x)


def test_models_without_reachable_normalization_and_no_images_are_errors():
    inputs = keras.Input((8, 8, 3))
    plain = keras.Model(inputs, layers.Flatten()(inputs), name="plain")
    with pytest.raises(ValueError, match="'plain', which has none"):
        models.recalibrate(plain, images())
    hidden = keras.Model(inputs, Block(name="block")(inputs))
    with pytest.raises(ValueError, match=r"'hidden' within the layer 'block' of type Block"):
        models.recalibrate(hidden, images())
    model = noisy_cnn()
    for none in (images(0), []):
        with pytest.raises(ValueError, match="at least one image"):
            models.recalibrate(model, none)
    with pytest.raises(ValueError, match="batch_size"):
        models.recalibrate(model, images(), batch_size=0)


@pytest.mark.parametrize("given", ["array", "batches"])
def test_pixels_of_another_scale_give_no_statistics(given):
    x = (255 * images(8)).astype("uint8")
    with pytest.raises(ValueError, match=r"images / 255"):
        models.recalibrate(noisy_cnn(), x if given == "array" else [x[:4], x[4:]], batch_size=4)
