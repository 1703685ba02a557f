"""The networks of the weak subnets paper as recipes, in a small setting and in the paper's own.

Reference:
    Guo et al., 2022, https://arxiv.org/abs/2201.12765
"""

import argparse
import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_robust import datasets, pipeline
from keras_robust.analysis import BlockVulnerability, block_vulnerability, subnet_accuracies
from keras_robust.analysis.subnets import accuracy
from keras_robust.attacks import PGD, AutoAttack
from keras_robust.checks import check_choice
from keras_robust.evaluation.noise import Gaussian
from keras_robust.experiments.measures import attacked_and_noisy, corrupted
from keras_robust.experiments.study import Measure, Row, change
from keras_robust.files import write_atomically
from keras_robust.training.recipe import Recipe, parse_recipe

METHODS: dict[str, dict[str, Any]] = {
    "vanilla": {},
    "dropout": {"model.arguments.dropout": 0.1},
    "random": {"weak_subnets": {"search": "random"}},
    "l1": {"weak_subnets": {"search": "l1"}},
    "ews": {"weak_subnets": {"search": "controller"}},
}
"""What sets each method apart; rho 0.7, lambda 1 and K 10 are defaults. The paper does not give dropout's rate."""

AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "standard": {},
    "autoaugment": {"augmentation.auto_augment": "cifar10"},
    "augmix": {"augmentation.augmix": {"severity": 5.0}, "objective": {"type": "jensen_shannon"}},
}
"""What table 1 adds to random crops and flips; AugMix has severity 5 in the paper's script, 3 in its own paper."""

ADVERSARIAL_TRAININGS = ("at", "trades")
EPSILON = 8 / 255
LOW = 0.2
"""Accuracy below which the paper calls a subnet weak, in the text on figure 1."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """How large an experiment is.

    Args:
        name: `"small"` or `"paper"`.
        builder: Network of `keras_robust.models` against corruptions.
        epochs: Epochs of each training; the learning rate falls where the paper's does, at each third.
        train_images: First training images that are used; None for all.
        images: First test images that are corrupted, and those that subnets see.
        attacked_images: First test images under AutoAttack; PGD has `images`.
        adversarial_epochs: Epochs of each adversarial training.
        subnets: Random subnets of figure 1.
        block_subnets: Random subnets of each block of figure 7.
        seed: Seed of the first trial, the corruptions, the attacks and the subnets that are drawn.
    """

    name: str
    builder: str
    epochs: int
    train_images: int | None
    images: int
    attacked_images: int
    adversarial_epochs: int
    subnets: int
    block_subnets: int
    seed: int = 0

    def question(self, **more: Any) -> dict[str, Any]:
        """Returns what decides the numbers besides the recipes, as JSON, with the part of one experiment."""
        return {"setting": self.name, "images": self.images, "seed": self.seed, **more}


SETTINGS = {
    "small": Setting(
        name="small",
        builder="resnet8",
        epochs=10,
        train_images=15_000,
        images=500,
        attacked_images=100,
        adversarial_epochs=5,
        subnets=100,
        block_subnets=100,
    ),
    "paper": Setting(
        name="paper",
        builder="resnet50",
        epochs=400,
        train_images=None,
        images=10_000,
        attacked_images=10_000,
        adversarial_epochs=200,
        subnets=1000,
        block_subnets=100,
    ),
}


def setting_of(options: argparse.Namespace) -> Setting:
    """Returns the setting that a script's options ask for."""
    return _with_options(SETTINGS[options.setting], options)


def sweep_setting(options: argparse.Namespace) -> Setting:
    """Returns the setting of figures 5 and 6, whose many trainings are shorter where the setting is small."""
    setting = SETTINGS[options.setting]
    if setting.name == "small":
        setting = dataclasses.replace(setting, train_images=5_000, epochs=6)
    return _with_options(setting, options)


def _with_options(setting: Setting, options: argparse.Namespace) -> Setting:
    changes: dict[str, Any] = {}
    if options.epochs is not None:
        changes |= {"epochs": options.epochs, "adversarial_epochs": options.epochs}
    if options.images is not None:
        changes |= {"images": options.images, "attacked_images": options.images}
    if options.all_images:
        changes["train_images"] = None
    return dataclasses.replace(setting, **changes)


def network(
    setting: Setting,
    method: str,
    *,
    dataset: str = "cifar10",
    changes: Mapping[str, Any] | None = None,
) -> Recipe:
    """Returns the recipe of a network that is measured under corruptions.

    SGD with Nesterov momentum, batch 128, rate 0.1 that falls tenfold after each third, gradients cut at norm 3.

    Differs from the code: the rate falls at its milestones (there one epoch before).

    Args:
        setting: Size of the experiment.
        method: One of `METHODS`.
        dataset: Data set.
        changes: Further keys for `change`.

    Returns:
        The recipe.

    Raises:
        ValueError: If the method is unknown or an option is not valid.
    """
    check_choice("method", method, tuple(METHODS))
    name = f"{setting.builder}_{dataset}.{method}"
    optimizer = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4, "max_gradient_norm": 3.0}
    base = _base(setting, name, setting.builder, dataset, 400, [133, 266], optimizer)
    keys = {"training.epochs": setting.epochs, **copy.deepcopy({**METHODS[method], **(changes or {})})}
    return change(base, name, keys)


def adversarial_network(
    setting: Setting,
    training: str,
    method: str,
    *,
    awp: bool = False,
    builder: str = "resnet8",
    arguments: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Recipe:
    """Returns the recipe of a network of table 4, CIFAR-10 under Linf 8/255.

    SGD with momentum, batch 128, rate 0.1 that falls tenfold at half and three quarters; the epoch of the highest
    accuracy under PGD-20 is kept.

    Differs from the paper: that epoch is chosen on a fiftieth of the training images, not on the test images.
    Differs from the code: no label smoothing, rho 0.7 and lambda 1 (there 0.1, 0.9 and 0.1); crops are filled with
    zeros (there 128 of 255), and the rate falls at its milestones (there one epoch before).

    Args:
        setting: Size of the experiment.
        training: `"at"` (PGD-10 in training mode) or `"trades"` (beta 6).
        method: One of `METHODS`.
        awp: Whether weights are perturbed as well.
        builder: Network of `keras_robust.models`.
        arguments: Options of the network.
        changes: Further keys for `change`.

    Returns:
        The recipe.

    Raises:
        ValueError: If the training or the method is unknown or an option is not valid.
    """
    check_choice("training", training, ADVERSARIAL_TRAININGS)
    check_choice("method", method, tuple(METHODS))
    tag = f"{training}_awp_{method}" if awp else f"{training}_{method}"
    name = f"{builder}_cifar10.{tag}"
    optimizer = {"momentum": 0.9, "weight_decay": 5e-4}
    base = _base(setting, name, builder, "cifar10", 200, [100, 150], optimizer, arguments)
    keys: dict[str, Any] = {"dataset.validation_fraction": 0.02}
    keys["early_stopping"] = {"type": "robust_accuracy", "epsilon": EPSILON, "step_size": 2 / 255}
    if training == "at":
        ball = {"epsilon": EPSILON, "step_size": 2 / 255, "model_mode": "train"}
        keys["perturbations"] = [{"type": "adversarial", **ball}]
    else:
        keys["objective"] = {"type": "trades", "epsilon": 0.031, "step_size": 0.007, "beta": 6.0}
    if awp:
        warmup = {} if training == "at" else {"warmup_epochs": 10}
        keys["weight_perturbation"] = {"type": "awp", "gamma": 0.01 if training == "at" else 0.005, **warmup}
    keys |= copy.deepcopy(METHODS[method])
    if method == "ews":
        keys["weak_subnets"]["entropy_weight"] = 0.01
    if training == "trades" and "weak_subnets" in keys:
        # Equation 4: the divergence counts once on clean images, and beta times on adversarial ones.
        keys["weak_subnets"] = {**keys["weak_subnets"], "clean_weight": 1.0, "distillation_weight": 6.0}
    recipe = change(base, name, {**keys, **(changes or {})})
    return change(recipe, name, {"training.epochs": setting.adversarial_epochs})


def _base(
    setting: Setting,
    name: str,
    builder: str,
    dataset: str,
    epochs: int,
    milestones: list[int],
    optimizer: Mapping[str, Any],
    arguments: Mapping[str, Any] | None = None,
) -> Recipe:
    """The paper's training of a network, but for the number of images."""
    content = {
        "name": name,
        "seed": setting.seed,
        "dataset": {"name": dataset, "images": setting.train_images},
        "model": {"builder": builder, "arguments": dict(arguments or {})},
        "training": {"epochs": epochs, "batch_size": 128},
        "optimizer": {"name": "sgd", "learning_rate": 0.1, **optimizer},
        "schedule": {"type": "piecewise", "milestones": milestones},
        "augmentation": {"random_crop": 4, "horizontal_flip": True},
    }
    return parse_recipe(content, source=name)


def row(name: str, recipe: Recipe, output: Path, **fields: Any) -> Row:
    """Returns a row whose training is shared with the other tables and figures of one output folder."""
    return Row(name, recipe, shared=output / "trained", **fields)


def training_log(row: Row) -> dict[str, Any]:
    """Returns the log of the first trial of a row whose training is shared."""
    assert row.shared is not None
    path = row.shared / row.recipe.digest()[:16] / pipeline.LOG
    return json.loads(path.read_text(encoding="utf-8"))


def corruption_measure(
    setting: Setting, output: Path, *, official: str | None = None, data_dir: str | None = None
) -> Measure:
    """Returns `corrupted` for a setting, its images kept in `output/corrupted`."""
    return corrupted(
        images=setting.images,
        seed=setting.seed,
        cache=output / "corrupted",
        official=official,
        data_dir=data_dir,
    )


def adversarial_measure(setting: Setting, *, data_dir: str | None = None) -> Measure:
    """Returns a measure of table 4: `clean error`, `PGD-20 error` and `AutoAttack error`, Linf 8/255."""
    pgd = PGD("Linf", EPSILON, steps=20, step_size=2 / 255)
    options: dict[str, Any] = {"seed": setting.seed, "data_dir": data_dir}
    broad = attacked_and_noisy(attacks=[pgd], images=setting.images, **options)
    deep = attacked_and_noisy(attacks=[AutoAttack("Linf", EPSILON)], images=setting.attacked_images, **options)

    def measure(model: keras.Model, recipe: Recipe, folder: Path) -> Mapping[str, float]:
        found = broad(model, recipe, folder)
        found = {**deep(model, recipe, folder / "autoattack"), **found}
        pgd_name, automatic = (
            next(each for each in found if each.startswith(start)) for start in ("PGD", "AutoAttack")
        )
        names = {"clean": "clean error", pgd_name: "PGD-20 error", automatic: "AutoAttack error"}
        return {new: 1.0 - found[old] for old, new in names.items()}

    return measure


ACCURACIES, BLOCKS = "subnets.npz", "blocks.json"


def subnet_measure(
    setting: Setting,
    *,
    rho: float = 0.7,
    sigma: float = 0.1,
    epsilon: float = 2 / 255,
    data_dir: str | None = None,
) -> Measure:
    """Returns a measure of figure 1: random subnets on clean, noisy and adversarial images.

    The adversarial images are made once, against the whole network, by PGD-10. Accuracies of all subnets are kept
    in `subnets.npz`. The paper gives neither sigma nor epsilon.

    Args:
        setting: Size of the experiment.
        rho: Share of paths and channels that a subnet keeps.
        sigma: Standard deviation of the noise, in pixel units.
        epsilon: Linf radius.
        data_dir: Folder of TensorFlow Datasets.

    Returns:
        A measure: for each kind of images the accuracy of the whole network, the mean over subnets, and the share
        of subnets below `LOW`.
    """

    def measure(model: keras.Model, recipe: Recipe, folder: Path) -> Mapping[str, float]:
        x, y = _first_test_images(recipe, setting.images, data_dir)
        images = {
            "clean": x,
            "noisy": Gaussian(sigma, clip=True)(x, seed=setting.seed),
            "adversarial": PGD("Linf", epsilon, steps=10)(model, x, y, seed=setting.seed),
        }
        found = subnet_accuracies(model, images, y, rho=rho, subnets=setting.subnets, seed=setting.seed)
        arrays: dict[str, Any] = dict(found)
        write_atomically(folder / ACCURACIES, lambda file: np.savez(file, **arrays))
        values = {}
        for name, each in found.items():
            values[f"{name}, whole network"] = accuracy(model, images[name], y)
            values[f"{name}, mean of subnets"] = float(each.mean())
            values[f"{name}, subnets below {LOW:.0%}"] = float(np.mean(each < LOW))
        return values

    return measure


def block_measure(setting: Setting, *, rho: float = 0.5, data_dir: str | None = None) -> Measure:
    """Returns a measure of figure 7: the mean error of subnets that lose half of one block only, by block."""

    def measure(model: keras.Model, recipe: Recipe, folder: Path) -> Mapping[str, float]:
        x, y = _first_test_images(recipe, setting.images, data_dir)
        found = block_vulnerability(model, x, y, rho=rho, subnets=setting.block_subnets, seed=setting.seed)
        rows = [dataclasses.asdict(each) for each in found]
        write_atomically(folder / BLOCKS, json.dumps(rows, indent=1) + "\n")
        return {"whole network": 1.0 - accuracy(model, x, y)} | {each.block: each.error for each in found}

    return measure


def read_accuracies(study: Path, name: str) -> dict[str, np.ndarray]:
    """Returns the accuracies of the subnets of a row's first trial, by the kind of images."""
    with np.load(study / name / "trial0" / ACCURACIES, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def read_blocks(study: Path, name: str) -> list[BlockVulnerability]:
    """Returns the vulnerability of the blocks of a row's first trial."""
    rows = json.loads((study / name / "trial0" / BLOCKS).read_text(encoding="utf-8"))
    return [BlockVulnerability(**each) for each in rows]


def _first_test_images(recipe: Recipe, count: int, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    test = datasets.load(recipe.dataset.name, data_dir=data_dir).test
    return test.take(min(count, len(test)))
