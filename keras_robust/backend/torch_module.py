"""Any of our models as a `torch.nn.Module`, for tools that know PyTorch only."""

from typing import Any

import keras

from keras_robust.checks import check_choice
from keras_robust.stateless import stateless_call


def as_torch_module(model: keras.Model, *, frozen: bool = True) -> Any:
    """Wraps a model so that torchattacks, Foolbox, RobustBench and pyautoattack take it.

    The module maps images, shape `(batch, channels, height, width)`, in [0, 1], to logits, shape
    `(batch, classes)`, with gradients to the images. It always runs in inference mode, whatever `train()` says,
    and a random layer draws the same numbers at each call. It shares its weights with the model and changes none
    of its variables.

    Args:
        model: Keras model that maps pixels in [0, 1] to logits; Keras must run on PyTorch.
        frozen: Whether the parameters take no gradient, which is faster. Otherwise they are the model's own.

    Returns:
        A `torch.nn.Module`.

    Raises:
        ValueError: If Keras runs on another backend.
    """
    if keras.backend.backend() != "torch":
        raise ValueError(
            "`as_torch_module` needs Keras to run on PyTorch. "
            f"Received: the Keras backend {keras.backend.backend()!r}. Set the environment variable "
            "KERAS_BACKEND=torch, start Python again and load the model's weights there."
        )
    check_choice("frozen", frozen, (True, False))
    import torch

    class ChannelsLast(torch.autograd.Function):
        """Moves the channels; the gradient comes back contiguous, as attacks that call `view` on it need."""

        @staticmethod
        def forward(context, images):
            return images.permute(0, 2, 3, 1).contiguous()

        @staticmethod
        def backward(context, gradient):
            return gradient.permute(0, 3, 1, 2).contiguous()

    class TorchModule(torch.nn.Module):
        def __init__(self):
            super().__init__()
            values = [variable.value for variable in model.trainable_variables]
            if frozen:  # a new parameter over the same memory: the model's own still takes gradients
                values = [torch.nn.Parameter(value.detach(), requires_grad=False) for value in values]
            self.weights = torch.nn.ParameterList(values)

        def forward(self, images):
            last = keras.config.image_data_format() == "channels_last" and images.ndim == 4
            images = ChannelsLast.apply(images) if last else images
            rest = [variable.value.detach() for variable in model.non_trainable_variables]
            logits, _ = stateless_call(model, list(self.weights), rest, images, training=False)
            return logits.float()

    return TorchModule().eval()
