"""Noise corruptions: `(x, constants, generators) -> x`, images of shape (batch, height, width, channels)."""

import numpy as np


def gaussian_noise(x: np.ndarray, c: float, rngs: list[np.random.Generator]) -> np.ndarray:
    """Adds N(0, c^2) to every value."""
    return x + np.float32(c) * np.stack([rng.standard_normal(x.shape[1:], dtype="float32") for rng in rngs])


def shot_noise(x: np.ndarray, c: int, rngs: list[np.random.Generator]) -> np.ndarray:
    """Counts photons: Poisson with mean `c` at white."""
    counts = [rng.poisson(image * c) for rng, image in zip(rngs, x, strict=True)]
    return np.stack(counts).astype("float32") / np.float32(c)


def impulse_noise(x: np.ndarray, c: float, rngs: list[np.random.Generator]) -> np.ndarray:
    """Sets a fraction `c` of the values, each channel for itself, to black or white with equal chance."""
    chance = np.stack([rng.random(x.shape[1:], dtype="float32") for rng in rngs])
    return np.where(chance < c / 2, np.float32(1), np.where(chance < c, np.float32(0), x))
