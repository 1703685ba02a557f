"""What the tables and figures of the kernel average pooling paper ask of a trained model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_robust import datasets
from keras_robust.analysis import (
    activation_shift,
    attacked_copies,
    first_kernels,
    kernel_maps,
    noisy_copies,
    topography,
)
from keras_robust.attacks import PGD, AutoAttack
from keras_robust.attacks.repeated import accuracy_under_noise
from keras_robust.certification import SmoothedClassifier, certified_accuracy
from keras_robust.evaluation.metrics import DataFingerprint
from keras_robust.evaluation.noise import Gaussian
from keras_robust.evaluation.transfer import transfer_table
from keras_robust.experiments.figure import Line
from keras_robust.experiments.kap import Setting
from keras_robust.experiments.measures import attacked_and_noisy
from keras_robust.experiments.study import Measure
from keras_robust.files import write_atomically
from keras_robust.layers import GaussianNoise, noise_at_inference
from keras_robust.models import insert_noise
from keras_robust.prediction import Predictor
from keras_robust.training.recipe import Recipe

CLEAN_OF_ATTACKED = "clean, AutoAttack's images"
"""Clean accuracy on the images that AutoAttack sees, where the curves of it begin."""

KERNELS = "kernels.npz"
"""File of `sheet`: kernels of the first layer and their grid."""

MAPS = "maps.npz"
"""File of `shifts`: by layer, a kernel's activations on a clean, a noisy and an attacked image."""

CERTIFIED_SIGMAS = (0.05, 0.1, 0.2)
"""Noise of the certificates; the paper varies it and does not say how."""

RADII = tuple(round(0.05 * step, 2) for step in range(11))
"""L2 radii of the certified curve, in pixel units."""


def sweep(setting: Setting, *, data_dir: str | None = None) -> Measure:
    """Returns a measure: clean, noisy, PGD and AutoAttack, with each of its attacks, at every radius."""
    common: dict[str, Any] = {"seed": setting.seed, "data_dir": data_dir}
    pgd = [PGD("L2", epsilon, steps=setting.pgd_steps) for epsilon in setting.epsilons]
    broad = attacked_and_noisy(attacks=pgd, noise=[Gaussian(0.1)], images=10 * setting.images, **common)
    automatic = [AutoAttack("L2", epsilon) for epsilon in setting.autoattack_epsilons]
    deep = attacked_and_noisy(attacks=automatic, images=setting.images, **common)

    def measure(model: keras.Model, recipe: Recipe, folder: Path) -> Mapping[str, float]:
        found = deep(model, recipe, folder / "autoattack")
        clean = {CLEAN_OF_ATTACKED: found["clean"]}
        attacked = {name: value for name, value in found.items() if name.startswith("AutoAttack")}
        return {**broad(model, recipe, folder), **clean, **attacked}

    return measure


def robustness_lines(
    results: Mapping[str, Any], names: Mapping[str, str], attack: str = "AutoAttack"
) -> list[Line]:
    """Returns accuracy against epsilon, from the clean accuracy on the same images on.

    Args:
        results: What `run_study` returned for the measure `sweep`.
        names: Label of each line by the name of its row.
        attack: `"AutoAttack"` or `"PGD"`.

    Returns:
        Lines with the sample deviation of the trials, or the 95 % interval over the images of a single one.
    """
    setting = results["setting"]
    images = setting["autoattack_images" if attack == "AutoAttack" else "other_images"]
    first = CLEAN_OF_ATTACKED if attack == "AutoAttack" else "clean"
    epsilons = setting["autoattack_epsilons" if attack == "AutoAttack" else "epsilons"]
    keys = [first, *(f"{attack} L2 {epsilon:.4g}" for epsilon in epsilons)]
    by_name = {each["name"]: each["values"] for each in results["rows"]}
    lines = []
    for name, label in names.items():
        found = [by_name[name][key] for key in keys]
        means = np.array([each["mean"] for each in found])
        half = [each["deviation"] for each in found]
        if half[0] is None:
            half = list(1.96 * np.sqrt(means * (1 - means) / images))
        lines.append(Line(label, [0.0, *epsilons], list(means), half))
    return lines


def sweep_columns(setting: Setting) -> Sequence[str]:
    """Returns the numbers of a sweep that a table shows: clean, noisy, PGD, and AutoAttack attack by attack."""
    names = [f"PGD L2 {epsilon:.4g}" for epsilon in setting.epsilons]
    for epsilon in setting.autoattack_epsilons:
        automatic = f"AutoAttack L2 {epsilon:.4g}"
        names += [*(f"{automatic} after {stage}" for stage in ("apgd-ce", "apgd-t", "fab-t")), automatic]
    return ["clean", "gaussian noise 0.1", *names]


def sheet(model: keras.Model, recipe: Recipe, folder: Path) -> Mapping[str, float]:
    """Measures the topography of the first layer, and keeps its kernels and grid in `folder` for a figure.

    A measure for `run_study`: `neighbours` and `all pairs` are mean correlations, `p` belongs to their difference.
    """
    kernels, grid = first_kernels(model)
    write_atomically(folder / KERNELS, lambda file: np.savez(file, kernels=kernels, grid=np.array(grid)))
    found = topography(kernels, grid)
    return {"neighbours": found.neighbours, "all pairs": found.all_pairs, "p": found.p_value}


def table_of_attacks(setting: Setting, *, data_dir: str | None = None) -> Measure:
    """Returns a measure: clean, noisy, PGD, AutoAttack, and each of its attacks alone (Tables 1 and 3)."""
    common: dict[str, Any] = {"seed": setting.seed, "data_dir": data_dir, "images": setting.images}
    attacks: list[Any] = []
    for epsilon in (*setting.more_epsilons, setting.epsilon):
        # Table A1: 100 steps of 4 / 255; fewer need longer ones to reach the edge of the ball.
        length = 4 / 255 if setting.pgd_steps == 100 else None
        attacks.append(PGD("L2", epsilon, steps=setting.pgd_steps, step_size=length))
        attacks.append(AutoAttack("L2", epsilon))
    return attacked_and_noisy(attacks=attacks, noise=[Gaussian(0.1)], stages_alone=setting.images, **common)


def table_columns(setting: Setting) -> list[str]:
    """Returns the numbers of `table_of_attacks` that a table shows; those of the paper are among them."""
    names = ["clean"]
    for epsilon in (*setting.more_epsilons, setting.epsilon):
        automatic = f"AutoAttack L2 {epsilon:.4g}"
        alone = [f"{automatic}, {stage} alone" for stage in ("apgd-ce", "apgd-t", "fab-t", "square")]
        names += [f"PGD L2 {epsilon:.4g}", *alone, automatic]
    return names


def noise_at_test(setting: Setting, *, sigma: float = 0.1, data_dir: str | None = None) -> Measure:
    """Returns a measure: AutoAttack's images, made without noise, classified with noise switched on (Table 2).

    Networks without noise layers get them where the others have them, with their weights kept.

    Args:
        setting: Its images and its `epsilon`.
        sigma: Standard deviation of the noise at test, in pixel units.
        data_dir: Folder of TensorFlow Datasets.

    Returns:
        A measure of `clean`, `none`, `input`, `activation` and `both`.
    """

    def measure(model: keras.Model, recipe: Recipe, folder: Path) -> Mapping[str, float]:
        x, y = _first_images(recipe, setting.images, data_dir)
        state = folder / "autoattack.partial"
        folder.mkdir(parents=True, exist_ok=True)
        result = AutoAttack("L2", setting.epsilon).run(model, x, y, seed=setting.seed, state_path=state)
        noisy = model
        if not any(isinstance(layer, GaussianNoise) for layer in model._flatten_layers()):
            noisy = insert_noise(model, sigma, seed=setting.seed)
        for layer in noisy._flatten_layers():
            if isinstance(layer, GaussianNoise):
                layer.sigma.assign(sigma)
        found = accuracy_under_noise(noisy, result.x_adv, y, switch=noise_at_inference)
        state.unlink(missing_ok=True)
        return {"clean": result.clean_accuracy, **{name: each.mean for name, each in found.items()}}

    return measure


def certified(setting: Setting, *, n: int, images: int, data_dir: str | None = None) -> Measure:
    """Returns a measure: certified accuracy at each of `RADII` for each of `CERTIFIED_SIGMAS` (Figure 6).

    Args:
        setting: Its seed.
        n: Noisy copies of each image.
        images: First test images.
        data_dir: Folder of TensorFlow Datasets.

    Returns:
        A measure of `sigma <sigma>, radius <radius>`, with confidence 0.999.
    """

    def measure(model: keras.Model, recipe: Recipe, folder: Path) -> Mapping[str, float]:
        x, y = _first_images(recipe, images, data_dir)
        values: dict[str, float] = {}
        for sigma in CERTIFIED_SIGMAS:
            smoothed = SmoothedClassifier(model, sigma, int(model.output_shape[-1]))
            state = folder / f"certificates_sigma{sigma:g}.json"
            found = smoothed.certify(x, n=n, seed=setting.seed, output=state)
            accuracy = certified_accuracy(found, y, RADII)
            values |= {
                f"sigma {sigma:g}, radius {radius:g}": float(value)
                for radius, value in zip(RADII, accuracy, strict=True)
            }
        return values

    return measure


def shifts(setting: Setting, *, copies: int, sigma: float = 0.1, data_dir: str | None = None) -> Measure:
    """Returns a measure: how far noise and AutoAttack move each layer's activations (Figures A3 and A4).

    Figure A3: L2 distance, one image perturbed `copies` times, the first of a random order that the network
    classifies correctly. Figure A4: distance over the clean norm, over those of the first test images that it
    classifies correctly. The paper does not state its noise.

    Args:
        setting: Its images and its `epsilon`.
        copies: Perturbed copies of the one image; the paper has 100.
        sigma: Standard deviation of the noise, in pixel units.
        data_dir: Folder of TensorFlow Datasets.

    Returns:
        A measure of `<noise or attack>, <layer>` (mean and, with ` sd`, deviation) and `relative <...>`.
    """

    def measure(model: keras.Model, recipe: Recipe, folder: Path) -> Mapping[str, float]:
        attack = AutoAttack("L2", setting.epsilon)
        x, y = _first_images(recipe, setting.images, data_dir)
        right = np.flatnonzero(Predictor.of(model).predict(x).argmax(-1) == y)
        if not len(right):
            raise ValueError(
                "The activation shift starts from images that the network classifies correctly. "
                f"Received: none among the first {len(x)} of {recipe.name}. Train it longer, or take more images."
            )
        one = np.random.default_rng(setting.seed).permutation(right)[:1]
        perturbed = {
            "noise": noisy_copies(x[one], sigma, count=copies, seed=setting.seed),
            "attack": attacked_copies(model, x[one], y[one], attack, count=copies, seed=setting.seed),
        }
        values: dict[str, float] = {}
        for kind, images in perturbed.items():
            for shift in activation_shift(model, x[one], images):
                values[f"{kind}, {shift.layer}"] = float(shift.distance.mean())
                values[f"{kind}, {shift.layer} sd"] = float(shift.distance.std())
        shown = np.concatenate([x[one], *(images[:1] for images in perturbed.values())])
        maps: dict[str, Any] = kernel_maps(model, shown, seed=setting.seed)
        write_atomically(folder / MAPS, lambda file: np.savez(file, **maps))
        every = {
            "noise": Gaussian(sigma)(x[right], seed=setting.seed),
            "attack": attack(model, x[right], y[right], seed=setting.seed),
        }
        for kind, images in every.items():
            for shift in activation_shift(model, x[right], images):
                values[f"relative {kind}, {shift.layer}"] = float(shift.relative.mean())
                values[f"relative {kind}, {shift.layer} sd"] = float(shift.relative.std())
        return values

    return measure


def transfer_between(
    models: Mapping[str, keras.Model],
    recipe: Recipe,
    setting: Setting,
    folder: Path,
    *,
    data_dir: str | None = None,
) -> dict[str, Any]:
    """Returns the accuracy of every model on AutoAttack's images of every model (Table A3).

    Args:
        models: Keras models that return logits, by name.
        recipe: Recipe of one of them, for the data set.
        setting: Its images and its `epsilon`.
        folder: Keeps the crafted images, so that a run that was killed goes on.
        data_dir: Folder of TensorFlow Datasets.

    Returns:
        What `keras_robust.evaluation.transfer.transfer_table` returns.
    """
    x, y = _first_images(recipe, setting.images, data_dir)
    data = DataFingerprint.of(x, y, dataset=recipe.dataset.name)
    attack: Any = AutoAttack("L2", setting.epsilon)  # called, it is one attack among others
    return transfer_table(models, attack, x, y, data=data, seed=setting.seed, state=folder / "crafted.partial")


def transfer_rows(
    study: Mapping[str, Any], table: Mapping[str, Any], paper: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Returns the results of a study with the numbers of a transfer table in its rows, a row a target.

    Args:
        study: What `run_study` returned for the models.
        table: What `transfer_between` returned for them.
        paper: The paper's numbers in per cent, by target and source.

    Returns:
        Results for `write_results`, with the numbers `images of <source>`.
    """

    def number(value):
        return {"mean": value, "deviation": None, "trials": [value]}

    rows = []
    for row in study["rows"]:
        name = row["name"]
        values = {f"images of {source}": number(found[name]) for source, found in table["accuracy"].items()}
        given = {f"images of {source}": value / 100 for source, value in paper.get(name, {}).items()}
        rows.append({**row, "values": {"clean": number(table["clean"][name]), **values}, "paper": given})
    return {**study, "rows": rows, "attack": table["attack"], "data": table["data"]}


def _first_images(recipe: Recipe, count: int, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    test = datasets.load(recipe.dataset.name, data_dir=data_dir).test
    return test.take(min(count, len(test)))
