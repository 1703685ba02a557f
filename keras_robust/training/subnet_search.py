"""Where the subnets of a training come from: one interface, and the two searches that learn nothing."""

import abc
from collections.abc import Callable

import keras
from keras import ops

from keras_robust.checks import Tensor
from keras_robust.layers import SubnetSpace
from keras_robust.layers.averaging import average

Masks = dict[str, Tensor]
Accuracy = Callable[[Masks], Tensor]
"""Accuracy of the subnet of these masks on the batch of the step, a scalar fraction."""


class SubnetSearch(abc.ABC):
    """Chooses the subnet of each training step; it runs inside the compiled step.

    What it learns is kept in Keras variables listed in `variables`, so that it is saved with the training.

    Args:
        space: Subnets to choose from.
    """

    variables: tuple[keras.Variable, ...] = ()

    def __init__(self, space: SubnetSpace):
        self.space = space

    @abc.abstractmethod
    def learn(self, accuracy: Accuracy, seed: keras.random.SeedGenerator) -> None:
        """Improves the search on the batch of the step.

        Args:
            accuracy: Gives the accuracy of a subnet on that batch.
            seed: Generator to draw random numbers from.
        """

    @abc.abstractmethod
    def propose(self, seed: keras.random.SeedGenerator) -> Masks:
        """Returns the masks of the subnet to train.

        Args:
            seed: Generator to draw random numbers from.
        """


class RandomSearch(SubnetSearch):
    """Draws subnets uniformly.

    Args:
        space: Subnets to choose from.

    Reference:
        Guo et al., 2022, https://arxiv.org/abs/2201.12765 (table 5, random search)
    """

    def learn(self, accuracy, seed):
        """Learns nothing."""

    def propose(self, seed):
        """Returns the masks of a new random subnet."""
        return self.space.highest(keras.random.uniform((self.space.size,), seed=seed))


class L1Search(SubnetSearch):
    """Takes the channels and paths whose weights have the lowest L1 norm at the time.

    The norm of a channel is that of the kernel that computes it, the average where kernels are averaged; the norm
    of a path is that of all its kernels, 0 for an identity skip. Channels are compared inside their layer, paths
    inside their block.

    Args:
        space: Subnets to choose from.

    Reference:
        Guo et al., 2022, https://arxiv.org/abs/2201.12765 (table 5, L1 norm)
    """

    def __init__(self, space: SubnetSpace):
        super().__init__(space)
        names = {gate.layer for gate in space.gates.values() if gate.layer is not None}
        self._layers = {layer.name: layer for layer in space.model._flatten_layers() if layer.name in names}
        missing = sorted(names - set(self._layers))
        if missing:
            raise ValueError(
                "The gates of the model must name its convolutions. "
                f"Received: a gate of '{missing[0]}', which '{space.model.name}' does not hold."
            )

    def learn(self, accuracy, seed):
        """Learns nothing."""

    def propose(self, seed):
        """Returns the masks of the subnet of the lowest norms."""
        norms = {name: _channel_norms(layer) for name, layer in self._layers.items()}
        scores = []
        for decision in self.space.decisions:
            if decision.layer is not None:
                scores.append(-norms[decision.layer])
                continue
            for path in range(decision.count):
                inside = [
                    ops.sum(norms[gate.layer])
                    for gate in self.space.gates.values()
                    if gate.block == decision.block and gate.path_index == path and gate.layer is not None
                ]
                scores.append(-ops.reshape(sum(inside, start=ops.zeros(())), (1,)))
        return self.space.highest(ops.concatenate(scores))


def _channel_norms(layer: keras.layers.Layer) -> Tensor:
    """L1 norm of the kernel of each output channel of a dense layer or a convolution, shape `(channels,)`."""
    sizes = ops.abs(average(getattr(layer, "averaging", None), ops.stop_gradient(layer.kernel.value)))
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        # Kernel (height, width, channels, multiplier): the outputs of one input channel lie side by side.
        return ops.reshape(ops.sum(sizes, axis=(0, 1)), (-1,))
    return ops.sum(sizes, axis=tuple(range(len(sizes.shape) - 1)))
