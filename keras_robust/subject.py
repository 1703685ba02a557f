"""What `keras-robust evaluate` measures: a zoo entry, a freshly trained folder or a saved model, and how."""

import dataclasses
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np

from keras_robust import datasets, pipeline, zoo
from keras_robust.checks import check_choice
from keras_robust.evaluation.compare import differs
from keras_robust.evaluation.further import Certified, Corrupted
from keras_robust.evaluation.metrics import DataFingerprint, Kind, Metric, Metrics
from keras_robust.evaluation.noise import Gaussian, Uniform
from keras_robust.evaluation.protocol import attack_options, make_attacks, make_noise
from keras_robust.norms import NORMS
from keras_robust.training.recipe import EvaluationTable, Recipe, load_recipe
from keras_robust.zoo import registry
from keras_robust.zoo.entry import ENTRY, RECIPE, WEIGHTS, Entry, check_recipe, sha256

DEFAULT_IMAGES = 1000


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model to measure, not loaded yet.

    Args:
        name: Name for tables and folders.
        dataset: Data set whose test images it is measured on.
        path: Folder of the entry or of the training, or a `.keras` file.
        recipe: Its recipe; None for a `.keras` file.
        fresh: Whether the weights are taken as they are, without an `entry.json` that vouches for them.
    """

    name: str
    dataset: str
    path: Path
    recipe: Recipe | None
    fresh: bool

    def load(self) -> keras.Model:
        """Returns the model with its weights."""
        if self.recipe is None:
            return _load_keras_file(self.path)
        if not self.fresh:
            return zoo.load(self.path)
        model = pipeline.build_model(self.recipe)
        registry.load_weights(model, self.path / WEIGHTS, self.name)
        return model

    def check_trained(self) -> None:
        """Raises `ValueError` unless its folder holds weights, of its recipe as far as the training's log says."""
        if self.recipe is None:
            return
        if not (self.path / WEIGHTS).is_file():
            raise ValueError(
                f"{self.name} must be trained before it is measured: {self.path} holds no {WEIGHTS}. "
                f"Run `keras-robust train {self.path}`."
            )
        check_recipe(self.recipe, _training_facts(self.path))

    def stored(self) -> list[Metric]:
        """Returns the numbers that its `entry.json` holds of these weights; none where there is no such entry."""
        if self.recipe is None or not (self.path / ENTRY).is_file():
            return []
        entry, weights = Entry.load(self.path), self.path / WEIGHTS
        # Weights that are not here come from the cache, with that very digest, or not at all.
        return entry.metrics if not weights.is_file() or sha256(weights) == entry.weights.sha256 else []

    def test_images(
        self, count: int | None, data_dir: str | Path | None = None
    ) -> tuple[np.ndarray, np.ndarray, DataFingerprint]:
        """Returns the first test images, their labels and what they are.

        Args:
            count: Number of images; None for the recipe's, at most what there is.
            data_dir: Folder of TensorFlow Datasets.

        Returns:
            Images in [0, 1], shape `(count, height, width, channels)`, labels, shape `(count,)`, and fingerprint.

        Raises:
            ValueError: If the data set is absent or has fewer images.
        """
        test = datasets.load(self.dataset, data_dir=data_dir).test
        if count is None:
            count = min(self.recipe.evaluation.images if self.recipe else DEFAULT_IMAGES, len(test))
        x, y = test.take(count)
        return x, y, DataFingerprint.of_test(self.dataset, test.fingerprint(count))


def open_subject(text: str, *, dataset: str | None = None, fresh: bool = False) -> Subject:
    """Finds out what a text on the command line means, without loading anything heavy.

    Args:
        text: Name or folder of an entry, folder of a training, or a `.keras` file.
        dataset: Data set for a `.keras` file.
        fresh: Whether to take the weights as they are, because a new `entry.json` is to be written.

    Returns:
        The subject.

    Raises:
        ValueError: If nothing of that kind is there, or fresh weights come from another recipe.
    """
    if text.endswith(".keras"):
        if not Path(text).is_file():
            raise ValueError(f"A model file must exist. Received: {text!r}, which is absent.")
        if dataset is None or fresh:
            wanted = "an entry of the zoo for --update-entry" if fresh else "--dataset, such as --dataset digits"
            raise ValueError(f"A model file has no recipe: it needs {wanted}. Received: {text!r}.")
        datasets.info(dataset)
        return Subject(Path(text).stem, dataset, Path(text), None, fresh=False)
    folder = _folder(text)
    recipe = load_recipe(folder)
    if dataset not in (None, recipe.dataset.name):
        raise ValueError(
            f"`--dataset` of {recipe.name} must be {recipe.dataset.name!r}, its recipe's. Received: {dataset!r}."
        )
    fresh = fresh or not (folder / ENTRY).is_file()
    subject = Subject(recipe.name, recipe.dataset.name, folder, recipe, fresh)
    if fresh:
        subject.check_trained()
    return subject


def _folder(text: str) -> Path:
    known = registry.folders(RECIPE)
    if text in known and text not in registry.folders(ENTRY):
        return known[text]
    return registry.find(text)


def _load_keras_file(path: Path) -> keras.Model:
    try:
        return keras.saving.load_model(path, compile=False)
    except TypeError as error:  # its message holds the whole configuration
        unknown = re.search(r"Could not locate \w+ '[^']*'", str(error))
        raise ValueError(
            f"Every class in a model file must be one that Keras knows. Received: {path}: "
            f"{unknown[0] if unknown else str(error).partition('. ')[0]}. Decorate your class with "
            "@keras.saving.register_keras_serializable(), save the model again, and import the class's module "
            "first: python -c 'import your_module; from keras_robust.cli import main; main()' evaluate ..."
        ) from error


PARTS: dict[str, tuple[Kind, ...]] = {
    "attacks": ("attack", "worst_case"),
    "noise": ("gaussian_noise", "uniform_noise"),
    "certified": ("certified",),
    "corruptions": ("corruption",),
}
"""Parts of a protocol, and the kinds of numbers that each gives."""


def check_stored(stored: list[Metric], data: DataFingerprint, seed: int) -> None:
    """Raises `ValueError` unless new numbers of these images and this seed may stand beside the stored ones."""
    held = [(metric.data, metric.seed) for metric in stored if metric.kind == "clean"]
    if held != [(data, seed)]:
        received = ", ".join(f"numbers of {each.count} images, seed {of_seed}" for each, of_seed in held) or "none"
        raise ValueError(
            "With `--only` and `--update-entry`, entry.json must hold numbers of these weights, of the same "
            f"{data.count} images and seed {seed}. Received: {received}. Leave out --only: measure everything."
        )


def check_whole_record(stored: list[Metric], **options: Any) -> None:
    """Raises `ValueError` if options of another protocol than the recipe's would replace stored numbers.

    Args:
        stored: Numbers that the `entry.json` of these weights holds.
        **options: Options of the command line that change the protocol; None where they were not given.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if stored and given:
        raise ValueError(
            f"`--update-entry` puts numbers of the recipe's own protocol in the place of the {len(stored)} that "
            f"entry.json holds. Received: {', '.join(given)} beside --update-entry. Write it into [evaluation] of "
            "recipe.toml, or leave out --update-entry."
        )


def beside_stored(metrics: Metrics, stored: list[Metric], parts: Collection[str]) -> Metrics:
    """Puts new numbers of some parts of a protocol in the place of the stored ones, and keeps the others.

    Args:
        metrics: Numbers measured now; the clean accuracy among them only shows that it is the same model.
        stored: Numbers that the `entry.json` of these weights holds.
        parts: Parts that were measured now, among `PARTS`.

    Returns:
        All numbers, in the order of a whole evaluation.

    Raises:
        ValueError: If the stored numbers are of other images, of another seed or of another model.
    """
    check_stored(stored, metrics.clean.data, metrics.clean.seed)
    clean = next(metric for metric in stored if metric.kind == "clean")
    if differs(metrics.clean, clean):
        raise ValueError(
            f"With `--only`, the clean accuracy must be the stored one, {clean.value:.2%}. "
            f"Received: {metrics.clean.value:.2%}. Leave out --only: measure the whole protocol."
        )
    kinds = {kind for part in parts for kind in PARTS[part]}
    new = [metric for metric in metrics.metrics if metric.kind in kinds]
    kept = [metric for metric in stored if metric.kind not in kinds]
    order = get_args(Kind)
    return Metrics(metrics=sorted([*kept, *new], key=lambda metric: order.index(metric.kind)))


def update_entry(subject: Subject, model: keras.Model, images: np.ndarray, metrics: Metrics) -> zoo.Entry:
    """Writes `entry.json`, `card.md` and `probe.npz` of a measured folder.

    Args:
        subject: What was measured.
        model: The loaded model.
        images: Images that it was measured on, the first of which make the probe.
        metrics: The numbers.

    Returns:
        The entry.
    """
    return zoo.make_entry(
        subject.path,
        model=model,
        images=images,
        num_classes=datasets.info(subject.dataset).num_classes,
        metrics=metrics,
        log=_training_facts(subject.path),
    )


def _training_facts(folder: Path) -> dict[str, Any]:
    """Software, data and seconds of the training; the history of its epochs stays in the log."""
    path = folder / pipeline.LOG
    if not path.is_file():
        return {}
    log = json.loads(path.read_text(encoding="utf-8"))
    kept = ("recipe_digest", "seconds", "data", "environment", "kernels_rounded")
    return {key: log[key] for key in kept if key in log}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Attacks and noise of one evaluation, from a recipe and what the command line changes.

    Args:
        attacks: Attacks with their options.
        noise: Noise with its levels.
        images: Number of images; None for the recipe's.
        attack_images: First images on which the attacks run; None for all.
        stages_alone: First images on which each attack of AutoAttack runs alone too.
        further: Certified accuracy, accuracy under corruptions.
    """

    attacks: list[Any]
    noise: list[Gaussian | Uniform]
    images: int | None = None
    attack_images: int | None = None
    stages_alone: int = 0
    further: list[Certified | Corrupted] = dataclasses.field(default_factory=list)

    @classmethod
    def of(
        cls,
        table: EvaluationTable | None,
        *,
        attacks: list[str] | None = None,
        norm: str | None = None,
        epsilons: list[float] | None = None,
        steps: int | None = None,
        noise: dict[str, list[float]] | None = None,
        images: int | None = None,
        attack_images: int | None = None,
        stages_alone: int | None = None,
        only: list[str] | None = None,
    ) -> "Protocol":
        """Builds the protocol; None always means: as the recipe says.

        What the recipe certifies and corrupts belongs to its whole protocol: it is left out where the attacks or
        the noise are given. `only` names the parts of the recipe's protocol that are measured, among `PARTS`. A
        norm without radii leaves the recipe's attacks of that norm.

        Raises:
            ValueError: If an attack, option or part is unknown or out of range, or no radius is known.
        """
        table = table or EvaluationTable.model_validate({})
        for part in only or ():
            check_choice("only", part, tuple(PARTS))
        given = {"attacks": attacks, "norm": norm, "epsilon": epsilons, "steps": steps, "noise": noise}
        own = [f"--{option}" for option, value in given.items() if value is not None]
        if only is not None and own:
            raise ValueError(
                "`--only` chooses among the parts of the recipe's protocol; attacks and noise of one's own are "
                f"another protocol. Received: only={','.join(only)!r} beside {', '.join(own)}. Leave one of them "
                "out."
            )
        check_choice("norm", norm, (None, *NORMS))
        rows = [row.model_dump() for row in table.attacks]
        if attacks is not None:
            rows = [_row(name.strip().lower(), rows, norm, epsilons) for name in attacks]
        elif norm is not None and epsilons is None:
            # A radius of one norm means nothing in another.
            rows = [row for row in rows if row["norm"] == norm]
            if not rows:
                raise _no_radius("An attack", norm)
        made = []
        for options in rows:
            name = options.pop("name")
            changes: dict[str, Any] = {"norm": None if norm == options["norm"] else norm, "epsilon": epsilons}
            changes["steps"] = steps if "steps" in attack_options(name) else None
            changes = {option: value for option, value in changes.items() if value is not None}
            # A step fitted to one radius and number of steps is wrong for others: back to the attack's default.
            changes |= {"step_size": None} if changes else {}
            made += make_attacks(name, **options | changes)
        levels = [(each.type, each.levels) for each in table.noise] if noise is None else noise.items()
        attacked = table.attack_images if attack_images is None else attack_images
        alone = table.stages_alone if stages_alone is None else stages_alone
        whole = attacks is None and noise is None
        certified = [Certified(**row.model_dump()) for row in table.certified if whole]
        corrupted = [Corrupted] if table.corruptions and whole else []
        noises = [each for kind, found in levels for each in make_noise(kind, found)]
        found = {"attacks": made, "noise": noises, "certified": certified, "corruptions": corrupted}
        if absent := [part for part in only or () if not found[part]]:
            raise ValueError(
                f"`--only` must name parts that the recipe's protocol has: {', '.join(filter(found.get, found))}. "
                f"Received: {', '.join(absent)}. Add them to the recipe's [evaluation], or leave out --only."
            )
        made, noises, certified, corrupted = (
            each if only is None or part in only else [] for part, each in found.items()
        )
        # Made here alone: it asks for a library that the other parts do without.
        further: list[Certified | Corrupted] = [*certified, *(each() for each in corrupted)]
        return cls(made, noises, images, attacked, alone, further)


def _row(name: str, rows: list[dict[str, Any]], norm: str | None, epsilons: list[float] | None) -> dict[str, Any]:
    """The recipe's options for that attack, or its norm and radii for another attack."""
    attack_options(name)  # an unknown name is an error before a missing radius is
    fitting = [row for row in rows if norm in (None, row["norm"])]
    for row in fitting:
        if row["name"] == name:
            return dict(row)
    if fitting:
        return {"name": name, "norm": fitting[0]["norm"], "epsilon": fitting[0]["epsilon"]}
    if epsilons is None:
        raise _no_radius(f"Attack '{name}'", norm or "Linf")
    return {"name": name, "norm": norm or "Linf", "epsilon": epsilons}


def _no_radius(what: str, norm: str) -> ValueError:
    return ValueError(
        f"{what} needs a radius: there is none in a recipe for norm {norm}. "
        "Received: no epsilon. Add one, such as --epsilon 8/255 (Linf) or --epsilon 0.5 (L2)."
    )
