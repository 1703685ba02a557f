"""From a recipe to trained weights: the one way in which the entries of the zoo are made."""

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_robust import datasets, models, zoo
from keras_robust.datasets import Dataset, Split
from keras_robust.evaluation.metrics import Environment
from keras_robust.feed import make_stages, steps_left, validation_batches
from keras_robust.files import write_atomically
from keras_robust.layers import GaussianNoise
from keras_robust.models.policy import dtype_policy
from keras_robust.models.rebuild import at_any_size
from keras_robust.training import parts
from keras_robust.training.checkpoint import load_state, read_facts, read_kept
from keras_robust.training.early_stopping import RobustEarlyStopping
from keras_robust.training.optimizers import SGD, Adam
from keras_robust.training.progress import Checkpoint, ProgressBar
from keras_robust.training.recipe import Recipe, load_recipe, parse_recipe
from keras_robust.training.schedules import Interpolated, PiecewiseConstant, Triangle
from keras_robust.training.tables import GaussianNoiseTable, KernelType
from keras_robust.training.trainer import RobustTrainer
from keras_robust.training.weights_file import store_weights
from keras_robust.zoo import hub, registry

WEIGHTS, LOG, STATE = "model.weights.h5", "training_log.json", "training_state.partial"
_STATISTICS_IMAGES = 10_000  # first training images, for `batch_statistics`


def train(
    recipe: str | Path | Recipe,
    *,
    data_dir: str | Path | None = None,
    output_dir: str | Path | None = None,
    resume: bool = True,
    epochs: int | None = None,
    overwrite: bool = False,
) -> keras.Model:
    """Trains the model of a recipe and writes `model.weights.h5` and `training_log.json`.

    The state of the training is saved after each epoch, and a run that was killed goes on from there to the
    weights that an unbroken run would have reached. Results appear when they are complete, and not before.

    Args:
        recipe: A recipe, its file, or the folder of a zoo entry.
        data_dir: Folder of TensorFlow Datasets; by default TFDS_DATA_DIR, then ~/tensorflow_datasets.
        output_dir: Where results go; by default beside the recipe's file.
        resume: Whether to go on from the state of an earlier, unfinished run.
        epochs: Trains for so many epochs instead of the recipe's, to try things out. Milestones keep their share.
        overwrite: Whether to train again where results are there already.

    Returns:
        The trained model, which maps pixels in [0, 1] to logits, in float32 whatever precision it was trained in.

    Raises:
        ValueError: If the recipe, the model or the data set is not there or not valid, the weights to start from
            are not there, not the stated ones or of another architecture, finished results would be overwritten,
            or the unfinished run belongs to another recipe or backend.
    """
    recipe, output = _recipe_and_output(recipe, output_dir)
    if epochs is not None:
        recipe = with_epochs(recipe, epochs)
    _refuse_to_overwrite(output, overwrite)
    run = {"recipe_digest": recipe.digest(), "backend": keras.backend.backend()}
    earlier = _earlier_run(output, run) if resume else None
    model = build_model(recipe, recipe.training.precision)
    _refuse_noise_twice(recipe, model)
    _refuse_statistics_of_nothing(recipe, model)
    if earlier is None:
        _put_in_initial_weights(recipe, model)
    perturbations = parts.make_perturbations(recipe, model.input_shape[1:])
    objective = parts.make_objective(recipe)
    data = load_data(recipe, data_dir)
    stages = make_stages(recipe, data.train, data_dir)
    steps = [len(stage.batches) for stage in stages]
    # Phases change the size of the images; the weights fit every size.
    trained = at_any_size(model) if recipe.phases else model
    early_stopping = _early_stopping(recipe, data.validation)
    trainer = RobustTrainer(
        trained,
        perturbations=perturbations,
        objective=objective,
        terms=parts.make_terms(recipe, trained),
        weight_perturbation=parts.make_weight_perturbation(recipe, steps),
        seed=recipe.seed,
    )
    trainer.compile(
        optimizer=make_optimizer(recipe, steps),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    output.mkdir(parents=True, exist_ok=True)
    if earlier is not None:
        load_state(output / STATE, trainer)
        if early_stopping is not None:
            early_stopping.restore(read_kept(output / STATE))
    first_epoch, history = (earlier["epoch"], earlier["history"]) if earlier else (0, [])
    checkpoint = Checkpoint(output / STATE, run, history, early_stopping.state if early_stopping else dict)
    progress = ProgressBar(recipe.training.epochs, steps_left(stages, first_epoch), first_epoch)
    try:
        for stage in stages:
            if first_epoch >= stage.last:
                continue
            # Compiled anew: TensorFlow would trace images of another size with a size that is not known.
            trainer.train_function = None
            trainer.fit(
                stage.batches,
                epochs=stage.last,
                initial_epoch=max(stage.first, first_epoch),
                shuffle=False,
                validation_data=validation_batches(data.validation),
                callbacks=[
                    stage.batches.follow_epochs(),
                    *([] if early_stopping is None else [early_stopping]),  # before the checkpoint, which saves it
                    checkpoint,
                    progress,
                ],
                verbose=0,
            )
    finally:
        progress.close()
    if early_stopping is not None:
        early_stopping.put_back(trained)  # a run that was resumed after its last epoch did not fit
    if trained is not model or recipe.training.precision != "float32":
        model = build_model(recipe)
        model.set_weights(trained.get_weights())
    if recipe.training.batch_statistics == "clean":
        model = _with_clean_statistics(recipe, model, data.train)
    log = {
        "recipe": recipe.name,
        "recipe_digest": recipe.digest(),
        "seed": recipe.seed,
        "epochs": recipe.training.epochs,
        "seconds": round(sum(each["seconds"] for each in checkpoint.history), 1),
        "data": {"dataset": data.name, "split": "train", **data.train.fingerprint()},
        "environment": Environment.here().model_dump(),
        "history": checkpoint.history,
    }
    if early_stopping is not None:
        log["kept_epoch"] = early_stopping.best_epoch
    write_atomically(output / LOG, lambda file: file.write((json.dumps(log, indent=1) + "\n").encode()))
    _save_weights(model, output / WEIGHTS, recipe.training.weights)
    (output / STATE).unlink()
    return model


def _recipe_and_output(recipe: str | Path | Recipe, output_dir: str | Path | None) -> tuple[Recipe, Path]:
    if isinstance(recipe, Recipe):
        if output_dir is None:
            raise ValueError(
                "`output_dir` must be given for a recipe that is no file. Received: output_dir=None for "
                f"{recipe.name}. Pass the folder where its weights shall go."
            )
        return recipe, Path(output_dir)
    path = Path(recipe)
    folder = path if path.is_dir() else path.parent
    return load_recipe(path), Path(output_dir) if output_dir is not None else folder


def build_model(recipe: Recipe, precision: str = "float32") -> keras.Model:
    """Builds the untrained model of a recipe.

    Args:
        recipe: The recipe; `model.arguments` may hold a `seed`, else the recipe's is taken.
        precision: Keras's name of the policy of its layers, whatever Keras itself is set to.

    Returns:
        Model from pixels in [0, 1] to logits.

    Raises:
        ValueError: If the data set, the builder or an argument is unknown or out of range.
    """
    facts = datasets.info(recipe.dataset.name)
    arguments = {"seed": recipe.seed, **recipe.model.arguments}
    with dtype_policy(precision):
        return models.build(recipe.model.builder, facts.num_classes, facts.input_shape, **arguments)


def load_data(recipe: Recipe, data_dir: str | Path | None = None) -> Dataset:
    """Reads the data set of a recipe, with its part held out for validation.

    Args:
        recipe: The recipe.
        data_dir: Folder of TensorFlow Datasets; by default TFDS_DATA_DIR, then ~/tensorflow_datasets.

    Returns:
        The data set.

    Raises:
        ValueError: If the data set is unknown or absent.
    """
    fraction, count = recipe.dataset.validation_fraction, recipe.dataset.images
    data = datasets.load(recipe.dataset.name, data_dir=data_dir, validation_fraction=fraction, seed=recipe.seed)
    if count is None:
        return data
    if count > len(data.train):
        raise ValueError(
            f"`dataset.images` must be at most the training images of {data.name}, {len(data.train)}. "
            f"Received: dataset.images={count}."
        )
    return dataclasses.replace(data, train=data.train.subset(np.arange(count)))


def make_optimizer(recipe: Recipe, steps_per_epoch: Sequence[int]) -> keras.optimizers.Optimizer:
    """Returns the optimizer of a recipe, its schedule turned from epochs to steps.

    Args:
        recipe: The recipe.
        steps_per_epoch: Batches of an epoch, for each of its phases; one number where it has none.

    Returns:
        A Keras optimizer.
    """
    table, schedule = recipe.optimizer, recipe.schedule
    steps = recipe.training.epochs * steps_per_epoch[0]
    rate: Any = table.learning_rate
    if recipe.phases:
        rate = _rate_of_phases(recipe, steps_per_epoch)
    elif schedule.type == "piecewise":
        rate = PiecewiseConstant(rate, [m * steps_per_epoch[0] for m in schedule.milestones], schedule.factor)
    elif schedule.type == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    elif schedule.type == "cyclic":
        rate = Triangle(rate, max(1, round(schedule.peak * steps)), steps)
    clip: dict[str, Any] = {"global_clipnorm": table.max_gradient_norm}
    if table.name == "adam":
        return Adam(rate, weight_decay=table.weight_decay, **clip)
    return SGD(rate, table.momentum, table.nesterov, table.weight_decay, **clip)


def _rate_of_phases(recipe: Recipe, steps_per_epoch: Sequence[int]) -> Interpolated:
    steps, rates, first = [], [], 0
    for phase, count in zip(recipe.phases, steps_per_epoch, strict=True):
        values = phase.learning_rate or [recipe.optimizer.learning_rate] * 2
        rates += values
        steps += [first + each * count for each in phase.at_epochs or (0, phase.epochs)]
        first += phase.epochs * count
    return Interpolated(steps, rates)


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """Returns a recipe of another length, its milestones and phases at the same share of it.

    Args:
        recipe: The recipe.
        epochs: New number of epochs.

    Returns:
        The recipe, checked anew.

    Raises:
        ValueError: If `epochs` is not a positive integer.
    """
    content = recipe.model_dump()
    ratio = epochs / recipe.training.epochs if isinstance(epochs, int) else 1
    moved = sorted({round(milestone * ratio) for milestone in recipe.schedule.milestones} - {0})
    moved = [milestone for milestone in moved if milestone < epochs]
    content["training"]["epochs"] = epochs
    content["schedule"]["milestones"] = moved
    if recipe.weight_perturbation is not None and isinstance(epochs, int):
        warmup = round(recipe.weight_perturbation.warmup_epochs * ratio)
        content["weight_perturbation"]["warmup_epochs"] = min(warmup, max(epochs - 1, 0))
    if recipe.phases and ratio != 1:
        ends = np.rint(ratio * np.cumsum([phase.epochs for phase in recipe.phases])).astype(int)
        lengths = np.diff(ends, prepend=0).tolist()
        content["phases"] = [
            # Rounding may leave a phase out; epochs within the others keep their share.
            phase | {"epochs": length, "at_epochs": _scaled(phase["at_epochs"], length)}
            for phase, length in zip(content["phases"], lengths, strict=True)
            if length
        ]
    if recipe.schedule.milestones and not moved:
        content["schedule"]["type"] = "constant"
    return parse_recipe(content, source=f"{recipe.name}, epochs={epochs}")


def _scaled(at_epochs: list[float] | None, length: int) -> list[float] | None:
    return None if at_epochs is None else [each * length / at_epochs[-1] for each in at_epochs]


def _refuse_noise_twice(recipe: Recipe, model: keras.Model) -> None:
    noisy = [layer.name for layer in model._flatten_layers() if isinstance(layer, GaussianNoise)]
    if noisy and any(isinstance(table, GaussianNoiseTable) for table in recipe.perturbations):
        raise ValueError(
            f"Recipe '{recipe.name}' must add noise in one place. Received: [[perturbations]] of type "
            f"'gaussian_noise' and a model with noise layers ({', '.join(noisy)}). Remove one: the model's "
            "`sigma` is input and activation noise, the perturbation is input noise alone."
        )


def _refuse_statistics_of_nothing(recipe: Recipe, model: keras.Model) -> None:
    normalized = any(isinstance(layer, keras.layers.BatchNormalization) for layer in model._flatten_layers())
    if recipe.training.batch_statistics != "running" and not normalized:
        raise ValueError(
            f"Recipe '{recipe.name}' asks for other statistics of batch normalization, which "
            f"'{recipe.model.builder}' does not have. Received: training.batch_statistics = "
            f"{recipe.training.batch_statistics!r}. Remove it."
        )


def _put_in_initial_weights(recipe: Recipe, model: keras.Model) -> None:
    table = recipe.model.initial_weights
    if table is None:
        return
    if table.entry.startswith(hub.SCHEME):
        source = zoo.load(table.entry, sha256=table.sha256)
    else:
        stored = zoo.Entry.load(registry.find(table.entry)).weights.sha256
        if stored != table.sha256:
            raise ValueError(
                f"`model.initial_weights` of {recipe.name} must be the weights that it names, SHA-256 "
                f"{table.sha256}. Received: those of '{table.entry}' are {stored}. Restore that entry, or state "
                "the new digest, which makes it another recipe."
            )
        source = zoo.load(table.entry)
    start, weights = _learned(source), _learned(model)
    if [v.shape for v in start] != [v.shape for v in weights]:
        raise ValueError(
            f"`model.initial_weights` of {recipe.name} must fit the model that it builds, "
            f"'{recipe.model.builder}' with {len(weights)} arrays. Received: '{table.entry}' with {len(start)} "
            "arrays, or of other shapes. Name an entry of the same architecture and number of classes."
        )
    for variable, value in zip(weights, start, strict=True):
        variable.assign(keras.ops.convert_to_numpy(value))


def _learned(model: keras.Model) -> list[keras.Variable]:
    """Weights without those of noise layers: the recipe says how much noise there is."""
    noise = [layer for layer in model._flatten_layers() if isinstance(layer, GaussianNoise)]
    given = {id(variable) for layer in noise for variable in layer.weights}
    return [variable for variable in model.weights if id(variable) not in given]


def _with_clean_statistics(recipe: Recipe, model: keras.Model, split: Split) -> keras.Model:
    size = min(recipe.training.batch_size, len(split))
    last = min(_STATISTICS_IMAGES, len(split)) - size + 1
    return models.recalibrate(model, (split.images(slice(start, start + size)) for start in range(0, last, size)))


def _early_stopping(recipe: Recipe, split: Split | None) -> RobustEarlyStopping | None:
    return None if split is None else parts.make_early_stopping(recipe, split.images(), split.labels)


def _refuse_to_overwrite(output: Path, overwrite: bool) -> None:
    if (output / WEIGHTS).exists() and not overwrite:
        raise ValueError(
            f"{output / WEIGHTS} holds finished results, which training must not overwrite unasked. "
            "Received: overwrite=False. Pass overwrite=True (--overwrite), or another output_dir."
        )


def _earlier_run(output: Path, run: dict[str, str]) -> dict[str, Any] | None:
    """Facts of an unfinished run in that folder, or None; a run of something else is an error."""
    if not (output / STATE).exists():
        return None
    facts = read_facts(output / STATE)
    for key, value in run.items():
        if facts.get(key) != value:
            raise ValueError(
                f"{output / STATE} holds an unfinished training with another {key}. Received: {facts.get(key)!r}, "
                f"this run has {value!r}. Finish that run as it began, or delete the file, or pass resume=False."
            )
    return facts


def _save_weights(model: keras.Model, path: Path, kernels: KernelType) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".weights.", suffix=".partial") as folder:
        written = Path(folder) / WEIGHTS
        model.save_weights(written)
        stored = store_weights(written, Path(folder) / "stored.weights.h5", kernels=kernels)
        model.load_weights(stored)
        write_atomically(path, lambda file: file.write(stored.read_bytes()))
