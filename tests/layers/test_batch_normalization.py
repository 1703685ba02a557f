import keras
import numpy as np
import pytest
from keras import ops

from keras_robust import backend, models
from keras_robust.layers import BatchNormalization

OPTIONS = {"epsilon": 1e-5, "momentum": 0.9}
SHAPES = {"images": (8, 5, 4, 3), "vectors": (16, 3), "a sequence": (6, 7, 3), "one value a channel": (1, 3)}
TOLERANCE = {"float32": 2e-5, "mixed_bfloat16": 5e-2, "mixed_float16": 5e-3}


def pair(shape, **options):
    """Our layer and Keras's, with the same weights."""
    ours, kerass = BatchNormalization(**options), keras.layers.BatchNormalization(**options)
    for layer in (ours, kerass):
        layer.build((None, *shape[1:]))
    rng = np.random.default_rng(0)
    weights = [rng.uniform(0.5, 2.0, weight.shape) for weight in kerass.weights]
    ours.set_weights(weights)
    kerass.set_weights(weights)
    return ours, kerass


def step(layer, x, **call):
    """Output, gradients of it to input and weights, and the weights afterwards."""
    weigh = ops.convert_to_tensor(np.random.default_rng(1).normal(size=x.shape).astype("float32"))

    def loss(inputs):
        images, values = inputs
        with keras.StatelessScope(state_mapping=zip(layer.trainable_variables, values, strict=True)) as scope:
            outputs = layer(images, training=True, **call)
        state = [scope.get_current_value(each) for each in layer.non_trainable_variables]
        return ops.sum(ops.cast(outputs, "float32") * weigh), (outputs, state)

    inputs = ops.convert_to_tensor(x), [each.value for each in layer.trainable_variables]
    (_, (outputs, state)), gradients = backend.value_and_grad(loss, inputs, has_aux=True)
    return [
        ops.convert_to_numpy(ops.cast(each, "float32"))
        for each in (outputs, *state, *keras.tree.flatten(gradients))
    ]


def assert_same(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * max(1.0, np.abs(other).max()))


@pytest.mark.parametrize("policy", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_step_of_training_equals_kerass(shape, policy):
    x = np.random.default_rng(2).normal(1.0, 2.0, shape).astype("float32")
    ours, kerass = pair(shape, dtype=policy, **OPTIONS)
    found, expected = step(ours, x), step(kerass, x)
    # The gradient of a batch of one is that of rounding.
    parts = 3 if x.size == 3 else None
    assert_same(found[:parts], expected[:parts], TOLERANCE[policy])
    assert not np.allclose(expected[1], ours.moving_mean.numpy())


UNUSUAL = {
    "no scale": {"scale": False},
    "no offset": {"center": False},
    "another axis": {"axis": 1},
    "renormalized": {"renorm": True},
}


@pytest.mark.parametrize("options", UNUSUAL.values(), ids=UNUSUAL)
def test_options_of_keras_mean_what_they_mean_there(options):
    x = np.random.default_rng(2).normal(1.0, 2.0, (8, 5, 4, 3)).astype("float32")
    ours, kerass = pair(x.shape, **OPTIONS, **options)
    assert_same(step(ours, x), step(kerass, x), 1e-5)


def test_steps_that_are_masked_do_not_count():
    x = np.random.default_rng(2).normal(1.0, 2.0, (6, 7, 3)).astype("float32")
    mask = ops.convert_to_tensor(np.random.default_rng(3).uniform(size=(6, 7)) > 0.5)
    ours, kerass = pair(x.shape, **OPTIONS)
    assert_same(step(ours, x, mask=mask), step(kerass, x, mask=mask), 1e-5)
    assert np.abs(step(ours, x)[0] - step(ours, x, mask=mask)[0]).max() > 0.01


@pytest.mark.parametrize(("training", "trainable"), [(False, True), (True, False)])
def test_a_layer_that_does_not_train_uses_its_averages_and_keeps_them(training, trainable):
    x = np.random.default_rng(2).normal(1.0, 2.0, (8, 5, 4, 3)).astype("float32")
    ours, kerass = pair(x.shape, **OPTIONS)
    ours.trainable = kerass.trainable = trainable
    before = ours.get_weights()
    outputs = [ops.convert_to_numpy(layer(x, training=training)) for layer in (ours, kerass)]
    np.testing.assert_array_equal(*outputs)
    np.testing.assert_array_equal(np.concatenate(before), np.concatenate(ours.get_weights()))


def test_weights_of_kerass_layer_load(tmp_path):
    def net(normalization):
        layers = [keras.layers.Conv2D(4, 3, use_bias=False), normalization(), keras.layers.Dense(2)]
        return keras.Sequential([keras.Input((5, 5, 1)), *layers])

    kerass, ours = net(keras.layers.BatchNormalization), net(BatchNormalization)
    kerass.set_weights([np.full(weight.shape, 0.3) for weight in kerass.weights])
    kerass.save_weights(tmp_path / "net.weights.h5")
    ours.load_weights(tmp_path / "net.weights.h5")
    for one, other in zip(ours.get_weights(), kerass.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_saved_model_has_kerass_layer_and_gives_the_same(tmp_path):
    model = keras.Sequential([keras.Input((5, 5, 3)), BatchNormalization(name="bn", **OPTIONS)])
    x = np.random.default_rng(2).normal(1.0, 2.0, (8, 5, 5, 3)).astype("float32")
    model(x, training=True)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again.get_layer("bn")) is keras.layers.BatchNormalization
    assert type(keras.models.clone_model(model).get_layer("bn")) is BatchNormalization
    np.testing.assert_array_equal(*(ops.convert_to_numpy(net(x)) for net in (model, again)))


def test_the_networks_normalize_with_it():
    model = models.build("resnet8", 10, (8, 8, 3))
    layers = [each for each in model.layers if isinstance(each, keras.layers.BatchNormalization)]
    assert layers
    assert all(isinstance(each, BatchNormalization) for each in layers)
