"""Crop and flip against their definition, image by image."""

import numpy as np
import pytest

from keras_robust.augmentations import CropFlip

pytestmark = pytest.mark.once

X = np.random.default_rng(1).integers(1, 256, (64, 6, 5, 3), dtype="uint8")


def test_each_image_is_one_of_the_crops_or_mirrored_crops_of_the_padded_image(rng):
    found = CropFlip(2, True)(X, rng)
    padded = np.pad(X, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for image, source in zip(found, padded, strict=True):
        crops = [source[top : top + 6, left : left + 5] for top in range(5) for left in range(5)]
        assert any(np.array_equal(image, crop) or np.array_equal(image, crop[:, ::-1]) for crop in crops)


def test_about_half_of_the_images_are_mirrored_and_the_rest_untouched(rng):
    x = np.tile(X, (16, 1, 1, 1))
    found = CropFlip(0, True)(x, rng)
    mirrored = (found == x[:, :, ::-1]).all(axis=(1, 2, 3))
    assert ((found == x).all(axis=(1, 2, 3)) | mirrored).all()
    assert 0.44 < mirrored.mean() < 0.56  # four standard errors of 1024 fair draws


def test_every_shift_occurs(rng):
    image = np.zeros((2000, 3, 3, 1), "uint8")
    image[:, 1, 1] = 1
    found = CropFlip(1)(image, rng)
    places = {tuple(np.argwhere(each[..., 0])[0]) for each in found}
    assert len(places) == 9


def test_nothing_to_do_returns_the_images(rng):
    np.testing.assert_array_equal(CropFlip()(X, rng), X)


def test_a_negative_padding_is_refused():
    with pytest.raises(ValueError, match="`padding`"):
        CropFlip(-1)
