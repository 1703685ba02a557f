"""Corrupts images as the benchmarks CIFAR-10-C, CIFAR-100-C and ImageNet-C do."""

from collections.abc import Callable, Sequence

import numpy as np

from keras_robust.checks import Tensor, check_choice, check_images, check_indices, check_positive_integer
from keras_robust.corruptions import blur, digital, noise, weather
from keras_robust.corruptions.constants import CIFAR, CORRUPTIONS, IMAGENET, SEVERITIES
from keras_robust.prediction import image_rng

_TABLES = {"cifar": CIFAR, "imagenet": IMAGENET}
_FUNCTIONS: dict[str, Callable] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
_STREAM = 2_000_003  # keeps these draws apart from those of attacks and noise with the same seed
_VALUES_A_CHUNK = 3_200_000  # bounds memory: 1,000 images of 32 x 32 x 3, or 21 of 224 x 224 x 3
_ROUNDING = 1e-3  # of a level: float32 may leave an exact level just below itself


def corrupt(
    x: Tensor,
    name: str,
    severity: int,
    *,
    seed: int = 0,
    constants: str = "cifar",
    indices: Sequence[int] | None = None,
) -> np.ndarray:
    """Corrupts images with one of the 15 corruptions.

    An image's corruption depends on the seed, the corruption, the severity and the image's index alone: the
    same bytes each time, whatever the other images or the backend.

    Differs from the paper: frost is computed, not photographed (see `weather.frost`), and the random numbers are
    not those of the official files.

    Args:
        x: Images, shape `(images, height, width, channels)`, in [0, 1], with 1 or 3 channels, of any size.
        name: One of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: Seed of everything random.
        constants: 'cifar' for the severities of CIFAR-10-C, meant for 32 x 32 pixels; 'imagenet' for those of
            ImageNet-C, meant for 224 x 224. Lengths are in pixels and do not follow the size of the image.
        indices: Index of each image in the evaluated set, shape `(images,)`; `range(images)` by default.

    Returns:
        Images of the shape of `x`, float32, in 256 levels of [0, 1]; as in the official files, values between
        two levels go to the lower one.

    Raises:
        ValueError: If an argument is out of range, or an image is too small or has another number of channels.

    Reference:
        Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261
    """
    x = check_images(x)
    check_choice("name", name, CORRUPTIONS)
    check_choice("severity", severity, SEVERITIES)
    check_choice("constants", constants, tuple(_TABLES))
    check_positive_integer("seed", seed, minimum=0)
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or min(x.shape[1:3]) < 8:
        raise ValueError(
            "`x` must be a batch of images of at least 8 x 8 pixels with 1 or 3 channels, shape "
            f"(images, height, width, channels). Received: shape={x.shape}."
        )
    images = check_indices(indices, len(x))
    c = _TABLES[constants][name][severity - 1]
    stream = _STREAM + len(SEVERITIES) * CORRUPTIONS.index(name) + severity
    chunk = max(1, _VALUES_A_CHUNK // x[0].size)
    result = np.empty_like(x)
    for start in range(0, len(x), chunk):
        part = slice(start, start + chunk)
        rngs = [image_rng(seed, int(image), stream) for image in images[part]]
        corrupted = _FUNCTIONS[name](x[part], c, rngs)
        levels = np.floor(255 * np.clip(corrupted, 0, 1) + _ROUNDING)
        result[part] = (levels / 255).astype("float32")
    return result
