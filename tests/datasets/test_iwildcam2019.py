"""The reader of iWildCam 2019 on a made sample of the same files."""

import csv

import numpy as np
import pytest

from keras_robust import datasets
from keras_robust.datasets import iwildcam2019

pytestmark = pytest.mark.once
IMAGES = 10
# Category of each class in the file, and one that the paper leaves out.
CATEGORIES = {"deer": 1, "squirrel": 3, "rodent": 4, "fox": 10, "coyote": 11, "raccoon": 13, "skunk": 14}
CATEGORIES |= {"cat": 17, "dog": 18, "opossum": 19, "empty": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve JPEGs a class, each of one grey that tells its class and number."""
    image = pytest.importorskip("PIL.Image")
    root = tmp_path_factory.mktemp("data")
    images = root / "iwildcam2019" / "train_images"
    images.mkdir(parents=True)
    rows = []
    for number in range(12):
        for position, (name, category) in enumerate(CATEGORIES.items()):
            file_name = f"{7 * number % 12:02d}-{name}.jpg"
            grey = 20 * position + number
            image.new("RGB", (128, 92), (grey, grey, grey)).save(images / file_name, quality=95)
            rows.append({"category_id": category, "file_name": file_name, "location": 3})
    with open(root / "iwildcam2019" / "train.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return root


def test_classes_are_balanced_small_and_grey_with_a_tenth_for_the_test(folder):
    train, test = iwildcam2019.read(folder, False, IMAGES)
    assert train.pixels.shape == (90, 23, 32, 1)
    assert np.bincount(train.labels).tolist() == [9] * 10
    assert np.bincount(test.labels).tolist() == [1] * 10
    # The grey tells the class: the label goes with the image.
    for split in (train, test):
        np.testing.assert_array_equal(split.pixels[:, 11, 16, 0] // 20, split.labels)
        assert (split.pixels.max((1, 2, 3)) - split.pixels.min((1, 2, 3))).max() <= 1  # JPEG rounds
    together = np.concatenate([train.pixels, test.pixels])[:, 11, 16, 0]
    assert len(np.unique(together)) == 100


def test_the_first_images_are_of_many_classes(folder):
    for split in iwildcam2019.read(folder, False, IMAGES):
        assert len(np.unique(split.labels[:5])) > 1
        assert split.order == "shuffled_file_name"


def test_a_read_only_folder_is_read_all_the_same(folder, monkeypatch):
    def refuse(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    expected = [split.fingerprint() for split in iwildcam2019.read(folder, False, IMAGES)]
    (folder / "iwildcam2019" / f"grey_23x32_{IMAGES}.npz").unlink()
    monkeypatch.setattr(iwildcam2019, "write_atomically", refuse)
    assert [split.fingerprint() for split in iwildcam2019.read(folder, False, IMAGES)] == expected


def test_the_draw_is_the_same_each_time_with_and_without_the_stored_images(folder):
    stored = folder / "iwildcam2019" / f"grey_23x32_{IMAGES}.npz"
    stored.unlink(missing_ok=True)
    first = [split.fingerprint() for split in iwildcam2019.read(folder, False, IMAGES)]
    assert stored.is_file()
    assert [split.fingerprint() for split in iwildcam2019.read(folder / "iwildcam2019", False, IMAGES)] == first


def test_load_holds_out_the_same_share_of_each_class(folder, monkeypatch):
    facts = datasets.info("iwildcam2019")
    assert (facts.num_classes, facts.input_shape) == (len(iwildcam2019.CLASSES), (23, 32, 1))
    small = {**datasets.registry._DATASETS}
    read = lambda data_dir, download: iwildcam2019.read(data_dir, download, IMAGES)  # noqa: E731
    small["iwildcam2019"] = datasets.Info(10, (23, 32, 1), read, by_class=True)
    monkeypatch.setattr(datasets.registry, "_DATASETS", small)
    data = datasets.load("iwildcam2019", data_dir=folder, validation_fraction=2 / 9)
    counts = [np.bincount(split.labels).tolist() for split in (data.train, data.validation, data.test)]
    assert counts == [[7] * 10, [2] * 10, [1] * 10]


def test_missing_files_and_small_classes_are_errors(folder, tmp_path):
    with pytest.raises(ValueError, match=r"by hand.*kaggle.*Received: .*does not hold them"):
        iwildcam2019.read(tmp_path, False)
    with pytest.raises(ValueError, match="download=True, which this data set does not offer"):
        iwildcam2019.read(tmp_path, True)
    with pytest.raises(ValueError, match=r"must have 13 images. Received: 12 of 'deer'"):
        iwildcam2019.read(folder, False, 13)
    (folder / "iwildcam2019" / "train_images" / "00-dog.jpg").rename(tmp_path / "away.jpg")
    with pytest.raises(ValueError, match=r"00-dog.jpg, which is absent"):
        iwildcam2019.read(folder, False, 12)
    (tmp_path / "away.jpg").rename(folder / "iwildcam2019" / "train_images" / "00-dog.jpg")
