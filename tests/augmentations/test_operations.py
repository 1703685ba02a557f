"""The operations of AutoAugment and AugMix: closed forms, and amounts that change nothing."""

import numpy as np
import pytest

from keras_robust.augmentations.operations import IDENTITY, as_bytes, operate

pytestmark = pytest.mark.once

X = np.random.default_rng(1).integers(0, 256, (2, 8, 6, 3), dtype="uint8")


def changed(name, amount=0, x=X[0], bilinear=False):
    return operate(x[None], name, np.array([amount]), bilinear=bilinear)[0]


@pytest.mark.parametrize("name", IDENTITY)
@pytest.mark.parametrize("bilinear", [False, True])
def test_an_operation_of_no_amount_leaves_the_image(name, bilinear):
    np.testing.assert_array_equal(changed(name, IDENTITY[name], bilinear=bilinear), X[0])


def test_operations_on_values_are_their_closed_forms():
    np.testing.assert_array_equal(changed("invert"), 255 - X[0])
    np.testing.assert_array_equal(changed("solarize", 100), np.where(X[0] < 100, X[0], 255 - X[0]))
    np.testing.assert_array_equal(changed("posterize", 3), X[0] & 0b11100000)
    np.testing.assert_array_equal(changed("brightness", 0.5), X[0] // 2)
    low, high = X[0].min((0, 1)), X[0].max((0, 1))
    stretched = (X[0] - low) * 255.0 / (high - low)
    assert np.abs(changed("autocontrast") - stretched).max() <= 1  # cut off, not rounded


@pytest.mark.parametrize("name", ["autocontrast", "equalize", "posterize", "solarize"])
@pytest.mark.parametrize("channels", [1, 3])
def test_tables_of_values_give_the_bytes_of_pillow(name, channels, rng):
    pillow, operations = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.ImageOps")
    few = rng.integers(0, 3, (8, 32, 32, channels)) * rng.integers(0, 90, (8, 1, 1, channels))
    normal = rng.normal(rng.uniform(60, 200, (8, 1, 1, channels)), 20, (8, 32, 32, channels)).clip(0, 255)
    x = np.concatenate([few, normal, rng.integers(0, 256, normal.shape)]).astype("uint8")
    amounts = rng.integers(1, 9, len(x)) * (32 if name == "solarize" else 1)
    for found, image, amount in zip(operate(x, name, amounts, bilinear=True), x, amounts, strict=True):
        picture = pillow.fromarray(image[..., 0] if channels == 1 else image)
        given = (int(amount),) if name in ("posterize", "solarize") else ()
        expected = np.asarray(getattr(operations, name)(picture, *given))
        np.testing.assert_array_equal(found, expected.reshape(found.shape))


def test_translations_and_shears_move_pixels_and_leave_black():
    moved = changed("translate_x", 2)
    np.testing.assert_array_equal(moved[:, :-2], X[0][:, 2:])
    assert (moved[:, -2:] == 0).all()
    np.testing.assert_array_equal(changed("translate_y", -3)[3:], X[0][:-3])
    sheared = changed("shear_x", 1.0)
    np.testing.assert_array_equal(sheared[3, :2], X[0][3, 4:])  # a row moves by its middle, rounded up
    np.testing.assert_array_equal(changed("rotate", 180), X[0][::-1, ::-1])


def test_images_of_other_ranges_become_bytes_and_other_channels_are_refused():
    digits = np.array([0, 8, 16], "uint8").reshape(1, 1, 3, 1)
    np.testing.assert_array_equal(as_bytes(digits, 16).ravel(), [0, 128, 255])
    with pytest.raises(ValueError, match=r"1 or 3 channels.*\(2, 8, 6, 2\)"):
        as_bytes(X[..., :2], 255)
