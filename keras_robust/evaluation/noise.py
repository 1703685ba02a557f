"""Random noise on test images, drawn with NumPy for each image, so that every backend sees the same."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_robust.attacks.base import image_rng
from keras_robust.checks import check_choice, check_indices

_STREAM = 1_000_003  # keeps the draws of noise apart from those of attacks with the same seed


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Adds N(0, sigma^2) to the pixels.

    Args:
        sigma: Standard deviation in pixel units, as a fraction of the range [0, 1].
        clip: Whether the sum is clipped to [0, 1]. The papers that train with noise do not clip.

    Reference:
        Cohen et al., 2019, https://arxiv.org/abs/1902.02918
    """

    sigma: float
    clip: bool = False

    def __post_init__(self):
        _check_size("sigma", self.sigma)

    def __call__(self, x: np.ndarray, *, seed: int = 0, indices: Sequence[int] | None = None) -> np.ndarray:
        """Returns noisy images, shape of `x`; the noise of an image depends on `seed` and its index alone."""
        unit = _draw(x, seed, indices, lambda rng, shape: rng.standard_normal(shape, dtype="float32"))
        noisy = x + np.float32(self.sigma) * unit
        return np.clip(noisy, 0.0, 1.0) if self.clip else noisy


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Adds U(0, width) to the pixels and brings the sum back into [0, 1].

    The paper says "renormalized to be within [0,1]" and no more; the three readings are options.

    Args:
        width: Upper bound of the noise in pixel units; the lower bound is 0.
        rescale: 'divide' divides by 1 + width, 'min_max' stretches each image to [0, 1], 'clip' cuts.

    Reference:
        Amer and Maul, 2019, https://arxiv.org/abs/1905.00568 (section 4)
    """

    width: float
    rescale: str = "divide"

    def __post_init__(self):
        _check_size("width", self.width)
        check_choice("rescale", self.rescale, ("divide", "min_max", "clip"))

    @property
    def sigma(self) -> float:
        """The width, under the name by which results are sorted."""
        return self.width

    def __call__(self, x: np.ndarray, *, seed: int = 0, indices: Sequence[int] | None = None) -> np.ndarray:
        """Returns noisy images, shape of `x`; the noise of an image depends on `seed` and its index alone."""
        unit = _draw(x, seed, indices, lambda rng, shape: rng.random(shape, dtype="float32"))
        noisy = x + np.float32(self.width) * unit
        if self.rescale == "divide":
            return noisy / np.float32(1 + self.width)
        if self.rescale == "clip":
            return np.clip(noisy, 0.0, 1.0)
        axes = tuple(range(1, x.ndim))
        low, high = noisy.min(axes, keepdims=True), noisy.max(axes, keepdims=True)
        return (noisy - low) / np.maximum(high - low, np.float32(1e-12))


def _draw(x, seed, indices, draw) -> np.ndarray:
    # The stream does not depend on sigma: a sweep scales one draw, which takes its noise out of the comparison.
    images = check_indices(indices, len(x))
    return np.stack([draw(image_rng(seed, int(image), _STREAM), x.shape[1:]) for image in images])


def _check_size(name: str, value: float) -> None:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 0 <= value <= 10:
        hint = f" Did you mean {value:g} / 255?" if number and value > 10 else ""
        raise ValueError(f"`{name}` must lie in [0, 10], in pixel units. Received: {name}={value!r}.{hint}")
