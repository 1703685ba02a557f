"""Pictures on disk, trained on in phases and resumed, and what a recipe must not ask of them."""

import json

import numpy as np
import pytest

from keras_robust import datasets, feed, pipeline
from keras_robust.datasets.imagenet import read_tiny_imagenet
from keras_robust.subject import open_subject
from keras_robust.training import parse_recipe
from keras_robust.training.progress import Checkpoint
from tests.datasets.made import write_tiny_imagenet

SAME_WEIGHTS = 1e-6  # same machine and backend; threads may order sums differently

RECIPE = """
name = "cnn_tinyimagenet.test"
seed = 1
[dataset]
name = "tiny_imagenet"
[model]
builder = "kap_cnn"
arguments = { depth = 1, pooling = "kap", sigma = 0.1 }
[training]
epochs = 4
batch_size = 6
[optimizer]
name = "sgd"
learning_rate = 0.1
momentum = 0.9
[augmentation]
random_resized_crop = 128
horizontal_flip = true
[[phases]]
epochs = 1
image_size = 24
batch_size = 9
learning_rate = [0.0, 0.2]
[[phases]]
epochs = 2
image_size = 32
learning_rate = [0.2, 0.4, 0.02]
at_epochs = [0, 0.5, 2]
[[phases]]
epochs = 1
[[perturbations]]
type = "adversarial"
epsilon = 0.02
step_size = 0.025
steps = 1
model_mode = "train"
[evaluation]
images = 4
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the recipe, beside a made TinyImageNet of three classes."""
    pytest.importorskip("PIL")
    write_tiny_imagenet(tmp_path)
    info = datasets.Info(3, (128, 128, 3), lambda data_dir, download: read_tiny_imagenet(data_dir, download, 3))
    monkeypatch.setitem(datasets.registry._DATASETS, "tiny_imagenet", info)
    folder = tmp_path / "entry"
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def test_a_training_in_phases_broken_off_in_one_goes_on_to_the_weights_of_an_unbroken_one(folder, monkeypatch):
    # Two of the phases, to compile less.
    text = RECIPE.replace("epochs = 4", "epochs = 3").replace("[[phases]]\nepochs = 1\n[[", "[[")
    (folder / "recipe.toml").write_text(text)
    data_dir, output = folder.parent, folder.parent / "unbroken"
    unbroken = pipeline.train(folder, data_dir=data_dir, output_dir=output)
    save = Checkpoint.on_epoch_end

    def interrupt(self, number, logs=None):
        save(self, number, logs)
        if number == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_epoch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pipeline.train(folder, data_dir=data_dir)
    resumed = pipeline.train(folder, data_dir=data_dir)
    for one, other in zip(unbroken.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=SAME_WEIGHTS)
    assert unbroken.input_shape == (None, 128, 128, 3)
    log = json.loads((output / "training_log.json").read_text())
    # At the end of each epoch, of 2, 3 and 3 steps.
    rates = [each["learning_rate"] for each in log["history"]]
    np.testing.assert_allclose(rates, [0.2, 0.27333, 0.02], rtol=1e-4)
    assert log["data"]["order"] == "shuffled_file_name"
    subject = open_subject(str(folder))
    x, y, data = subject.test_images(None, data_dir)
    assert (x.shape, y.tolist(), data.dataset) == ((4, 128, 128, 3), [0, 1, 2, 2], "tiny_imagenet")
    np.testing.assert_allclose(
        subject.load().predict(x, verbose=0), resumed.predict(x, verbose=0), atol=10 * SAME_WEIGHTS
    )


@pytest.mark.once
def test_stages_have_sizes_and_batches_of_their_own_and_the_epochs_between_them(folder):
    recipe = parse_recipe(pipeline.load_recipe(folder).model_dump())
    split = pipeline.load_data(recipe, folder.parent).train
    stages = feed.make_stages(recipe, split)
    shapes = [stage.batches[0][0].shape for stage in stages]
    assert shapes == [(9, 24, 24, 3), (6, 32, 32, 3), (6, 128, 128, 3)]
    assert [(stage.first, stage.last) for stage in stages] == [(0, 1), (1, 3), (3, 4)]
    assert feed.steps_left(stages, 0) == 2 + 2 * 3 + 3
    assert feed.steps_left(stages, 2) == 3 + 3


@pytest.mark.once
def test_fewer_epochs_keep_the_phases_at_their_share(folder):
    recipe = pipeline.load_recipe(folder)
    longer, shorter = pipeline.with_epochs(recipe, 12), pipeline.with_epochs(recipe, 2)
    assert [phase.epochs for phase in longer.phases] == [3, 6, 3]
    assert longer.phases[1].at_epochs == [0, 1.5, 6]
    assert sum(phase.epochs for phase in shorter.phases) == 2


@pytest.mark.once
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": {"name": "digits"}, "phases": []}, "Received: 128 for 'digits', which is in memory"),
        (
            {"augmentation": {"random_resized_crop": 64}, "phases": []},
            "must be the size of the images of 'tiny_imag",
        ),
    ],
)
def test_crops_that_do_not_fit_the_data_set_are_refused(folder, changes, message):
    recipe = parse_recipe(pipeline.load_recipe(folder).model_dump() | changes)
    split = pipeline.load_data(recipe, folder.parent).train
    with pytest.raises(ValueError, match=message):
        feed.make_batches(recipe, split)


@pytest.mark.once
def test_pictures_without_a_random_crop_get_their_evaluation_size_and_are_held_out(folder):
    content = pipeline.load_recipe(folder).model_dump() | {"augmentation": {"random_crop": 4}, "phases": []}
    recipe = parse_recipe(content | {"dataset": {"name": "tiny_imagenet", "validation_fraction": 0.25}})
    data = pipeline.load_data(recipe, folder.parent)
    x, _ = feed.make_batches(recipe, data.train)[1]
    assert (x.shape, len(data.train), len(data.validation)) == ((6, 128, 128, 3), 14, 4)
    held_x, held_y = feed.validation_batches(data.validation)[0]
    assert (held_x.shape, held_y.tolist()) == ((4, 128, 128, 3), data.validation.labels.tolist())
