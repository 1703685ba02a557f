"""The precision in which a model is built, whatever Keras is set to."""

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def dtype_policy(name: str | keras.DTypePolicy) -> Iterator[None]:
    """Layers made in the `with` block have this policy, such as `"float32"`; Keras's own is put back after it."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
