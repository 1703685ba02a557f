"""The records that TensorFlow Datasets itself prepares from ImageNet's archives, read without TensorFlow."""

import tarfile

import numpy as np
import pytest

from keras_robust.datasets.imagenet import read_imagenet
from keras_robust.datasets.tfrecords import index_pictures
from tests.datasets.made import WNIDS, write_imagenet

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Archives as ImageNet has them, prepared by the library's own builder, and the folders they came from."""
    tfds = pytest.importorskip("tensorflow_datasets")
    root = tmp_path_factory.mktemp("tfds")
    write_imagenet(root)
    manual = root / "manual"
    manual.mkdir()
    with tarfile.open(manual / "ILSVRC2012_img_train.tar", "w") as archive:
        for wnid in WNIDS:
            with tarfile.open(root / f"{wnid}.tar", "w") as inner:
                for path in sorted((root / "imagenet" / "train" / wnid).iterdir()):
                    inner.add(path, path.name)
            archive.add(root / f"{wnid}.tar", f"{wnid}.tar")
    with tarfile.open(manual / "ILSVRC2012_img_val.tar", "w") as archive:
        for path in sorted((root / "imagenet" / "val").rglob("*.JPEG"), key=lambda path: path.name):
            archive.add(path, path.name)
    builder = tfds.builder("imagenet2012", data_dir=str(root / "prepared"))
    config = tfds.download.DownloadConfig(manual_dir=str(manual))
    builder.download_and_prepare(download_config=config)
    return root, builder


def test_pictures_prepared_by_tensorflow_datasets_are_those_of_the_folders_in_the_same_order(prepared):
    root, builder = prepared
    train, test = read_imagenet(root / "prepared", False)
    folders = read_imagenet(root, False, 3)
    for found, expected in zip((train, test), folders, strict=True):
        assert found.order == expected.order
        np.testing.assert_array_equal(found.images(), expected.images())
    label_of = {builder.info.features["label"].str2int(wnid): label for label, wnid in enumerate(WNIDS)}
    assert [label_of[label] for label in train.labels] == folders[0].labels.tolist()


def test_the_kept_places_are_used_and_an_incomplete_split_is_an_error(prepared, tmp_path, monkeypatch):
    root, _ = prepared
    folder = next((root / "prepared" / "imagenet2012").iterdir())
    first = index_pictures(folder, "imagenet2012", "train")
    monkeypatch.setattr("keras_robust.datasets.tfrecords._pictures_in", lambda path: pytest.fail("read again"))
    again = index_pictures(folder, "imagenet2012", "train")
    np.testing.assert_array_equal(again[1], first[1])
    (tmp_path / "imagenet2012-train.tfrecord-00001-of-00004").write_bytes(b"")
    with pytest.raises(ValueError, match="Received: 1 of 4"):
        index_pictures(tmp_path, "imagenet2012", "train")


def test_a_read_only_folder_is_read_all_the_same(tmp_path, monkeypatch):
    def refuse(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("keras_robust.datasets.tfrecords.write_atomically", refuse)
    monkeypatch.setattr("keras_robust.datasets.tfrecords._pictures_in", lambda path: [("b", (7, 9), 1)])
    (tmp_path / "imagenet2012-train.tfrecord-00000-of-00001").write_bytes(b"")
    _, places, labels = index_pictures(tmp_path, "imagenet2012", "train")
    assert (places.tolist(), labels.tolist()) == ([[0, 7, 2]], [1])


def test_records_of_another_kind_are_an_error_that_names_file_and_place(tmp_path):
    path = tmp_path / "imagenet2012-train.tfrecord-00000-of-00001"
    path.write_bytes((5).to_bytes(8, "little") + b"csum" + b"hello" + b"csum")
    with pytest.raises(ValueError, match=r"00000-of-00001 must hold `image`.*at byte 12"):
        index_pictures(tmp_path, "imagenet2012", "train")
