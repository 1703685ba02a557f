"""Gaussian noise on inputs and activations, off at inference unless switched on."""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust.checks import check_choice

ROLES = ("input", "activation")


@keras.saving.register_keras_serializable(package="keras_robust")
class GaussianNoise(keras.layers.Layer):
    """Adds Gaussian noise in training, and at inference only where `at_inference` is set.

    `sigma` is a Keras variable: assign to it and compiled training steps follow. `at_inference` is a plain
    attribute that a compiled function has fixed; use `noise_at_inference`, which makes the model compile again.

    Args:
        sigma: Standard deviation of the noise, in units of the input (pixels: of [0, 1]).
        role: `"input"` for noise on pixels, `"activation"` for noise inside the network.
        seed: Integer seed of the noise; None draws one.

    Call arguments:
        inputs: Tensor of any shape.
        training: Whether the model trains.

    Returns:
        Tensor of the shape of `inputs`; the noisy pixels are not clipped.

    Raises:
        ValueError: If `sigma` is negative or not finite.

    Reference:
        Bashivan et al., 2022, https://arxiv.org/abs/2210.00062 (section 4.1 and table 2)
    """

    def __init__(self, sigma: float, *, role: str = "activation", seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        number = isinstance(sigma, int | float | np.number) and not isinstance(sigma, bool)
        if not number or not np.isfinite(sigma) or sigma < 0:
            raise ValueError(
                "`sigma` must be a standard deviation of at least 0, in units of the input. "
                f"Received: sigma={sigma!r}."
            )
        check_choice("role", role, ROLES)
        self.role = role
        self.seed = seed
        self.at_inference = False
        self._initial_sigma = float(sigma)
        self.sigma = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(float(sigma)), trainable=False, name="sigma"
        )
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True
        self.built = True

    @property
    def trace_key(self) -> bool:
        """What a compiled function has fixed of this layer."""
        return self.at_inference

    def call(self, inputs, training=False):
        """Adds the noise."""
        if not (training or self.at_inference):
            return inputs
        # TensorFlow's own generator takes seconds a step in what XLA compiles for a CPU.
        noise = backend.normal(ops.shape(inputs), self.seed_generator.next())
        return inputs + ops.cast(self.sigma, inputs.dtype) * ops.cast(noise, inputs.dtype)

    def compute_output_shape(self, input_shape):
        """Returns the input's shape."""
        return input_shape

    def get_config(self):
        """Returns the constructor's arguments; a sigma assigned later is saved with the weights."""
        return {**super().get_config(), "sigma": self._initial_sigma, "role": self.role, "seed": self.seed}


@contextlib.contextmanager
def noise_at_inference(model: keras.Model, *, inputs: bool, activations: bool) -> Iterator[keras.Model]:
    """Switches the noise of a model's `GaussianNoise` layers at inference, by their role, for a `with` block.

    Args:
        model: Keras model with `GaussianNoise` layers.
        inputs: Whether the layers of role `"input"` add noise.
        activations: Whether the layers of role `"activation"` add noise.

    Yields:
        The model.

    Raises:
        ValueError: If noise is asked for and the model has no layer of that role.
    """
    wanted = {"input": inputs, "activation": activations}
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, GaussianNoise)]
    for role, on in wanted.items():
        if on and not any(layer.role == role for layer in layers):
            raise ValueError(
                f"Noise at inference was asked for, role '{role}'. Received: model '{model.name}' without a "
                f"GaussianNoise layer of that role. Build it with sigma > 0 or with_noise_layers=True."
            )
    before = [layer.at_inference for layer in layers]
    try:
        _switch(model, layers, [wanted[layer.role] for layer in layers])
        yield model
    finally:
        _switch(model, layers, before)


def _switch(model: keras.Model, layers: list[GaussianNoise], flags: list[bool]) -> None:
    for layer, flag in zip(layers, flags, strict=True):
        layer.at_inference = flag
    # Keras keeps its compiled functions, which have the old flags fixed.
    model.predict_function = None
    model.test_function = None
