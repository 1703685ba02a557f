"""How far noise and attacks move the activations of a network, layer by layer."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust.checks import Tensor, check_images, check_labels, check_positive_integer
from keras_robust.layers import KAP, KMP
from keras_robust.models.rebuild import Graph, as_functional
from keras_robust.prediction import image_rng


@dataclasses.dataclass(frozen=True)
class LayerShift:
    """Shift of one layer's activations.

    Args:
        layer: Name of the layer.
        distance: L2 distance from the clean activations, of each image.
        relative: The same over the L2 norm of the clean activations.
    """

    layer: str
    distance: np.ndarray
    relative: np.ndarray


def noisy_copies(x: Tensor, sigma: float, *, count: int = 100, seed: int = 0) -> np.ndarray:
    """Adds Gaussian noise to one image, many times over.

    Args:
        x: One clean image, shape `(1, height, width, channels)`, in [0, 1].
        sigma: Standard deviation in pixel units; the paper does not state its own.
        count: Number of copies.
        seed: Seed of the noise.

    Returns:
        Noisy images, shape `(count, height, width, channels)`, not clipped, as in training.

    Raises:
        ValueError: If `x` is not one image.
    """
    x = _one(x)
    check_positive_integer("count", count)
    noise = np.stack(
        [image_rng(seed, copy).standard_normal(x.shape[1:], dtype="float32") for copy in range(count)]
    )
    return x + np.float32(sigma) * noise


def attacked_copies(
    model: keras.Model, x: Tensor, y: Tensor, attack: Any, *, count: int = 100, seed: int = 0
) -> np.ndarray:
    """Attacks one image, many times over with other random numbers.

    The paper does not say how its 100 adversarial examples of one image differ; here by the attack's random
    numbers.

    Args:
        model: Keras model that returns logits.
        x: One clean image, shape `(1, height, width, channels)`, in [0, 1].
        y: Its label, shape `(1,)`.
        attack: Attack such as `PGD`, or `AutoAttack`; it must draw random numbers.
        count: Number of copies.
        seed: Seed of the attack.

    Returns:
        Adversarial images, shape `(count, height, width, channels)`.

    Raises:
        ValueError: If `x` is not one image, or the label does not belong to it.
    """
    x = np.repeat(_one(x), count, axis=0)
    y = np.repeat(check_labels(y, 1), count)
    if hasattr(attack, "run"):
        return attack.run(model, x, y, seed=seed).x_adv
    return attack(model, x, y, seed=seed)


def activation_shift(
    model: keras.Model,
    x: Tensor,
    x_perturbed: Tensor,
    *,
    layers: Sequence[str] | None = None,
    batch_size: int = 25,
) -> list[LayerShift]:
    """Measures the distance between the activations on clean and on perturbed images.

    Args:
        model: Functional or sequential model, in inference mode.
        x: Clean images, shape `(images, height, width, channels)`, in [0, 1]; or one image for all perturbed ones.
        x_perturbed: Perturbed images, shape `(images, height, width, channels)`; any pixels.
        layers: Names of the layers to measure; None takes every convolution, kernel pooling and dense layer. A
            nested model counts as one layer, and is taken too; of a layer that is called twice, the first call.
        batch_size: Images a pass.

    Returns:
        The shift of each layer, in the order of the model.

    Raises:
        ValueError: If the images do not pair up, or a layer is not there.

    Reference:
        Bashivan et al., 2022, https://arxiv.org/abs/2210.00062 (section A.4, figures A2 to A4)
    """
    x = check_images(x)
    x_perturbed = np.asarray(ops.convert_to_numpy(x_perturbed)).astype("float32")
    if x_perturbed.shape[1:] != x.shape[1:] or len(x) not in (1, len(x_perturbed)):
        raise ValueError(
            "`x` must hold the clean image of each perturbed one, or one for all. "
            f"Received: shapes {x.shape} and {x_perturbed.shape}."
        )
    run, names = _activations(model, layers)
    distance: dict[str, list] = {name: [] for name in names}
    norm: dict[str, list] = {name: [] for name in names}
    for start in range(0, len(x_perturbed), batch_size):
        rows = slice(start, start + batch_size)
        clean = run(x if len(x) == 1 else x[rows])
        moved = run(x_perturbed[rows])
        for name, before, after in zip(names, clean, moved, strict=True):
            lengths = np.linalg.norm(before, axis=1)
            distance[name].append(np.linalg.norm(after - before, axis=1))
            norm[name].append(np.broadcast_to(lengths, distance[name][-1].shape))
    shifts = []
    for name in names:
        moved_by, length = np.concatenate(distance[name]), np.concatenate(norm[name])
        shifts.append(LayerShift(name, moved_by, moved_by / np.maximum(length, np.finfo("float32").tiny)))
    return shifts


def activation_shift_figure(curves: Mapping[str, Sequence[LayerShift]], *, relative: bool = True) -> Any:
    """Draws the mean shift of each layer, and its standard deviation over the images.

    Args:
        curves: Shifts by name of the model or the perturbation, of the same layers.
        relative: Whether to draw distances over the norm of the clean activations.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib. Install it with: pip install 'keras-robust[plots]'") from error
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, shifts in curves.items():
        values = [shift.relative if relative else shift.distance for shift in shifts]
        means, spread = [v.mean() for v in values], [v.std() for v in values]
        axes.errorbar(range(len(shifts)), means, spread, marker="o", capsize=2, label=name)
        axes.set_xticks(range(len(shifts)), [shift.layer for shift in shifts], rotation=90, fontsize=7)
    axes.set_ylabel("relative L2 shift" if relative else "L2 shift")
    axes.set_ylim(0, None)
    axes.legend()
    return figure


def _one(x: Tensor) -> np.ndarray:
    x = check_images(x)
    if len(x) != 1:
        raise ValueError(f"`x` must hold one image. Received: shape={x.shape}. Take one, keeping its axis: x[:1].")
    return x


def _activations(model: keras.Model, names: Sequence[str] | None) -> tuple[Callable, list[str]]:
    """A compiled function from images to the flat activations of some layers, and the layers' names."""
    known = {layer.name: layer for layer in model.layers}
    kinds = (keras.layers.Conv2D, keras.layers.Dense, KAP, KMP, keras.Model)
    chosen = [name for name, layer in known.items() if isinstance(layer, kinds)] if names is None else list(names)
    missing = [name for name in chosen if name not in known]
    if missing or not chosen:
        raise ValueError(
            f"`layers` must name layers of model '{model.name}': {', '.join(known)}. "
            f"Received: {missing or chosen}."
        )
    graph = Graph(as_functional(model))
    inner = keras.Model(graph.model.inputs, [graph.output(known[name]) for name in chosen])
    values = [variable.value for variable in inner.trainable_variables]
    others = [variable.value for variable in inner.non_trainable_variables]

    def call(images):
        outputs, _ = inner.stateless_call(values, others, images, training=False)
        # Norms of half precision overflow.
        flat = [ops.reshape(each, (ops.shape(each)[0], -1)) for each in keras.tree.flatten(outputs)]
        return [ops.cast(each, "float32") for each in flat]

    run = backend.jit(call)
    return lambda images: [ops.convert_to_numpy(each) for each in run(ops.convert_to_tensor(images))], chosen
