"""Double precision for oracles."""

import contextlib

import keras


@contextlib.contextmanager
def float64():
    """Computes in float64 for a `with` block; JAX needs to be told apart."""
    with contextlib.ExitStack() as stack:
        if keras.backend.backend() == "jax":
            import jax

            stack.enter_context(jax.enable_x64(True))
        before = keras.config.floatx()
        keras.config.set_floatx("float64")
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("float64")
        try:
            yield
        finally:
            keras.config.set_floatx(before)
            keras.config.set_dtype_policy(policy)
