"""The seam to the framework that Keras runs on; the only place of the package that names one.

Each of `jax.py`, `tensorflow.py` and `torch.py` defines the same names:

- `value_and_grad(fn, inputs, has_aux=False)`: calls `fn(inputs)`, which returns a scalar (or, with
  `has_aux`, a pair of a scalar and a nest of tensors), and differentiates the scalar with respect to
  every tensor of the nest `inputs`. Returns `(value, grads)` or `((value, aux), grads)`, all detached:
  no gradient flows through them. `inputs` may be the weights that a `stateless_call` takes.
- `jit(fn)`: compiles a pure function of nests of tensors (one compilation for each set of shapes). On PyTorch it
  is recorded as a graph of tensor operations, or runs eagerly where that cannot be; nothing that it returns
  carries gradients. Keyword arguments are not supported.
- `compiled_loss(fn)`: compiles a part of a training step, a pure function `fn(inputs, *tensors)` that returns a
  scalar and a nest of tensors; the scalar's gradient with respect to the tensors of the list `inputs` flows on. On
  JAX and TensorFlow it is `fn` itself, as the whole step is compiled; on PyTorch the gradient is recorded with it.
- `TrainStep`: a mixin in front of `keras.Model`. Before Keras's own `train_step` it calls
  `self.prepare_batch(x, y, sample_weight)`, which returns the batch to train on, and
  `self.weight_offsets(x, y)`, which returns None or one tensor for each trainable variable: the offset is
  put on for the step and taken off after it. Both may read and assign Keras variables and call the model.
- `batch_norm(x, gamma, beta, epsilon)`: normalizes `x`, shape `(batch, ..., channels)`, by its own mean and
  variance over all axes but the last. Returns the result and, without gradients, mean and (biased) variance, shape
  `(channels,)`. None where Keras's own operations stay, for a compiler to fuse.
- `normal(shape, key)`: standard normal numbers, float32, a pure function of `key`, two 32-bit words in a tensor of
  type int32 or uint32, cheap inside `jit`. JAX and TensorFlow agree to rounding; PyTorch draws other numbers.
- `custom_gradient(fn)`: as `keras.ops.custom_gradient`, except in a graph that is being recorded on PyTorch, which
  differentiates the function itself, or exported, as to ONNX.
- `compiled_memory(fn, *tensors)`: bytes that a function of `jit` needs at its peak, arguments and results
  included, as its compiler laid them out; None where the framework does not tell.
- `compiled_program(fn, *tensors)`: text of what a function of `jit` was compiled to, without names: equal programs
  have equal text; None where nothing is compiled.
- `full_precision()`: context in which float32 products are computed in float32, also on accelerators that round
  their factors to TensorFloat-32 otherwise. What is compiled within it keeps that precision.
- `loops_on_host()`: whether the host had better repeat a compiled step than run a compiled loop of steps. So it
  is where XLA compiles for a CPU, whose convolution rewrites leave loops out (a convolution's gradient costs some
  three times as much inside one), and on PyTorch, where a step is a graph and a loop is not.
- `rows_in_cache(x, bytes_a_row)`: how many rows of the batch `x` a model should take at once so that its largest
  activation, of so many bytes a row, stays in a processor's cache; None for all of them, where a gradient is taken
  or the framework keeps its speed without. PyTorch on a CPU does not: each operation of a large batch fills pages
  that are new to the process.
- `synchronize(nest)`: waits until the tensors are computed, for timing.
- `device_name()`: the accelerator or processor that tensors live on, in words.
- `VERSION`: version of the framework.
- `COMPILES`: whether `jit` compiles whatever it is given. Where it does not, on PyTorch, a part of a function that
  looks at values (a loop that ends when something has settled) is worth a `jit` of its own.
- `REFUSES_GLOBAL_SEEDS`: whether Keras raises where a compiled layer draws from its global generator of random
  numbers; elsewhere such a layer goes on with the numbers that it drew first.
"""

import keras

_NAME = keras.backend.backend()

if _NAME == "jax":
    from keras_robust.backend.jax import COMPILES as COMPILES
    from keras_robust.backend.jax import REFUSES_GLOBAL_SEEDS as REFUSES_GLOBAL_SEEDS
    from keras_robust.backend.jax import VERSION as VERSION
    from keras_robust.backend.jax import TrainStep as TrainStep
    from keras_robust.backend.jax import batch_norm as batch_norm
    from keras_robust.backend.jax import compiled_loss as compiled_loss
    from keras_robust.backend.jax import compiled_memory as compiled_memory
    from keras_robust.backend.jax import compiled_program as compiled_program
    from keras_robust.backend.jax import custom_gradient as custom_gradient
    from keras_robust.backend.jax import device_name as device_name
    from keras_robust.backend.jax import full_precision as full_precision
    from keras_robust.backend.jax import jit as jit
    from keras_robust.backend.jax import loops_on_host as loops_on_host
    from keras_robust.backend.jax import normal as normal
    from keras_robust.backend.jax import rows_in_cache as rows_in_cache
    from keras_robust.backend.jax import synchronize as synchronize
    from keras_robust.backend.jax import value_and_grad as value_and_grad
elif _NAME == "tensorflow":
    from keras_robust.backend.tensorflow import COMPILES as COMPILES
    from keras_robust.backend.tensorflow import REFUSES_GLOBAL_SEEDS as REFUSES_GLOBAL_SEEDS
    from keras_robust.backend.tensorflow import VERSION as VERSION
    from keras_robust.backend.tensorflow import TrainStep as TrainStep  # type: ignore[assignment]
    from keras_robust.backend.tensorflow import batch_norm as batch_norm
    from keras_robust.backend.tensorflow import compiled_loss as compiled_loss
    from keras_robust.backend.tensorflow import compiled_memory as compiled_memory
    from keras_robust.backend.tensorflow import compiled_program as compiled_program
    from keras_robust.backend.tensorflow import custom_gradient as custom_gradient
    from keras_robust.backend.tensorflow import device_name as device_name
    from keras_robust.backend.tensorflow import full_precision as full_precision
    from keras_robust.backend.tensorflow import jit as jit
    from keras_robust.backend.tensorflow import loops_on_host as loops_on_host
    from keras_robust.backend.tensorflow import normal as normal
    from keras_robust.backend.tensorflow import rows_in_cache as rows_in_cache
    from keras_robust.backend.tensorflow import synchronize as synchronize
    from keras_robust.backend.tensorflow import value_and_grad as value_and_grad
elif _NAME == "torch":
    from keras_robust.backend.torch import COMPILES as COMPILES
    from keras_robust.backend.torch import REFUSES_GLOBAL_SEEDS as REFUSES_GLOBAL_SEEDS
    from keras_robust.backend.torch import VERSION as VERSION
    from keras_robust.backend.torch import TrainStep as TrainStep  # type: ignore[assignment]
    from keras_robust.backend.torch import batch_norm as batch_norm  # type: ignore[assignment]
    from keras_robust.backend.torch import compiled_loss as compiled_loss
    from keras_robust.backend.torch import compiled_memory as compiled_memory
    from keras_robust.backend.torch import compiled_program as compiled_program
    from keras_robust.backend.torch import custom_gradient as custom_gradient
    from keras_robust.backend.torch import device_name as device_name
    from keras_robust.backend.torch import full_precision as full_precision
    from keras_robust.backend.torch import jit as jit
    from keras_robust.backend.torch import loops_on_host as loops_on_host
    from keras_robust.backend.torch import normal as normal
    from keras_robust.backend.torch import rows_in_cache as rows_in_cache
    from keras_robust.backend.torch import synchronize as synchronize
    from keras_robust.backend.torch import value_and_grad as value_and_grad
else:
    raise ImportError(
        "keras_robust runs on the Keras backends 'tensorflow', 'jax' and 'torch'. "
        f"Received: KERAS_BACKEND={_NAME!r}. Set the environment variable KERAS_BACKEND to one of the three."
    )
