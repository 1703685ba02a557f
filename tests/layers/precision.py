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
        # The policy is read first: Keras makes a default one from the current float type.
        policy, before = keras.config.dtype_policy(), keras.config.floatx()
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        try:
            yield
        finally:
            keras.config.set_floatx(before)
            keras.config.set_dtype_policy(policy)
