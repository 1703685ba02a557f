"""Wide residual networks."""

import keras

from keras_robust.checks import check_positive_integer
from keras_robust.models.preact_resnet import preact_network
from keras_robust.models.registry import register_model


@register_model("wide_resnet")
def wide_resnet(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    depth: int = 28,
    width: int = 10,
    pooling: str | None = None,
    pool_size: int = 3,
    dropout: float = 0.0,
    sigma: float = 0.0,
    with_noise_layers: bool = False,
    activation: str = "relu",
    seed: int | None = None,
) -> keras.Model:
    """Builds WRN-depth-width: three stages of pre-activation blocks, 16, 32 and 64 channels times the width.

    Differs from the paper: weights start uniform in +-1/sqrt(fan in), as everywhere in this package, and dropout
    is at the end of the residual.

    Args:
        num_classes: Number of logits.
        input_shape: Shape of one image, `(height, width, channels)`.
        depth: Number of layers, 6 n + 4 for n blocks a stage.
        width: Factor on the channels.
        pooling: None, `"kap"` or `"kmp"`, after every convolution.
        pool_size: Side of the pooling window on the channel grid.
        dropout: Share of activations dropped at the end of each residual, in training.
        sigma: Noise on pixels and after each convolution, in training, in pixel units.
        with_noise_layers: Whether noise layers are there also for `sigma=0`, to be set later.
        activation: `"relu"` or `"softplus"`.
        seed: Seed of the initial weights, the dropout and the noise.

    Returns:
        Keras model from pixels in [0, 1] to logits.

    Raises:
        ValueError: If an option is out of range.

    Reference:
        Zagoruyko and Komodakis, 2016, https://arxiv.org/abs/1605.07146
    """
    check_positive_integer("depth", depth)
    check_positive_integer("width", width)
    if depth % 6 != 4 or depth < 10:
        raise ValueError(
            f"`depth` must be 6 n + 4 for n blocks a stage: 10, 16, 22, 28, 34. Received: depth={depth}."
        )
    blocks = (depth - 4) // 6
    return preact_network(
        "wide_resnet",
        num_classes,
        input_shape,
        16,
        [(blocks, 16 * width), (blocks, 32 * width), (blocks, 64 * width)],
        pooling=pooling,
        pool_size=pool_size,
        dropout=dropout,
        sigma=sigma,
        with_noise_layers=with_noise_layers,
        activation=activation,
        seed=seed,
    )
