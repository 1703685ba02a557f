"""From a recipe and a data set to the batches that `fit` trains and validates on."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_robust import datasets
from keras_robust.augmentations import AugMix, AutoAugment, Chain, CropFlip, RandomResizedCrop
from keras_robust.datasets import Pictures, Split
from keras_robust.training import parts
from keras_robust.training.batches import AnyBatches, Batches, MixedBatches, ReplayedBatches
from keras_robust.training.objectives import VIEWS
from keras_robust.training.recipe import Recipe
from keras_robust.training.tables import ExtraDataTable, FreeAdversarialTable

_AHEAD = 2  # batches that are decoded, or changed picture by picture, in advance


@dataclasses.dataclass(frozen=True)
class Stage:
    """Epochs that are trained on the same batches: a phase of the recipe, or the whole training.

    Args:
        first: Epochs before it.
        last: Epochs when it is over.
        batches: What it trains on.
    """

    first: int
    last: int
    batches: AnyBatches


def make_stages(recipe: Recipe, split: Split, data_dir: str | Path | None = None) -> list[Stage]:
    """Returns the stages of a training, one for each phase of the recipe.

    Args:
        recipe: The recipe.
        split: Images to train on.
        data_dir: Folder of TensorFlow Datasets, which holds the extra images as well.

    Returns:
        The stages, in order.

    Raises:
        ValueError: As `make_batches`.
    """
    if not recipe.phases:
        return [Stage(0, recipe.training.epochs, make_batches(recipe, split, data_dir))]
    stages, first = [], 0
    for phase in recipe.phases:
        training = recipe.training.model_copy(
            update={"batch_size": phase.batch_size or recipe.training.batch_size}
        )
        size = phase.image_size or recipe.augmentation.random_resized_crop
        changed = recipe.augmentation.model_copy(update={"random_resized_crop": size})
        batches = make_batches(recipe.model_copy(update={"training": training, "augmentation": changed}), split)
        stages.append(Stage(first, first + phase.epochs, batches))
        first += phase.epochs
    return stages


def steps_left(stages: Sequence[Stage], epoch: int) -> int:
    """Returns the batches of the epochs that follow the first `epoch` ones."""
    return sum(max(0, stage.last - max(stage.first, epoch)) * len(stage.batches) for stage in stages)


def make_batches(recipe: Recipe, split: Split, data_dir: str | Path | None = None) -> AnyBatches:
    """Returns the shuffled, augmented batches of a recipe.

    Args:
        recipe: The recipe.
        split: Images to train on.
        data_dir: Folder of TensorFlow Datasets, which holds the extra images as well.

    Returns:
        Batches for `fit`.

    Raises:
        ValueError: If extra images are absent or others than the recipe's, or the crops do not fit the data set.
    """
    options: dict[str, Any] = {
        "maximum": split.maximum,
        **_augmentations(recipe, split.maximum),
        **_picture_options(recipe, split),
    }
    size = recipe.training.batch_size
    batches: AnyBatches
    if recipe.extra_data is None:
        batches = Batches(split.pixels, split.labels, batch_size=size, seed=recipe.seed, **options)
    else:
        batches = _mixed_batches(recipe, recipe.extra_data, split, options, data_dir)
    replays = [each.replays for each in recipe.perturbations if isinstance(each, FreeAdversarialTable)]
    return ReplayedBatches(batches, replays[0]) if replays else batches


def _augmentations(recipe: Recipe, maximum: int) -> dict[str, Any]:
    """Options of batches that are augmented: crop and flip, then AutoAugment or AugMix, or views by AugMix."""
    table = recipe.augmentation
    moved = CropFlip(table.random_crop, table.horizontal_flip)
    chain: list[Any] = [] if moved == CropFlip() else [moved]
    views: list[Any] = []
    if table.auto_augment is not None:
        chain.append(AutoAugment(table.auto_augment, maximum))
    if table.augmix is not None:
        mix = AugMix(**table.augmix.model_dump(), maximum=maximum)
        (views if recipe.has_views() else chain).append(mix)
    options = {"augment": Chain(tuple(chain)) if chain else None, "views": (VIEWS - 1) * views}
    return options if table.auto_augment is table.augmix is None else options | {"ahead": _AHEAD}


def _picture_options(recipe: Recipe, split: Split) -> dict[str, Any]:
    """Options of batches that are decoded from files; none for images that are in memory."""
    size = recipe.augmentation.random_resized_crop
    if not isinstance(split.pixels, Pictures):
        if size:
            raise ValueError(
                "`augmentation.random_resized_crop` cuts from pictures in files, as ImageNet's. "
                f"Received: {size} for '{recipe.dataset.name}', which is in memory. Use `random_crop`."
            )
        return {}
    wanted = datasets.info(recipe.dataset.name).input_shape[0]
    if size not in (0, wanted) and not recipe.phases:
        raise ValueError(
            f"`augmentation.random_resized_crop` must be the size of the images of '{recipe.dataset.name}', "
            f"{wanted}, or change in [[phases]]. Received: {size}."
        )
    return {"crop": RandomResizedCrop(size) if size else None, "ahead": _AHEAD}


def _mixed_batches(
    recipe: Recipe,
    table: ExtraDataTable,
    split: Split,
    options: dict[str, Any],
    data_dir: str | Path | None,
) -> MixedBatches:
    size, seed = recipe.training.batch_size, recipe.seed
    extra_size = round(size * table.fraction)
    if not 0 < extra_size < size:
        raise ValueError(
            "Both labelled and extra images must be in each batch. "
            f"Received: batch_size={size}, extra_data.fraction={table.fraction}. Take a larger batch."
        )
    extra, own = _extra_images(recipe, table, split, data_dir)
    return MixedBatches(
        Batches(split.pixels, split.labels, batch_size=size - extra_size, seed=seed, **options),
        # Another seed, so that the two halves are not cropped alike.
        Batches(*extra, batch_size=extra_size, seed=seed + 2**32, **options | own),
    )


def _extra_images(
    recipe: Recipe, table: ExtraDataTable, split: Split, data_dir: str | Path | None
) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """Extra images with their labels, and the options of their batches that are not those of the labelled ones."""
    folder = datasets.data_folder(data_dir)
    classes = datasets.info(recipe.dataset.name).num_classes
    if not (folder / table.file).is_dir():
        return parts.read_extra_data(table, folder, classes), {"crop": None}
    height, width, channels = split.pixels.shape[1:]
    if (channels, height, split.maximum) != (3, width, 255):
        raise ValueError(
            "`extra_data.file` may be a folder of pictures where the data set has square RGB images of 8 bits. "
            f"Received: images of {height} x {width} x {channels} up to {split.maximum}. Make an .npz of them."
        )
    resize = split.pixels.resize if isinstance(split.pixels, Pictures) else None
    extra = datasets.read_class_folders(folder / table.file, classes, table.sha256, size=width, resize=resize)
    return extra, {"ahead": _AHEAD}


def validation_batches(split: Split | None) -> keras.utils.PyDataset | None:
    """Returns the images held out, batch by batch, in their order; None where there are none."""
    if split is None:
        return None
    # A size that divides the images, so that one shape is compiled.
    size = max(each for each in range(1, min(500, len(split)) + 1) if len(split) % each == 0)
    if size < 50:
        size = min(500, len(split))
    return _InOrder(split, size)


class _InOrder(keras.utils.PyDataset):
    """A split batch by batch, in its own order."""

    def __init__(self, split: Split, batch_size: int):
        super().__init__()
        self.split = split
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __getitem__(self, index: int):
        rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return self.split.images(rows), self.split.labels[rows]
