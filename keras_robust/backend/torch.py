"""PyTorch side of the seam; the contract is stated in `keras_robust.backend`."""

import contextlib

import keras
import torch
from keras import tree

from keras_robust.backend.torch_graph import record

VERSION = torch.__version__
COMPILES = False
REFUSES_GLOBAL_SEEDS = False
_CACHE = 2**24  # bytes of the largest activation: ResNet-18 on 32 x 32 pixels is fastest at some 50 images


def _detach(nest):
    return tree.map_structure(lambda t: t.detach() if isinstance(t, torch.Tensor) else t, nest)


def value_and_grad(fn, inputs, has_aux=False):
    """Differentiates a scalar function of a nest of tensors."""
    inputs = tree.map_structure(lambda tensor: tensor.detach().requires_grad_(True), inputs)
    with torch.enable_grad():
        value = fn(inputs)
        scalar = value[0] if has_aux else value
        leaves = tree.flatten(inputs)
        grads = torch.autograd.grad(scalar, leaves, allow_unused=True, materialize_grads=True)
    return _detach(value), tree.pack_sequence_as(inputs, _detach(list(grads)))


def jit(fn):
    """Records the function as a graph of tensor operations where it can be, else runs it eagerly."""
    return record(fn)


class _WithGradient(torch.autograd.Function):
    """A scalar whose gradient is there already."""

    @staticmethod
    def forward(ctx, value, gradients, *inputs):
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx, upstream):
        return None, None, *(upstream * gradient for gradient in ctx.gradients)


def compiled_loss(fn):
    """Records the loss and its gradient together: the step around them runs eagerly."""

    def with_gradients(inputs, *tensors):
        return value_and_grad(lambda each: fn(each, *tensors), inputs, has_aux=True)

    recorded = record(with_gradients)

    def run(inputs, *tensors):
        (value, aux), gradients = recorded(inputs, *tensors)
        return _WithGradient.apply(value, gradients, *inputs), aux

    return run


def batch_norm(x, gamma, beta, epsilon):
    """Normalizes over all axes but the last, in PyTorch's own operation."""
    mean, variance = (torch.zeros_like(gamma) for _ in range(2))
    # With momentum 1 the averages that it follows are those of this batch; their variance is the unbiased one.
    normalized = torch.batch_norm(
        torch.movedim(x, -1, 1), gamma, beta, mean, variance, True, 1.0, epsilon, torch.backends.cudnn.enabled
    )
    count = x.numel() // x.shape[-1]
    variance = variance * ((count - 1) / count) if count > 1 else torch.zeros_like(variance)
    return torch.movedim(normalized, 1, -1), mean, variance


def normal(shape, key):
    """Draws standard normal numbers from two words of a key, with PyTorch's own generator."""
    if key.device.type == "meta":  # Keras asks for the shape alone; there is no key to read.
        return torch.empty(shape, device="meta")
    high, low = (int(word) & 0xFFFFFFFF for word in key)
    # On a CPU the generator takes the lower 32 bits of its seed and ignores the rest: both words go into them.
    seed = (high & 0x7FFFFFFF) << 32 | (high * 0x9E3779B1 + low) & 0xFFFFFFFF
    generator = torch.Generator(device=key.device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=key.device)


def rows_in_cache(x, bytes_a_row):
    """As many as fill `_CACHE`, on a processor and without gradient."""
    if not bytes_a_row or not isinstance(x, torch.Tensor) or x.requires_grad or x.device.type != "cpu":
        return None
    return max(1, _CACHE // bytes_a_row)


def loops_on_host():
    """Yes: a step is recorded as a graph, a loop is not."""
    return True


@contextlib.contextmanager
def full_precision():
    """Multiplies in float32 where an accelerator would round to TensorFloat-32."""
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = False
        yield
    finally:
        for place, allowed in zip(places, before, strict=True):
            place.allow_tf32 = allowed


def custom_gradient(fn):
    """Gives a function the gradient that it returns beside its value, where PyTorch can record that."""
    outside_graphs = keras.ops.custom_gradient(fn)

    def run(*tensors):
        # A function of its own for the gradient cannot be recorded (NYI in `functionalize`), nor exported.
        if torch._C._are_functorch_transforms_active() or torch.jit.is_tracing():
            return fn(*tensors)[0]
        return outside_graphs(*tensors)

    return run


def compiled_memory(fn, *tensors):
    """None: nothing is compiled."""


def compiled_program(fn, *tensors):
    """None: nothing is compiled."""


def synchronize(nest):
    """Waits until every tensor of the nest is computed."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return nest


def device_name():
    """The device that tensors live on, such as 'cpu' or 'NVIDIA H200'."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


class TrainStep:
    """Prepares the batch and perturbs the weights around Keras's own `train_step`."""

    def train_step(self, data):
        """Runs one step on the prepared batch; see `keras_robust.backend`."""
        with torch.no_grad():
            data = self.prepare_batch(*keras.utils.unpack_x_y_sample_weight(data))
            offsets = self.weight_offsets(data[0], data[1])
        if offsets is None:
            return super().train_step(data)
        # The step is added to the weights as they were: taking the offset off again would round twice.
        weights = [variable.value for variable in self.trainable_variables]
        with torch.no_grad():
            originals = [value.detach().clone() for value in weights]
            for value, offset in zip(weights, offsets, strict=True):
                value.add_(offset)
            shifted = [value.detach().clone() for value in weights]
        try:
            return super().train_step(data)
        finally:  # also where the step fails
            with torch.no_grad():
                for value, original, old in zip(weights, originals, shifted, strict=True):
                    value.sub_(old).add_(original)
