"""JAX side of the seam; the contract is stated in `keras_robust.backend`."""

import contextlib

import jax
import keras

from keras_robust.backend.counter_normal import normal as normal
from keras_robust.backend.xla_text import without_names

VERSION = jax.__version__
COMPILES = True
REFUSES_GLOBAL_SEEDS = True
batch_norm = None


def value_and_grad(fn, inputs, has_aux=False):
    """Differentiates a scalar function of a nest of tensors."""
    value, grads = jax.value_and_grad(fn, has_aux=has_aux)(inputs)
    return jax.lax.stop_gradient(value), jax.lax.stop_gradient(grads)


def jit(fn):
    """Compiles a pure function."""
    return jax.jit(fn)


def compiled_loss(fn):
    """The function itself: the step around it is compiled."""
    return fn


def rows_in_cache(x, bytes_a_row):
    """All rows: the compiled function divides its work itself."""
    del x, bytes_a_row


def loops_on_host():
    """Tells whether XLA compiles for a CPU."""
    return jax.default_backend() == "cpu"


def full_precision():
    """Multiplies in float32 where an accelerator would round to TensorFloat-32."""
    return contextlib.nullcontext() if jax.default_backend() == "cpu" else jax.default_matmul_precision("highest")


def custom_gradient(fn):
    """Gives a function the gradient that it returns beside its value."""
    return keras.ops.custom_gradient(fn)


def compiled_memory(fn, *tensors):
    """The bytes that XLA has assigned."""
    found = fn.lower(*tensors).compile().memory_analysis()
    whole = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return whole - found.alias_size_in_bytes


def compiled_program(fn, *tensors):
    """What XLA runs."""
    return without_names(fn.lower(*tensors).compile().as_text())


def synchronize(nest):
    """Waits until every tensor of the nest is computed."""
    return jax.block_until_ready(nest)


def device_name():
    """The device that tensors live on, such as 'cpu' or 'NVIDIA H200'."""
    return jax.devices()[0].device_kind


_STATE = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")


class TrainStep:
    """Prepares the batch and perturbs the weights around Keras's own `train_step`."""

    def make_train_function(self, force=False):
        """Keras's own; where a step fails before it has used its state up, the variables get their values back."""
        super().make_train_function(force)
        step = self.train_function
        if getattr(step, "gives_back", False):
            return

        def run(state, iterator):
            try:
                return step(state, iterator)
            except BaseException:
                if not any(value.is_deleted() for value in jax.tree.leaves(state)):
                    self._jax_state = dict(zip(_STATE, state, strict=True))
                    self._jax_state_synced = False
                    self.jax_state_sync()
                raise

        run.gives_back = True
        self.train_function = run

    def train_step(self, state, data):
        """Runs one step on the prepared batch; see `keras_robust.backend`."""
        trainable, non_trainable, optimizer, metrics = state
        pairs = [
            *zip(self.trainable_variables, trainable, strict=True),
            *zip(self.non_trainable_variables, non_trainable, strict=True),
        ]
        # Keras variables hold stale values inside a traced step: the scope lends them the step's own.
        with keras.StatelessScope(state_mapping=pairs) as scope:
            data = self.prepare_batch(*keras.utils.unpack_x_y_sample_weight(data))
            offsets = self.weight_offsets(data[0], data[1])
        non_trainable = [scope.get_current_value(v) for v in self.non_trainable_variables]
        if offsets is None:
            return super().train_step((trainable, non_trainable, optimizer, metrics), data)
        shifted = [value + offset for value, offset in zip(trainable, offsets, strict=True)]
        logs, (updated, *rest) = super().train_step((shifted, non_trainable, optimizer, metrics), data)
        # The step is added to the weights as they were: taking the offset off again would round twice.
        stepped = [v + (new - old) for v, new, old in zip(trainable, updated, shifted, strict=True)]
        return logs, (stepped, *rest)
