"""ImageNet and TinyImageNet in every layout they come in, on made samples."""

import shutil

import numpy as np
import pytest

from keras_robust import datasets
from keras_robust.datasets.imagenet import read_imagenet, read_tiny_imagenet
from tests.datasets.made import WNIDS, write_imagenet, write_tiny_imagenet

pytestmark = pytest.mark.once


def test_imagenet_is_read_from_its_class_folders_and_colours_go_with_labels(tmp_path):
    train, test = read_imagenet(write_imagenet(tmp_path), False, 3)
    assert (train.pixels.shape, test.pixels.shape) == ((18, 224, 224, 3), (6, 224, 224, 3))
    assert np.bincount(train.labels).tolist() == [6, 6, 6]
    coloured = [row for row, file in enumerate(train.pixels.files) if not file.endswith(f"{WNIDS[0]}_17.JPEG")]
    for split, rows in ((train, np.array(coloured)), (test, np.arange(6))):
        np.testing.assert_array_equal(split.images(rows).mean((1, 2)).argmax(-1), split.labels[rows])
    # The official list of the validation pictures counts through the classes.
    assert test.labels.tolist() == [0, 1, 2, 2, 1, 0]
    assert (train.order, test.order) == ("shuffled_file_name", "file_name")


def test_training_pictures_are_shuffled_the_same_way_each_time(tmp_path):
    one, same = (read_imagenet(each, False, 3)[0] for each in (write_imagenet(tmp_path), tmp_path / "imagenet"))
    assert one.fingerprint() == same.fingerprint()
    assert one.labels.tolist() != sorted(one.labels.tolist())


@pytest.mark.parametrize("class_folders", [False, True])
def test_tiny_imagenet_is_read_with_annotations_and_from_class_folders(tmp_path, class_folders):
    train, test = read_tiny_imagenet(write_tiny_imagenet(tmp_path, class_folders=class_folders), False, 3)
    assert (train.pixels.shape, test.pixels.shape) == ((18, 128, 128, 3), (6, 128, 128, 3))
    assert test.labels.tolist() == [0, 1, 2, 2, 1, 0]  # val_2 before val_10
    np.testing.assert_array_equal(test.images().mean((1, 2)).argmax(-1), test.labels)


@pytest.mark.parametrize(("name", "size", "classes"), [("tiny_imagenet", 128, 200), ("imagenet", 224, 1000)])
def test_absent_files_are_an_error_that_names_layout_and_source(tmp_path, name, size, classes):
    assert (datasets.info(name).num_classes, datasets.info(name).input_shape) == (classes, (size, size, 3))
    with pytest.raises(ValueError, match=r"by hand: .*train/<wnid>.*Received: .*--data-dir"):
        datasets.load(name, data_dir=tmp_path)
    with pytest.raises(ValueError, match="download=True, which this data set does not offer"):
        datasets.load(name, data_dir=tmp_path, download=True)


def test_missing_classes_and_unsorted_validation_pictures_are_errors(tmp_path):
    write_imagenet(tmp_path)
    with pytest.raises(ValueError, match=r"must hold 1000 class folders. Received: 3 \(n01440764, "):
        datasets.load("imagenet", data_dir=tmp_path)
    val = tmp_path / "imagenet" / "val"
    shutil.move(val / WNIDS[0], val / "n00000000")
    with pytest.raises(ValueError, match="unknown n00000000"):
        read_imagenet(tmp_path, False, 3)
    shutil.rmtree(val)
    val.mkdir()
    with pytest.raises(ValueError, match=r"val must hold pictures"):
        read_imagenet(tmp_path, False, 3)
