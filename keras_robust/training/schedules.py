"""Learning rates as functions of the step: what a checkpoint needs is the optimizer's own step counter."""

from typing import Any

import keras
from keras import ops

from keras_robust.checks import Tensor


@keras.saving.register_keras_serializable(package="keras_robust")
class PiecewiseConstant(keras.optimizers.schedules.LearningRateSchedule):
    """Multiplies the learning rate by `factor` at each milestone.

    Args:
        learning_rate: Rate before the first milestone.
        milestones: Steps (counted from 0) at which a lower rate begins.
        factor: What the rate is multiplied by.
    """

    def __init__(self, learning_rate: float, milestones: list[int], factor: float = 0.1):
        self.learning_rate = learning_rate
        self.milestones = milestones
        self.factor = factor

    def __call__(self, step: Tensor) -> Tensor:
        """Returns the rate of that step."""
        milestones = ops.convert_to_tensor(self.milestones, "float32")
        passed = ops.sum(ops.cast(ops.cast(step, "float32") >= milestones, "float32"))
        return self.learning_rate * ops.power(ops.convert_to_tensor(self.factor, "float32"), passed)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {
            "learning_rate": self.learning_rate,
            "milestones": self.milestones,
            "factor": self.factor,
        }


@keras.saving.register_keras_serializable(package="keras_robust")
class Triangle(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly from 0 to the learning rate at step `peak`, and falls linearly to 0 at step `steps`.

    Args:
        learning_rate: Highest rate.
        peak: Step of the highest rate.
        steps: Step at which the rate is 0 again.

    Reference:
        Wong et al., 2020, https://arxiv.org/abs/2001.03994 (cyclic schedule)
    """

    def __init__(self, learning_rate: float, peak: int, steps: int):
        self.learning_rate = learning_rate
        self.peak = peak
        self.steps = steps

    def __call__(self, step: Tensor) -> Tensor:
        """Returns the rate of that step."""
        step = ops.cast(step, "float32")
        rising = step / self.peak
        falling = (self.steps - step) / (self.steps - self.peak)
        return self.learning_rate * ops.maximum(ops.minimum(rising, falling), 0.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {"learning_rate": self.learning_rate, "peak": self.peak, "steps": self.steps}


@keras.saving.register_keras_serializable(package="keras_robust")
class Interpolated(keras.optimizers.schedules.LearningRateSchedule):
    """Goes in straight lines from one learning rate to the next.

    Args:
        steps: Steps at which the rates hold, in order; at one that is given twice, the rate jumps to the second.
        learning_rates: Rate at each of them; the first holds before, the last ever after.
    """

    def __init__(self, steps: list[float], learning_rates: list[float]):
        self.steps = steps
        self.learning_rates = learning_rates

    def __call__(self, step: Tensor) -> Tensor:
        """Returns the rate of that step."""
        step = ops.cast(step, "float32")
        rate = ops.full_like(step, self.learning_rates[0])
        for number in range(1, len(self.steps)):
            first, last = self.steps[number - 1 : number + 1]
            share = ops.cast(step >= last, "float32")
            if last > first:
                share = ops.clip((step - first) / (last - first), 0.0, 1.0)
            rate = rate + share * (self.learning_rates[number] - self.learning_rates[number - 1])
        return rate

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {"steps": self.steps, "learning_rates": self.learning_rates}
