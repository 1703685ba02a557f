"""Copies of a model that compute in float32, to check what was found in mixed precision."""

import keras

from keras_robust.prediction import decisions


def is_mixed(model: keras.Model) -> bool:
    """Tells whether some layer of the model computes in a float type below float32."""
    layers = model._flatten_layers(include_self=False)
    return any(layer.compute_dtype in ("float16", "bfloat16") for layer in layers)


def float32_copy(model: keras.Model) -> keras.Model | None:
    """Builds a copy with the same weights that computes in float32.

    Args:
        model: Sequential or functional model.

    Returns:
        The copy, or None where the model is of another kind, holds layers that go on computing in less or that
        their configuration does not make again, or is switched to noise or a subnet, which a copy is not.
    """
    # Keras has no public name for the class of functional models.
    if not isinstance(model, keras.Sequential) and type(model).__name__ != "Functional":
        return None

    def in_float32(layer):
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    try:
        copy = keras.models.clone_model(model, clone_function=in_float32, recursive=True)
    except (TypeError, NotImplementedError):  # a layer of one's own without `dtype` or `get_config`
        return None
    if is_mixed(copy) or decisions(copy) != decisions(model):
        return None
    copy.set_weights([weight.astype("float32") for weight in model.get_weights()])
    return copy
