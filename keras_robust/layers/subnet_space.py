"""Which subnets of a model there are: the choices of paths and channels, and how many of each are kept."""

import dataclasses
import math
from collections.abc import Sequence

import keras
from keras import ops

from keras_robust.checks import Tensor, check_choice
from keras_robust.layers.subnet_gate import SubnetGate, subnet_gates


def kept_count(count: int, rho: float, rounding: str = "up") -> int:
    """Returns how many of `count` paths or channels a subnet keeps.

    Args:
        count: Paths of the block or channels of the layer.
        rho: Share that is kept.
        rounding: `"up"`, max(1, ceil(rho count)), or `"nearest"`, with halves up.

    Returns:
        A number from 1 to `count`.

    Reference:
        Guo et al., 2022, https://arxiv.org/abs/2201.12765 (section 3.1)
    """
    # 1e-9: 0.7 * 10 is a little more than 7 in floating point.
    kept = math.ceil(rho * count - 1e-9) if rounding == "up" else math.floor(rho * count + 0.5 + 1e-9)
    return min(count, max(1, kept))


def keep_highest(scores: Tensor, kept: int) -> Tensor:
    """Returns a mask of exactly `kept` ones, at the highest scores.

    Args:
        scores: Shape `(count,)`.
        kept: How many to keep.

    Returns:
        Float32 mask, shape `(count,)`.
    """
    places = ops.top_k(scores, kept)[1]
    return ops.scatter(places[:, None], ops.ones((kept,), "float32"), scores.shape)


@dataclasses.dataclass(frozen=True)
class Decision:
    """One choice of a subnet: which paths of a block are kept, or which channels of a layer.

    Args:
        block: Name of the residual block.
        count: Number of paths or channels.
        kept: How many of them are kept, fewer than `count`.
        gate: Name of the gate whose channels are chosen; None for a choice of paths.
        path: Path of that gate; None for a choice of paths.
        layer: Convolution that makes the channels; None for a choice of paths.
    """

    block: str
    count: int
    kept: int
    gate: str | None = None
    path: int | None = None
    layer: str | None = None


class SubnetSpace:
    """The subnets of a model that keep about `rho` of the paths of each block and of the channels of each layer.

    A choice is a binary vector for each of `decisions`; `masks` turns choices into the masks of the gates. Where
    everything is kept (0.7 of two paths, rounded up) there is no decision.

    Differs from the paper's code: that one never drops channels but those that enter the second convolution of a
    block, which is `scope="conv2"` here, and it counts ceil(n (rho + 1e-6)).

    Args:
        model: Model with gates.
        rho: Share of paths and channels that is kept, in (0, 1).
        scope: `"block"`: the outputs of every convolution of a block; `"conv2"`: the inputs of the second alone.
        path_rounding: `"up"`, so that 0.7 keeps both of two paths, or `"nearest"`, so that it keeps one.
        blocks: Names of the blocks that may lose something; None for all.

    Raises:
        ValueError: If an argument is out of range, a block unknown, or nothing can be dropped.

    Reference:
        Guo et al., 2022, https://arxiv.org/abs/2201.12765 (section 3.1)
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        rho: float = 0.7,
        scope: str = "block",
        path_rounding: str = "up",
        blocks: Sequence[str] | None = None,
    ):
        if isinstance(rho, bool) or not isinstance(rho, int | float) or not 0 < rho < 1:
            raise ValueError(f"`rho` must be the share that is kept, in (0, 1). Received: rho={rho!r}.")
        check_choice("scope", scope, ("block", "conv2"))
        check_choice("path_rounding", path_rounding, ("up", "nearest"))
        self.model = model
        self.rho = rho
        self.gates = subnet_gates(model)
        by_block: dict[str, list[SubnetGate]] = {}
        for gate in self.gates.values():
            by_block.setdefault(gate.block, []).append(gate)
        self.blocks = tuple(by_block)
        unknown = sorted(set(blocks or ()) - set(by_block))
        if unknown:
            raise ValueError(
                f"`blocks` must name blocks of the model: {', '.join(by_block)}. Received: {unknown[0]!r}."
            )
        decisions = []
        for block, gates in by_block.items():
            if blocks is None or block in blocks:
                decisions += _decisions(block, gates, rho, scope, path_rounding)
        self.decisions = tuple(decision for decision in decisions if decision.kept < decision.count)
        if not self.decisions:
            raise ValueError(f"`rho` must leave something to drop. Received: rho={rho!r}. Take a smaller one.")
        self.size = sum(decision.count for decision in self.decisions)
        """Paths and channels that are chosen from, all decisions together."""

    def masks(self, choices: Sequence[Tensor]) -> dict[str, Tensor]:
        """Turns one choice a decision into the masks of gates.

        Args:
            choices: For each of `decisions`, float32 zeros and ones, shape `(count,)`.

        Returns:
            Masks by the names of gates, each of shape `(channels,)`; gates that keep everything are left out.
        """
        masks: dict[str, Tensor] = {}
        for decision, choice in zip(self.decisions, choices, strict=True):
            if decision.gate is not None:
                masks[decision.gate] = masks.get(decision.gate, 1.0) * choice
                continue
            for name, gate in self.gates.items():
                if gate.block == decision.block and gate.ends_path:
                    masks[name] = masks.get(name, ops.ones((gate.channels,), "float32")) * choice[gate.path_index]
        return masks

    def split(self, scores: Tensor) -> list[Tensor]:
        """Cuts a vector over all decisions into one vector for each.

        Args:
            scores: Shape `(size,)`.

        Returns:
            Vectors of shape `(count,)`.
        """
        parts, start = [], 0
        for decision in self.decisions:
            parts.append(scores[start : start + decision.count])
            start += decision.count
        return parts

    def highest(self, scores: Tensor) -> dict[str, Tensor]:
        """Returns the subnet that keeps the paths and channels of the highest scores.

        Args:
            scores: Shape `(size,)`; independent uniform numbers draw a subnet at random.

        Returns:
            Masks by the names of gates.
        """
        scores = ops.convert_to_tensor(scores, "float32")
        parts = zip(self.split(scores), self.decisions, strict=True)
        return self.masks([keep_highest(part, decision.kept) for part, decision in parts])


def _decisions(block: str, gates: list[SubnetGate], rho: float, scope: str, rounding: str) -> list[Decision]:
    """The choices of one block: its paths, then the channels of the layers of each path."""
    paths = sorted({gate.path_index for gate in gates})
    made = [Decision(block, len(paths), kept_count(len(paths), rho, rounding))]
    for path in paths:
        layers = [gate for gate in gates if gate.path_index == path and gate.layer is not None]
        if scope == "conv2":
            # The outputs of the first convolution are the inputs of the second.
            layers = layers[:1] if path == 0 and len(layers) > 1 else []
        for gate in layers:
            kept = kept_count(gate.channels, rho)
            made.append(Decision(block, gate.channels, kept, gate.name, path, gate.layer))
    return made
