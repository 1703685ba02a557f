"""TensorFlow side of the seam; the contract is stated in `keras_robust.backend`."""

import contextlib
import functools

import keras
import tensorflow as tf

from keras_robust.backend.counter_normal import normal as normal
from keras_robust.backend.xla_text import without_names

VERSION = tf.__version__
COMPILES = True
REFUSES_GLOBAL_SEEDS = False
batch_norm = None


def value_and_grad(fn, inputs, has_aux=False):
    """Differentiates a scalar function of a nest of tensors."""
    inputs = tf.nest.map_structure(tf.stop_gradient, inputs)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        value = fn(inputs)
    scalar = value[0] if has_aux else value
    grads = tape.gradient(scalar, inputs, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return tf.nest.map_structure(tf.stop_gradient, (value, grads))


def jit(fn):
    """Compiles a pure function with XLA."""
    # TensorFlow counts the traces of all closures of one code together, and would warn of the batch sizes' own.
    return tf.function(functools.partial(fn), jit_compile=True, autograph=False)


def compiled_loss(fn):
    """The function itself: the step around it is compiled."""
    return fn


def rows_in_cache(x, bytes_a_row):
    """All rows: the compiled function divides its work itself."""
    del x, bytes_a_row


def loops_on_host():
    """Tells whether XLA compiles for a CPU."""
    return not tf.config.list_physical_devices("GPU")


@contextlib.contextmanager
def full_precision():
    """Multiplies in float32 where an accelerator would round to TensorFloat-32."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def custom_gradient(fn):
    """Gives a function the gradient that it returns beside its value."""
    return keras.ops.custom_gradient(fn)


def compiled_memory(fn, *tensors):
    """None: TensorFlow keeps what XLA has assigned to itself."""


def compiled_program(fn, *tensors):
    """What XLA runs."""
    return without_names(fn.experimental_get_compiler_ir(*tensors)(stage="optimized_hlo"))


def synchronize(nest):
    """Waits until every tensor of the nest is computed."""
    tf.nest.map_structure(lambda tensor: tensor.numpy(), nest)
    return nest


def device_name():
    """The device that tensors live on, such as 'cpu' or 'NVIDIA H200'."""
    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        return "cpu"
    return tf.config.experimental.get_device_details(devices[0]).get("device_name", "gpu")


class TrainStep:
    """Prepares the batch and perturbs the weights around Keras's own `train_step`."""

    def train_step(self, data):
        """Runs one step on the prepared batch; see `keras_robust.backend`."""
        data = self.prepare_batch(*keras.utils.unpack_x_y_sample_weight(data))
        offsets = self.weight_offsets(data[0], data[1])
        if offsets is None:
            return super().train_step(data)
        # The step is added to the weights as they were: taking the offset off again would round twice.
        originals = [tf.identity(variable.value) for variable in self.trainable_variables]
        shifted = [value + offset for value, offset in zip(originals, offsets, strict=True)]
        for variable, value in zip(self.trainable_variables, shifted, strict=True):
            variable.assign(value)
        try:
            return super().train_step(data)
        finally:  # also where a step that runs eagerly fails
            for variable, value, old in zip(self.trainable_variables, originals, shifted, strict=True):
                variable.assign(value + (variable.value - old))
