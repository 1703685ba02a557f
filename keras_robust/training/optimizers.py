"""SGD and Adam as PyTorch defines them, which the papers' recipes mean.

Keras's own `weight_decay=` is decoupled: it shrinks the weights directly, with momentum 0.9 ten times more
weakly than PyTorch's, which adds `weight_decay * w` to the gradient before momentum, for every parameter
(BatchNorm and biases included). Keras also keeps the learning rate inside the momentum buffer, which differs
when the rate changes.
"""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_robust")
class SGD(keras.optimizers.Optimizer):
    """Stochastic gradient descent with PyTorch's momentum and coupled weight decay.

    Args:
        learning_rate: Step length, a number or a schedule of the step.
        momentum: Share of the last direction that is kept.
        nesterov: Whether to look one step ahead.
        weight_decay: Coefficient of the L2 term of every parameter that `exclude_from_weight_decay` does not name.
        name: Name of the optimizer.
        **options: Options of every Keras optimizer, such as `clipnorm`.

    Reference:
        torch.optim.SGD, https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.1,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        name: str = "sgd",
        **options: Any,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **options)
        self.momentum = momentum
        self.nesterov = nesterov
        # Not `self.weight_decay`: Keras would then apply its own, decoupled decay as well.
        self.coupled_weight_decay = weight_decay

    def build(self, variables: list) -> None:
        """Makes one direction for each variable."""
        if self.built:
            return
        super().build(variables)
        self.directions = self.add_optimizer_variables(variables, "direction") if self.momentum else []

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Updates one variable."""
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = _with_decay(self, gradient, variable)
        if not self.momentum:
            self.assign_sub(variable, rate * gradient)
            return
        direction = self.directions[self._get_variable_index(variable)]
        updated = self.momentum * direction.value + gradient
        self.assign(direction, updated)
        step = gradient + self.momentum * updated if self.nesterov else updated
        self.assign_sub(variable, rate * step)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        config = super().get_config()
        config.update(momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.coupled_weight_decay)
        return config


@keras.saving.register_keras_serializable(package="keras_robust")
class Adam(keras.optimizers.Optimizer):
    """Adam with PyTorch's coupled weight decay.

    Args:
        learning_rate: Step length, a number or a schedule of the step.
        beta_1: Decay of the average of gradients.
        beta_2: Decay of the average of squared gradients.
        epsilon: Added to the root of the average square, after its bias is removed.
        weight_decay: Coefficient of the L2 term of every parameter that `exclude_from_weight_decay` does not name.
        name: Name of the optimizer.
        **options: Options of every Keras optimizer, such as `clipnorm`.

    Reference:
        torch.optim.Adam, https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam.html
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        name: str = "adam",
        **options: Any,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **options)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.coupled_weight_decay = weight_decay

    def build(self, variables: list) -> None:
        """Makes two averages for each variable."""
        if self.built:
            return
        super().build(variables)
        self.averages = self.add_optimizer_variables(variables, "average")
        self.squares = self.add_optimizer_variables(variables, "square")

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Updates one variable."""
        rate = ops.cast(learning_rate, variable.dtype)
        step = ops.cast(self.iterations + 1, variable.dtype)
        gradient = _with_decay(self, gradient, variable)
        index = self._get_variable_index(variable)
        average = self.beta_1 * self.averages[index].value + (1 - self.beta_1) * gradient
        square = self.beta_2 * self.squares[index].value + (1 - self.beta_2) * ops.square(gradient)
        self.assign(self.averages[index], average)
        self.assign(self.squares[index], square)
        average_unbiased = average / (1 - ops.power(ops.cast(self.beta_1, variable.dtype), step))
        square_unbiased = square / (1 - ops.power(ops.cast(self.beta_2, variable.dtype), step))
        self.assign_sub(variable, rate * average_unbiased / (ops.sqrt(square_unbiased) + self.epsilon))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        config = super().get_config()
        config.update(
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            weight_decay=self.coupled_weight_decay,
        )
        return config


def _with_decay(optimizer, gradient, variable):
    gradient = ops.cast(gradient, variable.dtype)
    if not optimizer._use_weight_decay(variable):
        return gradient
    return gradient + optimizer.coupled_weight_decay * ops.convert_to_tensor(variable)
