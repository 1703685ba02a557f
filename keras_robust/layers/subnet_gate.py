"""Gates through which a residual network is cut down to a subnet, and the context that closes them."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping

import keras
import numpy as np
from keras import ops

from keras_robust.checks import Tensor

_TOKENS = itertools.count(1)


class _Slot:
    """Holds the mask of the active subnet, out of Keras's sight: it may be a tensor of a compiled step."""

    mask: Tensor | None = None
    token = 0


@keras.saving.register_keras_serializable(package="keras_robust")
class SubnetGate(keras.layers.Layer):
    """Multiplies channels by the mask of the active subnet; returns its input as it is where none is active.

    It holds no weights: a model with gates has the parameters and the weight files of one without. `subnet`
    activates masks. Channels that are kept are not rescaled.

    Args:
        block: Name of the residual block.
        path_index: Number of the path inside the block: 0 for the residual, 1 for the skip.
        layer: Name of the convolution whose output channels pass; None where no weights precede the gate.
        ends_path: Whether the path ends here: such a gate drops the whole path by a mask of zeros.

    Call arguments:
        inputs: Activations, shape `(batch, height, width, channels)`.

    Returns:
        Activations of the shape of `inputs`.

    Reference:
        Guo et al., 2022, https://arxiv.org/abs/2201.12765 (section 3.1)
    """

    def __init__(
        self, block: str, path_index: int, *, layer: str | None = None, ends_path: bool = False, **kwargs
    ):
        super().__init__(**kwargs)
        self.block = block
        self.path_index = path_index
        self.layer = layer
        self.ends_path = ends_path
        self.channels = 0
        self.slot = _Slot()
        self.supports_masking = True

    @property
    def trace_key(self) -> int:
        """What a compiled function has fixed of this layer."""
        return self.slot.token

    @property
    def state_key(self) -> np.ndarray | None:
        """What of this layer a file of results depends on: its mask, in any process."""
        return None if self.slot.mask is None else ops.convert_to_numpy(self.slot.mask)

    def build(self, input_shape):
        """Keeps the number of channels."""
        self.channels = input_shape[-1]

    def call(self, inputs):
        """Multiplies by the mask."""
        mask = self.slot.mask
        return inputs if mask is None else inputs * ops.cast(mask, inputs.dtype)

    def compute_output_shape(self, input_shape):
        """Returns the input's shape."""
        return input_shape

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "block": self.block,
            "path_index": self.path_index,
            "layer": self.layer,
            "ends_path": self.ends_path,
        }


def subnet_gates(model: keras.Model) -> dict[str, SubnetGate]:
    """Returns the gates of a model by their names, in the order of the layers.

    Args:
        model: Keras model of a builder with residual blocks.

    Returns:
        Gates, at least one.

    Raises:
        ValueError: If the model has no gate, or two of one name.
    """
    gates = [layer for layer in model._flatten_layers() if isinstance(layer, SubnetGate)]
    names = {gate.name: gate for gate in gates}
    if not gates or len(names) != len(gates):
        raise ValueError(
            "`model` must hold SubnetGate layers, each with a name of its own. "
            f"Received: model '{model.name}' with {len(gates)} gates of {len(names)} names. "
            "Build a residual network of keras_robust.models."
        )
    return names


@contextlib.contextmanager
def subnet(model: keras.Model, masks: Mapping[str, Tensor]) -> Iterator[keras.Model]:
    """Cuts a model down to a subnet for a `with` block.

    Masks are tensors and may be traced: inside a compiled step a new subnet needs no new compilation. Outside of
    one, `predict`, `evaluate` and attacks compile again in each such block; for many subnets use `SubnetModel`.
    A plain Keras model goes on with the training step it has: `compile` it in the block before `fit`, and after
    it, or train with `RobustTrainer`, which needs neither.

    Args:
        model: Model with gates.
        masks: For names of gates, factors of the channels, shape `(channels,)`: 1 keeps, 0 drops. Gates that are
            not named keep everything.

    Yields:
        The model.

    Raises:
        ValueError: If a name is no gate of the model, or a mask has another shape.
    """
    gates = subnet_gates(model)
    _check_masks(model, gates, masks)
    before = {name: (gates[name].slot.mask, gates[name].slot.token) for name in masks}
    token = next(_TOKENS)
    try:
        for name, mask in masks.items():
            gates[name].slot.mask, gates[name].slot.token = mask, token
        _forget_compiled(model)
        yield model
    finally:
        for name, (mask, old) in before.items():
            gates[name].slot.mask, gates[name].slot.token = mask, old
        _forget_compiled(model)


def _check_masks(model: keras.Model, gates: Mapping[str, SubnetGate], masks: Mapping[str, Tensor]) -> None:
    """Raises `ValueError` unless each mask has a gate and a factor for each of its channels."""
    for name, mask in masks.items():
        if name not in gates:
            raise ValueError(
                f"`masks` must name gates of the model '{model.name}', such as {next(iter(gates))!r}. "
                f"Received: {name!r}."
            )
        shape, channels = tuple(np.shape(mask)), gates[name].channels
        if gates[name].built and shape != (channels,):
            raise ValueError(
                f"The mask of {name!r} must have shape ({channels},), a factor a channel. "
                f"Received: shape={shape}. To drop all channels give np.zeros({channels})."
            )


def _forget_compiled(model: keras.Model) -> None:
    # Keras keeps its compiled functions, which have the masks fixed.
    model.predict_function = None
    model.test_function = None


class SubnetModel(keras.Model):
    """Wraps a model as one of its subnets; its masks are variables.

    Predictions and attacks compile once, whatever subnet is assigned. It shares the weights of the model.

    Args:
        model: Model with gates.

    Raises:
        ValueError: If the model has no gates.
    """

    def __init__(self, model: keras.Model):
        # The model's own policy: the global one might round its inputs.
        super().__init__(name=f"subnet_of_{model.name}", dtype=model.dtype_policy, autocast=False)
        self.model = model
        self.masks = {
            name: self.add_weight(shape=(gate.channels,), initializer="ones", trainable=False, name=f"{name}_mask")
            for name, gate in subnet_gates(model).items()
        }
        self.built = True

    def choose(self, masks: Mapping[str, Tensor]) -> None:
        """Makes this model the subnet of these masks.

        Args:
            masks: As for `subnet`; gates that are not named keep everything.

        Raises:
            ValueError: If a name is no gate of the model, or a mask has another shape.
        """
        _check_masks(self.model, subnet_gates(self.model), masks)
        for name, variable in self.masks.items():
            variable.assign(masks.get(name, ops.ones(variable.shape)))

    def call(self, inputs, training=None):
        """Returns the subnet's logits."""
        with subnet(self.model, {name: variable.value for name, variable in self.masks.items()}):
            return self.model(inputs, training=training)
