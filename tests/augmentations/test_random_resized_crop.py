"""The random resized crop: areas and shapes as they are defined, the middle where nothing fits."""

import numpy as np
import pytest

from keras_robust.augmentations import RandomResizedCrop

pytestmark = pytest.mark.once


def test_parts_lie_in_the_picture_with_areas_and_shapes_in_their_ranges(rng):
    crop = RandomResizedCrop(8)
    boxes = np.array([crop.box(320, 240, rng) for _ in range(4000)])
    left, top, width, height = boxes.T
    assert (left >= 0).all()
    assert (left + width <= 320).all()
    assert (top >= 0).all()
    assert (top + height <= 240).all()
    share, shape = width * height / (320 * 240), width / height
    # Sides are rounded to pixels, the smallest to some 70.
    assert share.min() > 0.078
    assert shape.min() > 0.73
    assert shape.max() < 1.36
    # Parts up to half of the area always fit: those shares are evenly spread, and log shapes symmetric.
    small = share[share < 0.5]
    np.testing.assert_allclose(np.histogram(small, 6, (0.08, 0.5))[0] / len(small), 1 / 6, atol=0.03)
    assert abs(np.log(shape[share < 0.5]).mean()) < 0.01
    assert set(np.unique(left[(width == 160) & (height == 160)])) <= set(range(161))


@pytest.mark.parametrize(
    ("width", "height", "expected"), [(1000, 10, (493, 0, 13, 10)), (10, 1000, (0, 493, 10, 13))]
)
def test_the_middle_is_taken_where_no_draw_fits(rng, width, height, expected):
    assert RandomResizedCrop(8).box(width, height, rng) == expected


def test_the_part_is_resized_as_pillow_does_bilinearly(rng):
    image = pytest.importorskip("PIL.Image")
    picture = image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype="uint8"))
    crop = RandomResizedCrop(12)
    left, top, width, height = crop.box(60, 40, np.random.default_rng(3))
    part = picture.crop((left, top, left + width, top + height)).resize((12, 12), image.Resampling.BILINEAR)
    np.testing.assert_array_equal(crop(picture, np.random.default_rng(3)), np.asarray(part))


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 8, "scale": (0.5, 1.5)}, {"size": 8, "ratio": (2, 1)}])
def test_a_wrong_option_is_refused(options):
    with pytest.raises(ValueError, match=r"must (rise|be an integer)"):
        RandomResizedCrop(**options)
