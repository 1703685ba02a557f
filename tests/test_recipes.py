"""The recipes of the papers' own settings, that nobody trains in a test."""

from pathlib import Path

import pytest

from keras_robust import datasets, models, pipeline
from keras_robust.subject import Protocol
from keras_robust.training import load_recipe

pytestmark = pytest.mark.once
FOLDER = Path(__file__).parents[1] / "scripts" / "recipes"
RECIPES = sorted(path.parent for path in FOLDER.rglob("recipe.toml"))


@pytest.mark.parametrize("folder", RECIPES, ids=lambda path: path.name)
def test_every_recipe_is_valid_named_as_its_folder_and_of_known_parts(folder):
    recipe = load_recipe(folder)
    assert recipe.name == folder.name
    assert recipe.metadata is not None
    assert recipe.metadata.references
    datasets.info(recipe.dataset.name)
    assert set(recipe.model.arguments) <= set(models.model_options(recipe.model.builder))
    Protocol.of(recipe.evaluation)
    pipeline.make_optimizer(recipe, [10] * max(1, len(recipe.phases)))


def test_every_row_of_the_kap_papers_tables_1_and_3_has_its_recipe():
    named = [path.name for path in RECIPES if path.parent.name == "kap"]
    rows = {data: [name for name in named if f"_{data}." in name] for data in ("cifar10", "cifar100")}
    rows |= {data: [name for name in named if f"_{data}." in name] for data in ("tinyimagenet", "imagenet")}
    assert {data: len(names) for data, names in rows.items()} == {
        "cifar10": 6,
        "cifar100": 6,
        "tinyimagenet": 4,
        "imagenet": 6,
    }


def test_fast_at_on_imagenet_falls_from_phase_to_phase_without_a_jump():
    recipe = load_recipe(FOLDER / "kap" / "resnet18_imagenet.fast_at_linf4")
    assert [phase.image_size for phase in recipe.phases] == [128, 224, 288]
    schedule = pipeline.make_optimizer(recipe, [100, 200, 400])._learning_rate
    found = [float(schedule(step)) for step in (0, 100, 600, 1800, 3000)]
    assert found == pytest.approx([0.0, 0.4, 0.04, 0.004, 0.0004], abs=1e-6)
