"""The table of attacks that `test_contract.py` holds to the one attack contract; a new attack adds one row."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from keras_robust import attacks

EPSILON = {"Linf": 0.02, "L2": 0.15, "L1": 1.0}  # some rows of the model below break, others do not


@dataclasses.dataclass(frozen=True)
class Row:
    """One attack, short enough for a test.

    Args:
        name: Name in the test's id.
        make: Builds the attack from the name of a norm and an epsilon.
        random: Whether another seed gives another result.
        norms: Norms that it knows.
    """

    name: str
    make: Callable[[str, float], attacks.Attack]
    random: bool = True
    norms: tuple[str, ...] = ("Linf", "L2", "L1")


ROWS = [
    Row("fgsm", attacks.FGSM, random=False),
    Row("pgd", lambda norm, epsilon: attacks.PGD(norm, epsilon, steps=5)),
    Row("pgd_restarts", lambda norm, epsilon: attacks.PGD(norm, epsilon, steps=3, restarts=2, loss="margin")),
    Row("pgd_no_start", lambda norm, epsilon: attacks.PGD(norm, epsilon, random_start=False), random=False),
    Row("apgd", lambda norm, epsilon: attacks.APGD(norm, epsilon, steps=8)),
    Row(
        "apgd_targeted",
        lambda norm, epsilon: attacks.APGD(
            norm, epsilon, steps=5, loss="targeted_dlr", targets=2, large_epsilon_schedule=norm == "L1"
        ),
    ),
    Row("fab_targeted", lambda norm, epsilon: attacks.FAB(norm, epsilon, steps=8), random=False),
    Row("fab", lambda norm, epsilon: attacks.FAB(norm, epsilon, steps=5, targeted=False), random=False),
    Row("square", lambda norm, epsilon: attacks.Square(norm, epsilon, queries=100)),
]


def contract_model() -> keras.Model:
    """Builds a smooth net of 5 classes with state that an attack must not touch: averages and a random seed."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Conv2D(8, 3, activation="softplus"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Flatten(),
            keras.layers.Dense(5),
        ]
    )
    rng = np.random.default_rng(3)
    for variable in model.trainable_variables:  # the initialisers draw other numbers on each backend
        variable.assign(rng.normal(0, 0.5, variable.shape).astype("float32"))
    logits = keras.ops.convert_to_numpy(model(contract_images()))
    model.layers[-1].bias.assign(model.layers[-1].bias - logits.mean(axis=0))  # so that every class occurs
    return model


def contract_images(count: int = 12) -> np.ndarray:
    """Draws images, some pixels of which lie on the faces of the box."""
    return np.clip(np.random.default_rng(5).uniform(-0.2, 1.2, (count, 6, 6, 3)), 0, 1).astype("float32")


def contract_data(model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and the labels that the model gives them."""
    x = contract_images()
    return x, attacks.Predictor.of(model).predict(x).argmax(1).astype("int32")


def model_of_nan_in_the_dark(shape, classes):
    """Linear model that returns NaN where the darkest pixel is below one half."""
    inputs = keras.Input(shape)
    pixels = keras.layers.Flatten()(inputs)
    outputs = keras.layers.Dense(classes)(pixels) - keras.ops.log(keras.ops.min(pixels, -1, keepdims=True) - 0.5)
    return keras.Model(inputs, outputs)
