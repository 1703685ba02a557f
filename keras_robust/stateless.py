"""A model called with given values of its variables."""

from typing import Any

import keras

from keras_robust.checks import Tensor


def stateless_call(
    model: keras.Model, trainable: list[Tensor], non_trainable: list[Tensor], x: Tensor, training: bool
) -> tuple[Any, list[Any]]:
    """Calls any model as its own `stateless_call` does, also one whose `call` has no argument `training`.

    Args:
        model: Built Keras model.
        trainable: Values of its trainable variables.
        non_trainable: Values of the others.
        x: Inputs, shape `(batch, ...)`.
        training: Whether it runs in training mode.

    Returns:
        Its outputs, and the values of the other variables after the call.
    """
    if model._call_has_training_arg:
        return model.stateless_call(trainable, non_trainable, x, training=training)
    # Keras's method would hand `training` to `call`; without it, the layers would not hear of it.
    others = model.non_trainable_variables
    mapping = [*zip(model.trainable_variables, trainable, strict=True), *zip(others, non_trainable, strict=True)]
    with keras.StatelessScope(state_mapping=mapping) as scope:
        outputs = model(x, training=training)
    return outputs, [scope.get_current_value(variable) for variable in others]
