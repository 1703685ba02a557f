"""Pictures in class folders: read in order, checked, and mixed into batches as DeepAugment's are."""

import hashlib

import numpy as np
import pytest

from keras_robust import feed
from keras_robust.datasets import Split, read_class_folders
from keras_robust.training import parse_recipe
from tests.datasets.made import jpeg

pytestmark = pytest.mark.once

NAMES = [f"class{label}" for label in range(10)]


@pytest.fixture
def made(tmp_path):
    """Two versions of one picture a class, as DeepAugment writes them; returns the digest of the list."""
    lines = []
    for version, seed in (("CAE", 0), ("EDSR", 1)):
        for label, name in enumerate(NAMES):
            path = tmp_path / "deep" / version / name / "1.JPEG"
            jpeg(path, (40, 30), colour=label % 3, seed=seed)
            lines.append(f"{version}/{name}/1.JPEG\t{path.stat().st_size}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_folder_of_a_picture_is_its_class_at_any_depth(made, tmp_path):
    pictures, labels = read_class_folders(tmp_path / "deep", 10, made, size=32)
    assert labels.tolist() == 2 * list(range(10))
    pixels = pictures[np.arange(20)]
    assert pixels.shape == (20, 32, 32, 3)
    assert pixels.mean((1, 2)).argmax(-1).tolist() == (labels % 3).tolist()


def test_other_classes_and_other_files_are_refused(made, tmp_path):
    with pytest.raises(ValueError, match=r"folders of 11 classes.*20 pictures of 10 classes"):
        read_class_folders(tmp_path / "deep", 11, made, size=32)
    (tmp_path / "deep" / "CAE" / "class0" / "1.JPEG").write_bytes(b"")
    with pytest.raises(ValueError, match=f"SHA-256 of their list {made}"):
        read_class_folders(tmp_path / "deep", 10, made, size=32)


def test_a_folder_of_extra_images_fills_its_share_of_each_batch(made, tmp_path, rng):
    recipe = {
        "name": "cnn_cifar10.deep",
        "dataset": {"name": "cifar10"},
        "model": {"builder": "kap_cnn"},
        "training": {"epochs": 1, "batch_size": 6},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "augmentation": {"random_crop": 4, "augmix": {}},
        "extra_data": {"file": "deep", "sha256": made, "fraction": 2 / 3},
    }
    split = Split(rng.integers(0, 20, (9, 32, 32, 3), dtype="uint8"), np.arange(9), 255, "official")
    batches = feed.make_batches(parse_recipe(recipe), split, tmp_path)
    x, y = batches[0]
    assert x.shape == (6, 32, 32, 3)
    assert (batches.labelled.batch_size, batches.extra.batch_size) == (2, 4)
    assert len(set(y[2:])) >= 2
    three = {**recipe, "objective": {"type": "jensen_shannon"}}
    x, y = feed.make_batches(parse_recipe(three), split, tmp_path)[0]
    assert x.shape == (18, 32, 32, 3)
    np.testing.assert_array_equal(y, np.tile(y[:6], 3))
    grey = Split(split.pixels[..., :1], split.labels, 255, "official")
    with pytest.raises(ValueError, match=r"square RGB images of 8 bits.*32 x 32 x 1"):
        feed.make_batches(parse_recipe(recipe), grey, tmp_path)
