"""Perturbations of a training batch; `RobustTrainer` applies its list in order before each step."""

import abc

import keras
from keras import ops

from keras_robust import backend
from keras_robust.checks import Tensor


class Perturbation(abc.ABC):
    """What happens to the images of a batch before the training step.

    State that changes between steps (an epsilon, a sigma on a schedule) is a Keras variable listed in
    `variables`, so that compiled steps see its changes; a callback sets it.
    """

    variables: tuple[keras.Variable, ...] = ()
    adversarial = False
    """Whether it searches for adversarial examples; a trainer takes one such perturbation."""

    @abc.abstractmethod
    def __call__(self, model: keras.Model, x: Tensor, y: Tensor, seed: keras.random.SeedGenerator) -> Tensor:
        """Returns the images to train on, of the shape of `x`; it runs inside the compiled step.

        Args:
            model: The model in training.
            x: Images as the perturbations before this one left them.
            y: Labels as `fit` got them.
            seed: Generator to draw random numbers from.
        """


class GaussianNoiseInput(Perturbation):
    """Adds Gaussian noise to the input, unclipped, in training only.

    For models that hold no noise layer of their own. The KAP paper's builders put input and activation noise
    inside the model (their `sigma`); with those, leave this out, or the input is distorted twice.

    Args:
        sigma: Standard deviation in pixel units; kept as a Keras variable, `sigma`.

    Raises:
        ValueError: If `sigma` is negative.

    Reference:
        Bashivan et al., 2022, https://arxiv.org/abs/2210.00062 (section 4.1)
    """

    def __init__(self, sigma: float):
        if not sigma >= 0:
            raise ValueError(f"`sigma` must be a number of at least 0, in pixel units. Received: sigma={sigma!r}.")
        self.sigma = keras.Variable(float(sigma), trainable=False, dtype="float32", name="sigma")
        self.variables = (self.sigma,)

    def __call__(self, model, x, y, seed):
        """Returns `x` plus noise."""
        noise = backend.normal(ops.shape(x), seed.next())
        return x + ops.cast(self.sigma, x.dtype) * ops.cast(noise, x.dtype)
