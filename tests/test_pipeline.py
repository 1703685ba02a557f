"""From a recipe to weights: complete results or none, and a resumed run equals an unbroken one."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_robust import feed, models, pipeline, zoo
from keras_robust.augmentations import AugMix, AutoAugment, CropFlip
from keras_robust.models.policy import dtype_policy
from keras_robust.training import RobustTrainer, load_recipe, parse_recipe
from keras_robust.training.progress import Checkpoint

ZOO = Path(__file__).parents[1] / "zoo"
SAME_WEIGHTS = 1e-6  # same machine and backend; threads may order sums differently

RECIPE = """
name = "cnn_digits.test"
seed = 1
[dataset]
name = "digits"
validation_fraction = 0.1
[model]
builder = "kap_cnn"
arguments = { depth = 1 }
[training]
epochs = 4
batch_size = 256
[optimizer]
name = "sgd"
learning_rate = 0.1
momentum = 0.9
weight_decay = 1e-4
[schedule]
type = "piecewise"
milestones = [3]
[augmentation]
random_crop = 1
[[perturbations]]
type = "gaussian_noise"
sigma = 0.1
"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "entry"
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


ROBUST = """
[objective]
type = "trades"
epsilon = 0.1
steps = 1
[weight_perturbation]
type = "awp"
gamma = 0.005
warmup_epochs = 1
[early_stopping]
type = "robust_accuracy"
epsilon = 0.1
steps = 2
"""


def assert_same_weights(one, other):
    for first, second in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(first, second, atol=SAME_WEIGHTS)


def train_and_interrupt(folder, epoch, monkeypatch):
    """Trains until the state of that epoch is saved."""
    save = Checkpoint.on_epoch_end

    def interrupt(self, number, logs=None):
        save(self, number, logs)
        if number + 1 == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_epoch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pipeline.train(folder)


def test_training_writes_weights_that_load_and_a_log_of_each_epoch(folder):
    model = pipeline.train(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.weights.h5",
        "recipe.toml",
        "training_log.json",
    ]
    fresh = pipeline.build_model(load_recipe(folder))
    fresh.load_weights(folder / "model.weights.h5")
    assert_same_weights(fresh, model)
    log = json.loads((folder / "training_log.json").read_text())
    assert [each["epoch"] for each in log["history"]] == [1, 2, 3, 4]
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "seconds"} <= set(log["history"][0])
    np.testing.assert_allclose([each["learning_rate"] for each in log["history"]], [0.1, 0.1, 0.01, 0.01])
    assert log["history"][-1]["loss"] < log["history"][0]["loss"]
    assert log["data"]["count"] == 1293
    assert log["recipe_digest"] == load_recipe(folder).digest()


def test_an_interrupted_run_goes_on_to_the_weights_of_an_unbroken_one(folder, tmp_path, monkeypatch):
    unbroken = pipeline.train(folder, output_dir=tmp_path / "unbroken")
    train_and_interrupt(folder, 2, monkeypatch)
    assert not (folder / "model.weights.h5").exists()
    resumed = pipeline.train(folder)
    assert_same_weights(resumed, unbroken)
    logs = [json.loads((path / "training_log.json").read_text()) for path in (folder, tmp_path / "unbroken")]
    losses = [[epoch["loss"] for epoch in log["history"]] for log in logs]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_an_interrupted_adversarial_run_goes_on_to_the_same_best_epoch_and_weights(folder, tmp_path, monkeypatch):
    (folder / "recipe.toml").write_text(RECIPE + ROBUST)
    unbroken = pipeline.train(folder, output_dir=tmp_path / "unbroken")
    train_and_interrupt(folder, 2, monkeypatch)
    assert_same_weights(pipeline.train(folder), unbroken)
    logs = [json.loads((path / "training_log.json").read_text()) for path in (folder, tmp_path / "unbroken")]
    assert logs[0]["kept_epoch"] == logs[1]["kept_epoch"]
    robust = [[epoch["val_robust_accuracy"] for epoch in log["history"]] for log in logs]
    assert robust[0] == robust[1]
    assert robust[0][logs[0]["kept_epoch"] - 1] == max(robust[0])


def test_a_run_interrupted_after_its_last_epoch_still_keeps_the_best_weights(folder, tmp_path, monkeypatch):
    (folder / "recipe.toml").write_text(
        RECIPE + ROBUST.replace("epsilon = 0.1\nsteps = 2", "epsilon = 0.3\nsteps = 2")
    )
    unbroken = pipeline.train(folder, output_dir=tmp_path / "unbroken")
    train_and_interrupt(folder, 4, monkeypatch)
    assert_same_weights(pipeline.train(folder), unbroken)
    assert json.loads((folder / "training_log.json").read_text())["kept_epoch"] < 4


AUGMIX = """
[augmentation.augmix]
severity = 5
[objective]
type = "jensen_shannon"
"""


def test_an_interrupted_run_with_augmix_and_its_loss_goes_on_to_the_weights_of_an_unbroken_one(
    folder, tmp_path, monkeypatch
):
    (folder / "recipe.toml").write_text(RECIPE.replace("validation_fraction = 0.1", "") + AUGMIX)
    unbroken = pipeline.train(folder, output_dir=tmp_path / "unbroken")
    train_and_interrupt(folder, 2, monkeypatch)
    assert_same_weights(pipeline.train(folder), unbroken)
    log = json.loads((folder / "training_log.json").read_text())
    losses = [epoch["loss"] for epoch in log["history"]]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


@pytest.mark.once
def test_augmentations_of_a_recipe_come_after_crop_and_flip():
    content = tomllib.loads(RECIPE)
    split = pipeline.load_data(parse_recipe(content)).train

    def batches(augmentation, **tables):
        return feed.make_batches(parse_recipe({**content, **tables, "augmentation": augmentation}), split)

    auto = batches({"random_crop": 1, "auto_augment": "imagenet"})
    assert auto.augment.parts == (CropFlip(1), AutoAugment("imagenet", 16))
    mixed = batches({"augmix": {"severity": 1}})
    assert mixed.augment.parts == (AugMix(severity=1, maximum=16),)
    assert mixed.views == ()
    three = batches({"random_crop": 1, "augmix": {}}, objective={"type": "jensen_shannon"})
    assert three.augment.parts == (CropFlip(1),)
    assert three.views == 2 * (AugMix(maximum=16),)
    for each in (auto, mixed, three):
        x, y = each[0]
        assert len(x) == len(y)
        assert 0 <= x.min() < x.max() <= 1


@pytest.mark.once
def test_a_recipe_can_name_the_dropout_baseline():
    content = tomllib.loads(RECIPE)
    content["model"] = {"builder": "resnet8", "arguments": {"dropout": 0.1}}
    model = pipeline.build_model(parse_recipe(content))
    assert model.get_layer("stage1_block1_dropout").rate == 0.1


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_to_the_weights_of_an_unbroken_one(folder, tmp_path):
    unbroken = pipeline.train(folder, output_dir=tmp_path / "unbroken", epochs=40)
    command = [
        sys.executable,
        "-c",
        f"from keras_robust import pipeline; pipeline.train({str(folder)!r}, epochs=40)",
    ]
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    state, seen = folder / "training_state.partial", 0
    for pause in (0.0, 0.37):
        child = subprocess.Popen(command, env=environment, cwd=ZOO.parent, stderr=subprocess.DEVNULL)
        while child.poll() is None and not (state.exists() and state.stat().st_mtime_ns > seen):
            time.sleep(0.01)
        time.sleep(pause)
        child.send_signal(signal.SIGKILL)
        child.wait()
        seen = state.stat().st_mtime_ns if state.exists() else 0
    if (folder / "model.weights.h5").exists():
        pytest.skip("the run was over before it could be killed")
    assert_same_weights(pipeline.train(folder, epochs=40), unbroken)


def test_finished_results_are_not_overwritten_unasked(folder):
    (folder / "model.weights.h5").write_bytes(b"precious")
    with pytest.raises(ValueError, match="overwrite"):
        pipeline.train(folder)
    assert (folder / "model.weights.h5").read_bytes() == b"precious"
    pipeline.train(folder, epochs=1, overwrite=True)
    assert (folder / "model.weights.h5").read_bytes() != b"precious"


def test_the_unfinished_run_of_another_recipe_is_refused_and_survives(folder, monkeypatch):
    train_and_interrupt(folder, 1, monkeypatch)
    state = (folder / "training_state.partial").read_bytes()
    (folder / "recipe.toml").write_text(RECIPE.replace("momentum = 0.9", "momentum = 0.8"))
    with pytest.raises(ValueError, match="another recipe_digest"):
        pipeline.train(folder)
    assert (folder / "training_state.partial").read_bytes() == state


@pytest.mark.parametrize("content", [b"not a state", b"", b"PK\x03\x04 cut short"])
def test_a_damaged_state_is_an_error_that_says_what_to_do(folder, content):
    (folder / "training_state.partial").write_bytes(content)
    with pytest.raises(ValueError, match="Delete it to start the training anew"):
        pipeline.train(folder)


@pytest.mark.once
@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"kap_cnn"', '"kap_cn"', "kap_cn"),
        ("depth = 1", "dept = 1", "dept"),
        ("depth = 1", "depth = 1, sigma = 0.1", "one place"),
        ('"digits"', '"digit"', "digit"),
        ("sigma = 0.1", "sigma = 0.1\nclip = true", "clip"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_is_written(folder, tmp_path, old, new, named):
    (folder / "recipe.toml").write_text(RECIPE.replace(old, new))
    with pytest.raises(ValueError, match=named):
        pipeline.train(folder, output_dir=tmp_path / "output")
    assert not (tmp_path / "output").exists()


@pytest.mark.once
def test_an_absent_data_set_is_refused_before_anything_is_written(folder, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    (folder / "recipe.toml").write_text(RECIPE.replace('"digits"', '"cifar10"'))
    with pytest.raises(ValueError, match="TFDS_DATA_DIR"):
        pipeline.train(folder, data_dir=tmp_path, output_dir=tmp_path / "output")
    assert not (tmp_path / "output").exists()


@pytest.mark.once
def test_fewer_epochs_keep_the_milestones_at_their_share():
    recipe = load_recipe(ZOO / "cnn_cifar10.standard")
    share = recipe.schedule.milestones[0] / recipe.training.epochs
    shorter = pipeline.with_epochs(recipe, 8)
    assert shorter.training.epochs == 8
    assert shorter.schedule.milestones == [round(8 * share)]
    assert pipeline.with_epochs(recipe, 1).schedule.type == "constant"
    with pytest.raises(ValueError, match=r"training\.epochs"):
        pipeline.with_epochs(recipe, 0)


@pytest.mark.once
def test_fewer_epochs_keep_the_warm_up_at_its_share():
    content = load_recipe(ZOO / "cnn_cifar10.standard").model_dump()
    content["training"]["epochs"] = 100
    content["schedule"] = {"type": "constant"}
    content["weight_perturbation"] = {"type": "awp", "warmup_epochs": 10}
    recipe = parse_recipe(content)
    assert pipeline.with_epochs(recipe, 20).weight_perturbation.warmup_epochs == 2
    assert pipeline.with_epochs(recipe, 1).weight_perturbation.warmup_epochs == 0


@pytest.mark.once
def test_extra_images_fill_their_share_of_each_batch(tmp_path):
    np.savez(tmp_path / "extra.npz", pixels=np.full((40, 8, 8, 1), 16, "uint8"), labels=np.full(40, 9))
    digest = hashlib.sha256((tmp_path / "extra.npz").read_bytes()).hexdigest()
    content = tomllib.loads(RECIPE)
    content["extra_data"] = {"file": "extra.npz", "sha256": digest, "fraction": 0.25}
    recipe = parse_recipe(content)
    split = pipeline.load_data(recipe).train
    batches = feed.make_batches(recipe, split, tmp_path)
    x, y = batches[0]
    # 40 extra images are fewer than a quarter of 256; they then make up all that there is in each batch.
    assert len(batches) == len(split) // 232
    assert len(y) == 192 + 40
    assert (x[192:].max(axis=(1, 2, 3)) == 1).all()


@pytest.mark.once
@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in ZOO.glob("*/recipe.toml")), ids=lambda path: path.name
)
def test_every_recipe_of_the_zoo_is_valid_and_named_as_its_folder(folder):
    recipe = load_recipe(folder)
    assert recipe.name == folder.name
    assert recipe.metadata is not None
    assert recipe.metadata.references
    pipeline.build_model(recipe)


@pytest.mark.once
@pytest.mark.parametrize("kind", ["constant", "cosine", "cyclic"])
def test_every_schedule_starts_and_ends_where_it_should(kind):
    content = load_recipe(ZOO / "cnn_cifar10.standard").model_dump()
    content["schedule"] = {"type": kind}
    recipe = parse_recipe(content)
    rate = pipeline.make_optimizer(recipe, [10])._learning_rate
    steps = 10 * recipe.training.epochs
    at = [float(keras.ops.convert_to_numpy(rate(s) if callable(rate) else rate)) for s in (0, steps // 2, steps)]
    expected = {"constant": [0.1, 0.1, 0.1], "cosine": [0.1, 0.05, 0.0], "cyclic": [0.0, 0.1, 0.0]}
    np.testing.assert_allclose(at, expected[kind], atol=1e-6)


def test_clean_statistics_of_batch_normalization_are_the_only_thing_that_a_recipe_changes(folder, tmp_path):
    running = pipeline.train(folder, output_dir=tmp_path / "running")
    (folder / "recipe.toml").write_text(RECIPE.replace("epochs = 4", 'epochs = 4\nbatch_statistics = "clean"'))
    clean = pipeline.train(folder)
    for variable, one, other in zip(running.weights, running.get_weights(), clean.get_weights(), strict=True):
        if variable.name.startswith("moving_"):
            assert np.abs(one - other).max() > 1e-3
        else:
            np.testing.assert_allclose(one, other, atol=SAME_WEIGHTS)
    train = pipeline.load_data(load_recipe(folder)).train
    expected = models.recalibrate(clean, train.images(), batch_size=256)
    for one, other in zip(clean.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    fresh = pipeline.build_model(load_recipe(folder))
    fresh.load_weights(folder / "model.weights.h5")
    assert_same_weights(fresh, clean)


def test_clean_statistics_without_batch_normalization_are_refused_before_training(folder):
    text = RECIPE.replace("epochs = 4", 'epochs = 4\nbatch_statistics = "clean"')
    (folder / "recipe.toml").write_text(
        text.replace('"kap_cnn"', '"wm_cnn"').replace("{ depth = 1 }", '{ layer = "conv" }')
    )
    with pytest.raises(ValueError, match="'wm_cnn' does not have"):
        pipeline.train(folder)
    assert [path.name for path in folder.iterdir()] == ["recipe.toml"]


def test_mixed_precision_trains_float32_weights_and_stores_half_of_them(folder, monkeypatch):
    text = (folder / "recipe.toml").read_text()
    options = 'batch_size = 256\nprecision = "mixed_bfloat16"\nweights = "float16"'
    (folder / "recipe.toml").write_text(text.replace("batch_size = 256", options))
    trained_in = []

    def spy(model, **options):
        trained_in.append(model.compute_dtype)
        return trainer(model, **options)

    trainer = pipeline.RobustTrainer
    monkeypatch.setattr(pipeline, "RobustTrainer", spy)
    model = pipeline.train(folder)
    assert trained_in == ["bfloat16"]
    assert keras.config.dtype_policy().name == "float32"
    # What is measured after the training must be what is measured after a later start.
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    fresh = pipeline.build_model(load_recipe(folder))
    fresh.load_weights(folder / "model.weights.h5")
    assert fresh.compute_dtype == "float32"
    for trained, stored in zip(model.get_weights(), fresh.get_weights(), strict=True):
        assert stored.dtype == trained.dtype
        np.testing.assert_array_equal(stored, trained)
        if stored.ndim > 1:
            np.testing.assert_array_equal(stored, stored.astype("float16").astype("float32"))
    losses = [epoch["loss"] for epoch in json.loads((folder / "training_log.json").read_text())["history"]]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


START = "kap_cnn_digits.noise_sigma0.1"
START_SHA256 = zoo.Entry.load(ZOO / START).weights.sha256


@pytest.fixture
def fine_tuning(folder):
    """That folder, whose recipe starts from an entry of the zoo; as it is, it hardly changes the weights."""

    def write(entry=START, sha256=START_SHA256, depth=2, learning_rate=1e-9):
        text = RECIPE.replace("learning_rate = 0.1", f"learning_rate = {learning_rate}")
        text = text.replace("{ depth = 1 }", f"{{ depth = {depth} }}\n[model.initial_weights]\n")
        text = text.replace("[training]", f'entry = "{entry}"\nsha256 = "{sha256}"\n[training]')
        (folder / "recipe.toml").write_text(text)
        return folder

    return write


def test_a_training_starts_from_the_weights_and_statistics_of_an_entry(fine_tuning, monkeypatch):
    fit, starts = RobustTrainer.fit, []

    def record(self, *args, **options):
        starts.append([np.array(value) for value in self.model.get_weights()])
        return fit(self, *args, **options)

    monkeypatch.setattr(RobustTrainer, "fit", record)
    model, entry = pipeline.train(fine_tuning()), zoo.load(START)
    learned = [np.array(variable) for variable in entry.weights if variable.name != "sigma"]
    for start, expected in zip(starts[0], learned, strict=True):
        np.testing.assert_array_equal(start, expected)
    for trained, start in zip(model.trainable_variables, entry.trainable_variables, strict=True):
        np.testing.assert_allclose(trained, start, atol=1e-6)


def test_an_unfinished_training_goes_on_without_the_entry_it_started_from(fine_tuning, tmp_path, monkeypatch):
    folder = fine_tuning(learning_rate=0.01)
    whole = pipeline.train(folder, output_dir=tmp_path / "whole")
    train_and_interrupt(folder, 2, monkeypatch)
    monkeypatch.setattr(zoo, "load", lambda *_, **__: pytest.fail("the start is in the state"))
    assert_same_weights(pipeline.train(folder), whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entry": "kap_cnn_digits.noise_sigma0.3"}, "Did you mean 'kap_cnn_digits.noise_sigma0.1'"),
        ({"sha256": "0" * 64}, f"SHA-256 {'0' * 64}. Received: .* are {START_SHA256}"),
        ({"depth": 1}, "must fit the model that it builds"),
        ({"sha256": "0"}, "`model.initial_weights.sha256`: String should match pattern"),
    ],
)
def test_a_start_that_is_not_the_stated_one_is_refused_before_training(fine_tuning, change, message):
    folder = fine_tuning(**change)
    with pytest.raises(ValueError, match=message):
        pipeline.train(folder)
    assert [path.name for path in folder.iterdir()] == ["recipe.toml"]


def test_a_start_on_the_hub_is_pinned_to_the_digest(fine_tuning, monkeypatch):
    asked = {}
    entry = zoo.load(START)
    monkeypatch.setattr(zoo, "load", lambda source, **options: asked.update({source: options}) or entry)
    pipeline.train(fine_tuning("hf://zoo/kap_cnn_digits@v1"))
    assert asked == {"hf://zoo/kap_cnn_digits@v1": {"sha256": START_SHA256}}


@pytest.mark.once
def test_a_model_is_built_in_float32_whatever_policy_keras_has():
    with dtype_policy("mixed_bfloat16"):
        model = pipeline.build_model(parse_recipe(tomllib.loads(RECIPE)))
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.once
@pytest.mark.parametrize("builder", ["resnet8", "preact_resnet18"])
def test_mixed_precision_is_that_of_every_layer_but_the_logits(builder):
    content = tomllib.loads(RECIPE)
    content["model"] = {"builder": builder}
    model = pipeline.build_model(parse_recipe(content), "mixed_bfloat16")
    assert {layer.compute_dtype for layer in model.layers[1:-1]} == {"bfloat16"}
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
