"""The networks of the kernel average pooling paper as recipes, in a small setting and in the paper's own."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_robust import pipeline
from keras_robust.experiments.study import Row, change
from keras_robust.training.recipe import Recipe, load_recipe
from keras_robust.zoo.entry import RECIPE
from keras_robust.zoo.registry import find, load_weights

METHODS = ("noise", "input_noise", "at", "trades", "fast_at")


@dataclasses.dataclass(frozen=True)
class Setting:
    """How large an experiment is.

    Args:
        name: `"small"`, `"paper"`, or `"zoo"`, whose networks are trained entries.
        builder: Network of `keras_robust.models`.
        images: First test images that AutoAttack sees; ten times as many are measured clean, noisy and under PGD.
        epochs: Epochs of each training; the learning rate falls where the paper's does, at three quarters.
        train_images: First training images that are used; None for all.
        epsilons: L2 radii of sweeps, in pixel units, under PGD.
        autoattack_epsilons: Those of them under AutoAttack.
        epsilon: L2 radius of adversarial training and of tables, in pixel units.
        more_epsilons: Further radii of tables, for nets that nothing of `epsilon` leaves right.
        pgd_steps: Steps of PGD in the evaluation.
        training_steps: Steps of PGD in adversarial training.
        early_stopping: Whether adversarial training keeps its most robust epoch, judged on held-out images.
        dataset: Where the experiment names none of its own.
        seed: Seed of the first trial and of the attacks.
    """

    name: str
    builder: str
    images: int
    epochs: int
    train_images: int | None
    epsilons: tuple[float, ...]
    autoattack_epsilons: tuple[float, ...]
    pgd_steps: int
    training_steps: int
    early_stopping: bool
    epsilon: float = 1.0
    more_epsilons: tuple[float, ...] = ()
    dataset: str = "cifar10"
    seed: int = 0

    @property
    def is_paper(self) -> bool:
        """Whether networks and training are the paper's."""
        return self.name == "paper"

    def question(self) -> dict[str, Any]:
        """Returns what decides the numbers besides the recipes, as JSON."""
        return {
            "setting": self.name,
            "autoattack_images": self.images,
            "other_images": 10 * self.images,
            "norm": "L2",
            "epsilons": list(self.epsilons),
            "autoattack_epsilons": list(self.autoattack_epsilons),
            "pgd_steps": self.pgd_steps,
            "seed": self.seed,
        }

    def ask(self, **question: Any) -> dict[str, Any]:
        """Returns the question of an experiment that does not sweep: its own numbers, the setting and the seed."""
        return {"setting": self.name, "autoattack_images": self.images, "seed": self.seed, **question}


_PAPER_EPSILONS = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
SETTINGS = {
    "small": Setting(
        name="small",
        builder="kap_cnn",
        images=40,
        epochs=5,
        train_images=15_000,
        epsilons=(0.1, 0.25, 0.5, 1.0, 2.0),
        autoattack_epsilons=(0.25, 0.5, 1.0),
        pgd_steps=20,
        training_steps=3,
        early_stopping=False,
        more_epsilons=(0.25,),
    ),
    "paper": Setting(
        name="paper",
        builder="resnet18",
        images=1000,
        epochs=200,
        train_images=None,
        epsilons=_PAPER_EPSILONS,
        autoattack_epsilons=_PAPER_EPSILONS,
        pgd_steps=100,
        training_steps=20,
        early_stopping=True,
    ),
}


NETWORKS: dict[str, dict[str, Any]] = {
    "standard": {"pooling": None},
    "noise_sigma0.1": {"pooling": None, "sigma": 0.1},
    "at": {"method": "at"},
    "trades": {"method": "trades"},
    "fast_at": {"method": "fast_at"},
    "kap_sigma0.1": {"pooling": "kap", "sigma": 0.1},
    "kap_sigma0.2": {"pooling": "kap", "sigma": 0.2},
}
"""Arguments of `network` for the networks that several tables have."""


PAPER_RECIPES = {
    "standard": "resnet18_{}.standard",
    "noise_sigma0.1": "resnet18_{}.noise_sigma0.1",
    "at": "resnet18_{}.at_es_l2_1.0",
    "trades": "resnet18_{}.trades_l2_1.0",
    "fast_at": "resnet18_{}.fast_at_linf4",
    "kap_sigma0.1": "resnet18_kap_{}.noise_sigma0.1",
    "kap_sigma0.2": "resnet18_kap_{}.noise_sigma0.2",
    "wide_fast_at": "resnet18_widex4_{}.fast_at_linf4",
    "wide_kap_sigma0.1": "resnet18_widex4_kap_{}.noise_sigma0.1",
}
"""Folders of the paper's own recipes, for each data set."""


def setting_of(options: argparse.Namespace) -> Setting:
    """Returns the setting that a script's options ask for."""
    given = {"epochs": options.epochs, "images": options.images}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if options.all_images:
        changes["train_images"] = None
    return dataclasses.replace(SETTINGS[options.setting], **changes)


def network(
    setting: Setting,
    *,
    method: str = "noise",
    sigma: float = 0.0,
    dataset: str | None = None,
    builder: str | None = None,
    changes: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Recipe:
    """Returns the recipe of one network.

    All have the optimizer, schedule and augmentation of the zoo's three-layer net, which are the paper's.

    Args:
        setting: Size of the experiment.
        method: `"noise"` of `sigma` on the input and after each convolution or pooling, `"input_noise"` on the
            input alone, `"at"` (PGD on L2), `"trades"` (L2) or `"fast_at"` (Linf 4/255, one step).
        sigma: Standard deviation of the noise in training, in pixel units; 0 for none.
        dataset: Data set; None for the setting's.
        builder: Network; None for the setting's.
        changes: Further keys for `change`.
        **arguments: Options of the network, such as `pooling="kap"`.

    Returns:
        The recipe.

    Raises:
        ValueError: If the method is unknown or an option is not valid.
    """
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(METHODS)}. Received: method={method!r}.")
    builder, dataset = builder or setting.builder, dataset or setting.dataset
    keys: dict[str, Any] = {
        "metadata": None,
        "evaluation": {},
        "seed": setting.seed,
        "dataset.name": dataset,
        "dataset.images": setting.train_images,
        "model.builder": builder,
        "model.arguments": arguments | ({"sigma": sigma} if method == "noise" and sigma else {}),
        "training.epochs": setting.epochs,
    }
    tag = f"noise_sigma{sigma:g}" if sigma else "standard"
    if method == "input_noise" and sigma:
        keys["perturbations"] = [{"type": "gaussian_noise", "sigma": sigma}]
        tag = f"input_noise_sigma{sigma:g}"
    elif method in ("at", "trades", "fast_at"):
        keys |= _adversarial(setting, method)
        tag = method
    if arguments.get("pooling"):
        tag = f"{arguments['pooling']}_{tag}"
    base = load_recipe(find("cnn_cifar10.standard", RECIPE))
    return change(base, f"{builder}_{dataset}.{tag}", keys | dict(changes or {}))


def table_recipe(setting: Setting, dataset: str, name: str, folder: Path) -> Recipe:
    """Returns the recipe of a row of Tables 1 and 3.

    Args:
        setting: Size of the experiment; the small one has the setting's data set where `dataset` is ImageNet.
        dataset: Data set of the row.
        name: Network of the row, one of `PAPER_RECIPES`.
        folder: Folder of the paper's recipes, `scripts/recipes/kap`.

    Returns:
        The recipe.

    Raises:
        ValueError: If the paper's recipe is absent.
    """
    if not setting.is_paper:
        small = setting.dataset if "imagenet" in dataset else dataset
        return network(setting, dataset=small, **NETWORKS[name])
    recipe = load_recipe(folder / PAPER_RECIPES[name].format(dataset.replace("_", "")))
    if setting.epochs == SETTINGS["paper"].epochs:
        return recipe
    return change(recipe, recipe.name, {"training.epochs": setting.epochs})


def _adversarial(setting: Setting, method: str) -> dict[str, Any]:
    ball = {"norm": "L2", "epsilon": setting.epsilon, "steps": setting.training_steps}
    keys: dict[str, Any] = {}
    if method == "trades":
        keys["objective"] = {"type": "trades", **ball}
    elif method == "at":
        keys["perturbations"] = [{"type": "adversarial", **ball}]
    else:
        fast = {"norm": "Linf", "epsilon": 4 / 255, "step_size": 5 / 255, "steps": 1, "model_mode": "train"}
        keys["perturbations"] = [{"type": "adversarial", **fast}]
    if setting.early_stopping and method == "at":
        keys["early_stopping"] = {"type": "robust_accuracy", **ball}
        keys["dataset.validation_fraction"] = 0.02
    return keys


def row(name: str, recipe: Recipe, output: Path, **fields: Any) -> Row:
    """Returns a row whose training is shared with the other tables and figures of one output folder."""
    return Row(name, recipe, shared=_trainings(output), **fields)


def _trainings(output: Path) -> Path:
    return output / "trained"


def trained_rows(rows: Sequence[Row], entries: Path, dataset: str) -> list[Row]:
    """Returns those rows whose network of the paper is a trained entry, to be taken from there.

    Args:
        rows: Rows named as in `PAPER_RECIPES`.
        entries: Folder of the entries, such as `zoo`.
        dataset: Data set of the entries.

    Returns:
        The rows, with the entry's recipe and folder; the others are left out.

    Raises:
        ValueError: If no row has weights there.
    """
    folders = {row.name: entries / PAPER_RECIPES[row.name].format(dataset) for row in rows}
    found = [row for row in rows if (folders[row.name] / pipeline.WEIGHTS).is_file()]
    if not found:
        wanted = ", ".join(folder.name for folder in folders.values())
        raise ValueError(f"The folder must hold weights of some of {wanted}. Received: none in {entries}.")
    return [
        dataclasses.replace(row, recipe=load_recipe(folders[row.name]), folder=folders[row.name], shared=None)
        for row in found
    ]


def sweep_rows(setting: Setting, output: Path) -> list[Row]:
    """Returns the networks of Fig. 5: none, average and maximum pooling, with noise and without, and AT."""
    rows = []
    for sigma in (0.0, 0.1):
        for label, pooling in (("plain", None), ("kap", "kap"), ("kmp", "kmp")):
            recipe = network(setting, sigma=sigma, pooling=pooling)
            rows.append(row(f"{label}_sigma{sigma:g}", recipe, output, point={"pooling": label, "sigma": sigma}))
    rows.append(row("at", network(setting, method="at"), output, point={"pooling": "plain", "method": "at"}))
    recipe = network(setting, sigma=0.2, pooling="kap")
    return [*rows, row("kap_sigma0.2", recipe, output, point={"pooling": "kap", "sigma": 0.2})]


def trained_model(row: Row, output: Path) -> keras.Model:
    """Returns the first trial's model of a row that a study has trained."""
    model = pipeline.build_model(row.recipe)
    load_weights(model, _trainings(output) / row.recipe.digest()[:16] / pipeline.WEIGHTS, row.name)
    return model
