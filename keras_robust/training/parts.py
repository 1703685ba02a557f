"""From the tables of a recipe to the parts of a `RobustTrainer`."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from keras_robust.attacks import PGD
from keras_robust.checks import Tensor, check_labels
from keras_robust.layers import SubnetSpace
from keras_robust.training.adversarial import Adversarial
from keras_robust.training.early_stopping import RobustEarlyStopping
from keras_robust.training.free import FreeAdversarial
from keras_robust.training.objectives import VIEWS, CrossEntropy, JensenShannon, Objective, Trades
from keras_robust.training.perturbations import GaussianNoiseInput, Perturbation
from keras_robust.training.recipe import Recipe
from keras_robust.training.subnet_controller import ControllerSearch
from keras_robust.training.subnet_search import L1Search, RandomSearch, SubnetSearch
from keras_robust.training.tables import (
    AdversarialTable,
    ExtraDataTable,
    GaussianNoiseTable,
    JensenShannonTable,
    TradesTable,
)
from keras_robust.training.weak_subnets import WeakSubnets
from keras_robust.training.weight_perturbation import AWP


def make_perturbations(recipe: Recipe, input_shape: tuple[int, ...]) -> list[Perturbation]:
    """Returns the perturbations of a recipe, in its order.

    Args:
        recipe: The recipe.
        input_shape: Shape of one image, `(height, width, channels)`.

    Returns:
        The perturbations.

    Raises:
        ValueError: If a value does not go with its norm.
    """
    parts: list[Perturbation] = []
    for table in recipe.perturbations:
        options = table.model_dump(exclude={"type", "replays"})
        if isinstance(table, GaussianNoiseTable):
            parts.append(GaussianNoiseInput(**options))
        elif isinstance(table, AdversarialTable):
            parts.append(Adversarial(**options))
        else:
            images = recipe.training.batch_size * (VIEWS if recipe.has_views() else 1)
            parts.append(FreeAdversarial((images, *input_shape), **options))
    return parts


def make_objective(recipe: Recipe) -> Objective | None:
    """Returns the objective of a recipe; None for plain cross-entropy.

    Args:
        recipe: The recipe.

    Returns:
        The objective.

    Raises:
        ValueError: If a value does not go with its norm.
    """
    table = recipe.objective
    if table is None:
        return None
    options = table.model_dump(exclude={"type"})
    if isinstance(table, TradesTable):
        if table.step_size is None:  # In a recipe that has one meaning, also in the paper's setting.
            options["step_size"] = 2.5 * table.epsilon / table.steps
        return Trades(**options)
    return JensenShannon(**options) if isinstance(table, JensenShannonTable) else CrossEntropy(**options)


def make_weight_perturbation(recipe: Recipe, steps_per_epoch: Sequence[int]) -> AWP | None:
    """Returns the weight perturbation of a recipe, its warm-up turned from epochs to steps.

    Args:
        recipe: The recipe.
        steps_per_epoch: Batches of an epoch, for each of its phases; one number where it has none.

    Returns:
        The weight perturbation, or None.
    """
    table = recipe.weight_perturbation
    if table is None:
        return None
    epochs = [phase.epochs for phase in recipe.phases] or [recipe.training.epochs]
    steps = np.repeat(steps_per_epoch, epochs)
    return AWP(table.gamma, warmup=int(steps[: table.warmup_epochs].sum()))


def make_terms(recipe: Recipe, model: keras.Model) -> list[WeakSubnets]:
    """Returns the terms that a recipe adds to the loss.

    Args:
        recipe: The recipe.
        model: The model in training.

    Returns:
        The terms.

    Raises:
        ValueError: If the model has no subnet gates where they are needed.
    """
    table = recipe.weak_subnets
    if table is None:
        return []
    space = SubnetSpace(model, rho=table.rho, scope=table.scope, path_rounding=table.path_rounding)
    search: SubnetSearch
    if table.search == "controller":
        options = table.model_dump(include={"interval", "samples", "learning_rate", "entropy_weight"})
        search = ControllerSearch(space, **options, seed=recipe.seed)
    else:
        search = L1Search(space) if table.search == "l1" else RandomSearch(space)
    options = table.model_dump(include={"distillation_weight", "clean_weight", "loss", "reduction"})
    views = VIEWS if recipe.has_views() else 1
    return [WeakSubnets(search, **options, views=views, seed=recipe.seed)]


def make_early_stopping(recipe: Recipe, x: Tensor, y: Tensor) -> RobustEarlyStopping | None:
    """Returns the early stopping of a recipe.

    Args:
        recipe: The recipe.
        x: Images held out of the training set, in [0, 1].
        y: Their labels.

    Returns:
        The callback, or None.

    Raises:
        ValueError: If a value does not go with its norm.
    """
    table = recipe.early_stopping
    if table is None:
        return None
    attack = None if table.type == "accuracy" else PGD(**table.model_dump(exclude={"type"}))
    return RobustEarlyStopping(attack, x, y, seed=recipe.seed)


def read_extra_data(table: ExtraDataTable, folder: Path, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads extra images and checks that they are those that the recipe means.

    Args:
        table: Table of the recipe.
        folder: Folder of the data sets.
        num_classes: Classes of the data set that they join.

    Returns:
        Pixels as stored, shape `(images, height, width, channels)`, and int32 labels, shape `(images,)`.

    Raises:
        ValueError: If the file is absent, another one, or does not hold images and labels of these classes.
    """
    path = folder / table.file
    if not path.is_file():
        raise ValueError(f"`extra_data.file` must be in the folder of the data sets. Received: {path}, absent.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != table.sha256:
        raise ValueError(
            f"{path} must be the file that the recipe was written for, SHA-256 {table.sha256}. Received: {digest}."
        )
    with np.load(path, allow_pickle=False) as stored:
        if not {"pixels", "labels"} <= set(stored.files):
            raise ValueError(
                f"{path} must hold the arrays `pixels` and `labels`. Received: {', '.join(stored.files)}."
            )
        pixels = stored["pixels"]
        return pixels, check_labels(stored["labels"], len(pixels), num_classes, name="labels")
