"""Pictures on disk: an array that decodes itself, as the field's evaluation cuts it."""

import numpy as np
import pytest

from keras_robust.augmentations import RandomResizedCrop
from keras_robust.datasets import Pictures, Split
from tests.datasets.made import jpeg

pytestmark = pytest.mark.once
SIZES = {"wide": (90, 61), "tall": (50, 97), "grey": (70, 70), "cmyk": (64, 80)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, (name, size) in enumerate(SIZES.items()):
        jpeg(folder / name, size, {"grey": "L", "cmyk": "CMYK"}.get(name, "RGB"), colour=1, seed=number)
    return [folder / name for name in SIZES]


def by_hand(path, size, resize):
    from PIL import Image

    picture = Image.open(path).convert("RGB")
    width, height = picture.size
    if width < height:
        width, height = resize, int(resize * height / width)
    else:
        width, height = int(resize * width / height), resize
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    top, left = round((height - size) / 2), round((width - size) / 2)
    return pixels[top : top + size, left : left + size]


def test_every_kind_of_picture_is_resized_by_its_shorter_side_and_cut_out_of_the_middle(files):
    pictures = Pictures(files, size=28, resize=32)
    assert pictures.shape == (4, 28, 28, 3)
    found = pictures[:]
    assert found.dtype == np.uint8
    for pixels, path in zip(found, files, strict=True):
        np.testing.assert_array_equal(pixels, by_hand(path, 28, 32))
    assert (found[2][..., 0] == found[2][..., 1]).all()  # the grey one
    assert found[3][..., 1].mean() > found[3][..., 0].mean() + 50  # the CMYK one is green, not its negative


def test_without_resize_the_whole_picture_is_stretched(files):
    from PIL import Image

    expected = Image.open(files[0]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(Pictures(files, size=16)[np.array([0])][0], np.asarray(expected))


def test_rows_are_selected_without_decoding_and_pieces_of_files_are_pictures(files, tmp_path):
    together = tmp_path / "together"
    parts = [path.read_bytes() for path in files]
    together.write_bytes(b"--".join(parts))
    first = np.cumsum([0, *(len(part) + 2 for part in parts[:-1])])
    places = np.stack([np.zeros(4, "int64"), first, [len(part) for part in parts]], axis=1)
    pieces, whole = Pictures([together], places, size=20), Pictures(files, size=20)
    np.testing.assert_array_equal(pieces[:], whole[:])
    np.testing.assert_array_equal(pieces.select(np.array([3, 1]))[:], whole[np.array([3, 1])])
    labels = np.arange(4, dtype="int32")
    prints = [Split(each, labels, 255, "file_name").fingerprint() for each in (pieces, whole)]
    assert prints[0] == prints[1]
    other = Split(whole.select(np.array([1, 0, 2, 3])), labels, 255, "file_name").fingerprint()
    assert other["sha256"] != prints[0]["sha256"]


def test_a_split_of_pictures_is_taken_scaled_and_divided_as_one_in_memory(files):
    split = Split(Pictures(files, size=8), np.arange(4, dtype="int32"), 255, "file_name")
    x, y = split.take(2, first=1)
    assert (x.shape, x.dtype, y.tolist()) == ((2, 8, 8, 3), np.float32, [1, 2])
    assert 0 <= x.min() < x.max() <= 1
    np.testing.assert_array_equal(split.subset(np.array([2])).images(), x[1:])


def test_crops_depend_on_the_generator_alone(files):
    pictures = Pictures(files, size=8)
    rows, crop = np.array([3, 0]), RandomResizedCrop(12)
    first, same, other = (pictures.cropped(rows, crop, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (2, 12, 12, 3)
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_file_that_is_no_picture_is_named(files, tmp_path):
    (tmp_path / "broken.JPEG").write_bytes(files[0].read_bytes()[:300])
    with pytest.raises(ValueError, match=r"broken\.JPEG.*Copy or download it again"):
        Pictures([tmp_path / "broken.JPEG"], size=8)[:]
