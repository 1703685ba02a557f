"""One gradient step."""

import dataclasses

import numpy as np

from keras_robust import norms
from keras_robust.attacks.base import Attack, Predictor
from keras_robust.attacks.pgd import PGD
from keras_robust.checks import Tensor, check_epsilon, check_positive_integer


@dataclasses.dataclass(frozen=True)
class FGSM(Attack):
    """Takes one step of the cross-entropy's gradient to the edge of an Lp ball.

    The fast gradient sign method for Linf, the gradient scaled to length `epsilon` for L2, and a sparse sign step
    for L1 (see `Norm.step`). For evaluation prefer `AutoAttack`; one step overstates robustness.

    Args:
        norm: Shape of the ball, 'Linf', 'L2' or 'L1'.
        epsilon: Radius in pixel units; `8 / 255`, not 8.
        eot: Passes over which the gradient is averaged; more than 1 for randomised models only.

    Call arguments:
        See `Attack`.

    Returns:
        Images of the shape of `x`, within `epsilon` of it, whether they are misclassified or not.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Goodfellow et al., 2015, https://arxiv.org/abs/1412.6572 (section 4)
    """

    norm: str = "Linf"
    epsilon: float = 8 / 255
    eot: int = 1

    def __post_init__(self):
        norms.get(self.norm)
        check_epsilon(self.epsilon, self.norm)
        check_positive_integer("eot", self.eot)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Returns nothing: the step starts at the clean image."""
        return {}

    def search(
        self, predictor: Predictor, x: Tensor, y: Tensor, noise: dict[str, Tensor], stage: int
    ) -> tuple[Tensor, Tensor]:
        """Takes the step; the score is the cross-entropy."""
        step = PGD(self.norm, self.epsilon, step_size=self.epsilon, steps=1, random_start=False, eot=self.eot)
        return step.search(predictor, x, y, noise, stage)
