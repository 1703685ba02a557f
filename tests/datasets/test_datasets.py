"""Data sets: official order, splits, fingerprints, and what is said when one is absent."""

import hashlib

import numpy as np
import pytest

from keras_robust import datasets
from keras_robust.datasets import Split

SPLIT = Split(np.arange(12, dtype="uint8").reshape(3, 2, 2, 1), np.array([2, 0, 1], "int32"), 16, "official")


@pytest.mark.once
def test_digits_are_scikit_learns_scaled_to_the_unit_interval():
    from sklearn.datasets import load_digits

    data = datasets.load("digits")
    x, y = data.test.take()
    bunch = load_digits()
    np.testing.assert_allclose(x[..., 0], bunch.images[1437:] / 16)
    np.testing.assert_array_equal(y, bunch.target[1437:])
    assert (len(data.train), len(data.test), data.validation) == (1437, 360, None)


@pytest.mark.once
@pytest.mark.parametrize("name", ["digits"])
def test_the_facts_known_beforehand_are_those_of_the_data(name):
    data, facts = datasets.load(name), datasets.info(name)
    assert data.input_shape == facts.input_shape
    assert set(data.train.labels) == set(range(facts.num_classes))


@pytest.mark.once
def test_a_held_out_part_and_the_rest_make_up_the_training_set_in_its_order():
    whole = datasets.load("digits").train
    data = datasets.load("digits", validation_fraction=0.1, seed=3)
    assert len(data.validation) == 144
    keys = {image.tobytes(): row for row, image in enumerate(whole.pixels)}
    rows = [[keys[image.tobytes()] for image in part.pixels] for part in (data.train, data.validation)]
    assert sorted(rows[0] + rows[1]) == sorted(keys[image.tobytes()] for image in whole.pixels)
    assert rows[1] == sorted(rows[1])


@pytest.mark.once
def test_the_held_out_part_depends_on_the_seed_alone():
    one, same = (datasets.load("digits", validation_fraction=0.1, seed=3).validation for _ in range(2))
    other = datasets.load("digits", validation_fraction=0.1, seed=4).validation
    assert one.fingerprint() == same.fingerprint()
    assert one.fingerprint()["sha256"] != other.fingerprint()["sha256"]


@pytest.mark.once
def test_a_fingerprint_hashes_the_stored_pixels_then_the_labels():
    content = bytes(range(4, 12)) + b"\x00\x00\x00\x00\x01\x00\x00\x00"
    expected = {"order": "official", "first": 1, "count": 2, "sha256": hashlib.sha256(content).hexdigest()}
    assert SPLIT.fingerprint(first=1) == expected


@pytest.mark.once
def test_taking_images_scales_them_by_the_stored_maximum():
    x, y = SPLIT.take(1, first=2)
    np.testing.assert_allclose(x[0, :, :, 0], np.array([[8, 9], [10, 11]]) / 16)
    assert x.dtype == np.float32
    assert y.tolist() == [1]


@pytest.mark.once
@pytest.mark.parametrize(("count", "first"), [(4, 0), (1, 3), (0, 0), (1, -1)])
def test_taking_more_images_than_there_are_is_refused(count, first):
    with pytest.raises(ValueError, match="images 0 to 2"):
        SPLIT.take(count, first)


@pytest.mark.once
def test_an_unknown_name_and_a_wrong_fraction_are_refused():
    with pytest.raises(ValueError, match="'digits', 'mnist'"):
        datasets.load("mnits")
    with pytest.raises(ValueError, match="validation_fraction=1"):
        datasets.load("digits", validation_fraction=1)


def test_an_absent_data_set_is_an_error_that_names_folder_option_variable_and_download(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(ValueError, match=r"(?s)Received: .*data_dir=.*TFDS_DATA_DIR.*download=True"):
        datasets.load("cifar10", data_dir=tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.data
def test_cifar10_is_in_its_official_order(data_dir):
    data = datasets.load("cifar10", data_dir=data_dir)
    # The official files begin with cat, ship, ship, plane (test) and frog, truck, truck, deer (train).
    assert data.test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert data.train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert data.test.order == "official"
    assert np.bincount(data.train.labels).tolist() == [5000] * 10
    assert (len(data.train), len(data.test), data.input_shape) == (50000, 10000, (32, 32, 3))


def test_labels_that_were_taken_may_be_changed_without_harm_to_the_split():
    split = datasets.load("digits").test
    expected = split.labels[:5].tolist()
    split.take(5)[1][:] = 9
    assert split.take(5)[1].tolist() == expected


@pytest.mark.data
def test_a_data_set_that_the_process_shares_cannot_be_changed_in_place(data_dir):
    data = datasets.load("mnist", data_dir=data_dir)
    for array in (data.train.pixels, data.train.labels, data.test.pixels, data.test.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[:1] = 0


@pytest.mark.data
def test_mnist_splits_as_the_weight_map_paper_says(data_dir):
    data = datasets.load("mnist", data_dir=data_dir, validation_fraction=0.1)
    assert (len(data.train), len(data.validation), len(data.test)) == (54000, 6000, 10000)
    assert data.input_shape == datasets.info("mnist").input_shape
