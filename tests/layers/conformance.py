"""What every layer must do; `test_conformance.py` runs each check over each layer."""

import keras
import numpy as np
from keras import ops

from keras_robust import backend

# Half precision keeps 11 (float16) or 8 (bfloat16) bits; sums of some ten terms lose a few of them.
HALF_TOLERANCE = {"mixed_float16": 2e-2, "mixed_bfloat16": 1e-1}
# The same float32 operations, compiled in another order.
COMPILED_TOLERANCE = 1e-5


def _images(shape, batch=3):
    return np.random.default_rng(1).uniform(0.1, 1.0, (batch, *shape)).astype("float32")


def _numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def check_config_round_trip(factory, shape):
    """The configuration rebuilds the layer, through JSON too."""
    layer = factory()
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    # JSON has no tuples.
    assert keras.tree.map_structure(str, _listed(copy.get_config())) == keras.tree.map_structure(
        str, _listed(layer.get_config())
    )


def _listed(config):
    return {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}


def check_output_shape(factory, shape):
    """The announced shape is the shape, with and without a batch size."""
    layer = factory()
    outputs = layer(keras.Input(shape))
    assert outputs.shape == tuple(layer.compute_output_shape((None, *shape)))
    assert tuple(layer(_images(shape)).shape) == (3, *outputs.shape[1:])


def check_unknown_batch(factory, shape):
    """A functional model runs on batches of any size, each row on its own."""
    inputs = keras.Input(shape)
    model = keras.Model(inputs, factory()(inputs))
    x = _images(shape)
    whole = _numpy(model(x))
    np.testing.assert_allclose(_numpy(model(x[:1])), whole[:1], atol=COMPILED_TOLERANCE)
    np.testing.assert_allclose(model.predict(x, batch_size=2, verbose=0), whole, atol=COMPILED_TOLERANCE)


def check_reload(factory, shape, folder):
    """A saved model reloads to the same outputs."""
    inputs = keras.Input(shape)
    model = keras.Model(inputs, factory()(inputs))
    model.save(folder / "model.keras")
    again = keras.saving.load_model(folder / "model.keras")
    x = _images(shape)
    np.testing.assert_array_equal(_numpy(again(x)), _numpy(model(x)))


def check_mixed_precision(factory, shape):
    """Half precision computes and returns half precision, close to float32."""
    x = _images(shape)
    for policy, tolerance in HALF_TOLERANCE.items():
        half, full = factory(dtype=policy), factory()
        half.build((None, *shape))
        full.build((None, *shape))
        full.set_weights(half.get_weights())
        outputs = half(x)
        assert keras.backend.standardize_dtype(outputs.dtype) == policy.removeprefix("mixed_")
        assert all(w.dtype == "float32" for w in half.trainable_weights)
        expected = _numpy(full(x))
        np.testing.assert_allclose(_numpy(outputs), expected, atol=tolerance * max(1.0, np.abs(expected).max()))


def check_jit(factory, shape):
    """A compiled call gives the eager result."""
    layer, x = factory(), _images(shape)
    expected = _numpy(layer(x))
    np.testing.assert_allclose(
        _numpy(backend.jit(lambda images: layer(images))(ops.convert_to_tensor(x))),
        expected,
        atol=COMPILED_TOLERANCE,
    )


def check_gradient(factory, shape):
    """The gradient with respect to the input is finite, and not zero everywhere."""
    layer, x = factory(), ops.convert_to_tensor(_images(shape))
    layer(x)
    _, gradient = backend.value_and_grad(lambda images: ops.sum(ops.square(layer(images))), x)
    gradient = _numpy(gradient)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def check_fit(factory, shape):
    """Plain `fit` trains a model with the layer, without a NaN."""
    inputs = keras.Input(shape)
    x = keras.layers.Dense(shape[-1])(inputs)
    outputs = keras.layers.Dense(2)(keras.layers.Flatten()(factory()(x)))
    model = keras.Model(inputs, outputs)
    model.compile(
        optimizer=keras.optimizers.SGD(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    before = model.get_weights()[0]
    history = model.fit(_images(shape, 4), np.array([0, 1, 0, 1]), batch_size=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert not np.array_equal(before, model.get_weights()[0])


CHECKS = (
    check_config_round_trip,
    check_output_shape,
    check_unknown_batch,
    check_mixed_precision,
    check_jit,
    check_gradient,
    check_fit,
)
