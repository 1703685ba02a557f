"""How well the subnets of a model do, and which of its blocks are vulnerable."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_robust.checks import check_images, check_labels, check_positive_integer
from keras_robust.layers import SubnetModel, SubnetSpace, subnet_gates
from keras_robust.prediction import Predictor


def subnet_accuracies(
    model: keras.Model,
    images: Mapping[str, np.ndarray],
    y: np.ndarray,
    *,
    rho: float = 0.7,
    subnets: int = 1000,
    attack: Any = None,
    seed: int = 0,
    space: SubnetSpace | None = None,
) -> dict[str, np.ndarray]:
    """Measures random subnets of a model, in inference mode, with the moving averages of the whole network.

    Give clean, noisy and attacked versions of the same images; all of them are measured on the same subnets.

    Args:
        model: Model with subnet gates that returns logits.
        images: Names and sets of images, each of shape `(images, height, width, channels)`, in [0, 1]; noise that
            is not clipped may leave it, in a set that is not named `"clean"`.
        y: Integer labels, shape `(images,)`.
        rho: Share of the paths and channels that a subnet keeps.
        subnets: Number of subnets.
        attack: Attack on each subnet itself, starting from the set named `"clean"`; None for none.
        seed: Seed of the subnets and of the attack.
        space: Subnets to draw from, instead of those of `rho`.

    Returns:
        Accuracies of the subnets on each set, shape `(subnets,)`; those under `attack` are named `"attacked"`.

    Raises:
        ValueError: If the model has no gates, a number is out of range, images or labels are of the wrong shape,
            type or range, or `attack` has no clean images.

    Reference:
        Guo et al., 2022, https://arxiv.org/abs/2201.12765 (figure 1)
    """
    check_positive_integer("subnets", subnets)
    if attack is not None and ("clean" not in images or "attacked" in images):
        raise ValueError(
            "`attack` starts from the images named 'clean' and makes those named 'attacked'. "
            f"Received: images named {', '.join(images)}."
        )
    images = {name: _checked(name, x) for name, x in images.items()}
    for x in images.values():
        y = check_labels(y, len(x))
    space = space or SubnetSpace(model, rho=rho)
    cut = SubnetModel(model)
    rng = np.random.default_rng(seed)
    names = [*images, *(["attacked"] if attack is not None else [])]
    accuracies = {name: np.zeros(subnets) for name in names}
    for index in range(subnets):
        cut.choose(space.highest(rng.random(space.size)))
        for name in names:
            x = images[name] if name != "attacked" else attack(cut, images["clean"], y, seed=seed)
            accuracies[name][index] = accuracy(cut, x, y)
    return accuracies


def _checked(name: str, x: Any) -> np.ndarray:
    """Images of one set: of pixels in [0, 1], or near it in a set that holds noise."""
    x = np.asarray(keras.ops.convert_to_numpy(x))
    if name == "clean" or not np.issubdtype(x.dtype, np.floating):
        return check_images(x, f"images[{name!r}]")
    check_images(np.clip(x, 0.0, 1.0), f"images[{name!r}]")
    return x.astype("float32", copy=False)


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """Returns the share of images whose largest logit is that of the label.

    Args:
        model: Model that returns logits.
        x: Images, shape `(images, height, width, channels)`, in [0, 1].
        y: Integer labels, shape `(images,)`.

    Returns:
        A fraction.
    """
    return float(np.mean(Predictor.of(model).predict(x).argmax(-1) == y))


@dataclasses.dataclass(frozen=True)
class BlockVulnerability:
    """What the model loses when a part of one block is missing.

    Args:
        block: Name of the block.
        error: Mean error over the subnets.
        deviation: Standard deviation of the error between the subnets.
        downsamples: Whether the block reduces the image.
    """

    block: str
    error: float
    deviation: float
    downsamples: bool


def block_vulnerability(
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    *,
    rho: float = 0.5,
    subnets: int = 100,
    seed: int = 0,
) -> list[BlockVulnerability]:
    """Measures, block by block, random subnets that lose paths and channels in that block only.

    Args:
        model: Model with subnet gates that returns logits.
        x: Images, shape `(images, height, width, channels)`, in [0, 1].
        y: Integer labels, shape `(images,)`.
        rho: Share of the paths and channels of the block that is kept.
        subnets: Subnets drawn for each block.
        seed: Seed of the subnets.

    Returns:
        One row for each block, in the order of the network.

    Raises:
        ValueError: If the model has no gates, a number is out of range, or images or labels are of the wrong
            shape, type or range.

    Reference:
        Guo et al., 2022, https://arxiv.org/abs/2201.12765 (figure 7)
    """
    check_positive_integer("subnets", subnets)
    x = check_images(x)
    y = check_labels(y, len(x))
    gates = subnet_gates(model).values()
    # Of kernel pooling and weight maps strides are one number.
    strides = {layer.name: np.max(layer.strides) for layer in model._flatten_layers() if hasattr(layer, "strides")}
    cut = SubnetModel(model)
    rows = []
    for number, block in enumerate(dict.fromkeys(gate.block for gate in gates)):
        space = SubnetSpace(model, rho=rho, blocks=[block])
        rng = np.random.default_rng([seed, number])
        errors = []
        for _ in range(subnets):
            cut.choose(space.highest(rng.random(space.size)))
            errors.append(1.0 - accuracy(cut, x, y))
        inside = [gate.layer for gate in gates if gate.block == block]
        downsamples = any(strides.get(name, 1) > 1 for name in inside)
        rows.append(BlockVulnerability(block, float(np.mean(errors)), float(np.std(errors)), downsamples))
    return rows


def subnet_accuracy_figure(accuracies: Mapping[str, Mapping[str, np.ndarray]]) -> Any:
    """Draws how the accuracies of subnets are distributed, one panel a set of images, one box a model.

    Args:
        accuracies: For each model, what `subnet_accuracies` gives; all of the same sets.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: If matplotlib is not installed.

    Reference:
        Guo et al., 2022, https://arxiv.org/abs/2201.12765 (figure 1)
    """
    sets = list(next(iter(accuracies.values())))
    figure = _figure(figsize=(1.2 + 2.6 * len(sets), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(sets), squeeze=False, sharey=True)[0], sets, strict=True):
        axes.boxplot([found[name] for found in accuracies.values()])
        axes.set_xticks(range(1, len(accuracies) + 1), list(accuracies), rotation=30, ha="right")
        axes.set(title=name, ylim=(0, 1))
    figure.axes[0].set_ylabel("accuracy of subnets")
    return figure


def block_vulnerability_figure(rows: Mapping[str, list[BlockVulnerability]]) -> Any:
    """Draws the error that each block causes when a part of it is missing, one line a model.

    Dotted lines mark the blocks that reduce the image.

    Args:
        rows: For each model, what `block_vulnerability` gives; all of the same blocks.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: If matplotlib is not installed.

    Reference:
        Guo et al., 2022, https://arxiv.org/abs/2201.12765 (figure 7)
    """
    blocks = next(iter(rows.values()))
    figure = _figure(figsize=(2 + 0.4 * len(blocks), 3.4), layout="constrained")
    axes = figure.subplots()
    for name, found in rows.items():
        axes.plot([row.error for row in found], marker="o", label=name)
    for number, block in enumerate(blocks):
        if block.downsamples:
            axes.axvline(number, color="grey", linestyle=":")
    axes.set_xticks(range(len(blocks)), [row.block for row in blocks], rotation=60, ha="right")
    axes.set(ylabel="mean error", ylim=(0, None))
    axes.legend()
    return figure


def _figure(**options: Any) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib. Install it with: pip install 'keras-robust[plots]'") from error
    return Figure(**options)
