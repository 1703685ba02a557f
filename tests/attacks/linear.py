"""Linear classifiers, on which the best attack is known exactly; everything here is NumPy in float64."""

import keras
import numpy as np


def linear_model(classes: int, shape: tuple[int, ...], seed: int) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """Builds a model whose logits are `x @ weights + bias`.

    Args:
        classes: Number of logits.
        shape: Shape of an image, without the batch axis.
        seed: Seed of the weights.

    Returns:
        The model, its weights, shape `(features, classes)`, and its bias, shape `(classes,)`. For two classes the
        loss grows with `x @ (weights[:, other] - weights[:, true])` alone.
    """
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((int(np.prod(shape)), classes)).astype("float32")
    bias = rng.standard_normal(classes).astype("float32")
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes)])
    model.set_weights([weights, bias])
    return model, weights.astype("float64"), bias.astype("float64")


def best_gain(norm: str, epsilon: float | np.ndarray, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Returns the largest `w @ delta` with `delta` in the ball and `x + delta` in [0, 1].

    Args:
        norm: 'Linf', 'L2' or 'L1'.
        epsilon: Radius, a number or of shape `(batch,)`.
        x: Images, shape `(batch, ...)`, in [0, 1].
        w: Weights, shape `(features,)` or `(batch, features)`.

    Returns:
        The gain of each image, shape `(batch,)`.
    """
    x = x.reshape(len(x), -1).astype("float64")
    w = np.broadcast_to(w, x.shape).astype("float64")
    epsilon = np.broadcast_to(np.asarray(epsilon, "float64"), len(x))[:, None]
    room = np.where(w > 0, 1 - x, np.where(w < 0, x, 0))  # how far each pixel may move usefully
    slope = np.abs(w)
    if norm == "Linf":
        return (slope * np.minimum(room, epsilon)).sum(1)
    if norm == "L1":  # fill the pixels in order of their weight until the radius is spent
        order = np.argsort(-slope, axis=1)
        room, slope = np.take_along_axis(room, order, 1), np.take_along_axis(slope, order, 1)
        before = np.cumsum(room, axis=1) - room
        return (slope * np.clip(epsilon - before, 0, room)).sum(1)
    # L2: delta = min(factor * w, room) for the factor that meets the radius; its length grows with the factor.
    low, high = np.zeros((len(x), 1)), np.full((len(x), 1), 1e12)
    for _ in range(200):
        middle = np.where(low > 0, np.sqrt(low * high), high * 1e-6)
        outside = np.linalg.norm(np.minimum(middle * slope, room), axis=1, keepdims=True) > epsilon
        low, high = np.where(outside, low, middle), np.where(outside, middle, high)
    return (slope * np.minimum(low * slope, room)).sum(1)


def closest_distance(norm: str, x: np.ndarray, w: np.ndarray, b: float | np.ndarray) -> np.ndarray:
    """Returns the distance from `x` to the hyperplane `w @ x + b = 0` inside [0, 1].

    Args:
        norm: 'Linf', 'L2' or 'L1'.
        x: Images, shape `(batch, ...)`, in [0, 1].
        w: Weights, shape `(features,)` or `(batch, features)`.
        b: Offset, a number or of shape `(batch,)`.

    Returns:
        The distance of each image, shape `(batch,)`; infinity where the box does not meet the hyperplane.
    """
    flat = x.reshape(len(x), -1).astype("float64")
    w = np.broadcast_to(w, flat.shape).astype("float64")
    value = (flat * w).sum(1) + b
    downhill = -np.sign(value)[:, None] * w
    high = np.full(len(x), {"Linf": 1.0, "L2": np.sqrt(flat.shape[1]), "L1": flat.shape[1]}[norm])
    low, reachable = np.zeros(len(x)), best_gain(norm, high, x, downhill) >= np.abs(value)
    for _ in range(60):
        middle = 0.5 * (low + high)
        enough = best_gain(norm, middle, x, downhill) >= np.abs(value)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(reachable, high, np.inf)
