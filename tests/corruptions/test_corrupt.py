import colorsys

import numpy as np
import pytest
from scipy import ndimage, stats

from keras_robust.corruptions import CORRUPTIONS, corrupt
from keras_robust.corruptions.blur import defocus_blur, disk, smear
from keras_robust.corruptions.constants import CIFAR, IMAGENET
from keras_robust.corruptions.geometry import affine_positions, sample, zoom_matrix
from keras_robust.corruptions.weather import plasma

pytestmark = pytest.mark.once

LEVEL = 1 / 255  # results are cut to the level below
SEVERITIES = (1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def photos():
    """Smooth colour images in 256 levels, so that they have structure at all scales."""
    noise = np.random.default_rng(0).random((12, 32, 32, 3))
    smooth = sum(ndimage.gaussian_filter(noise, (0, s, s, 0)) * s for s in (0.5, 1, 2, 4))
    low, high = smooth.min(axis=(1, 2, 3), keepdims=True), smooth.max(axis=(1, 2, 3), keepdims=True)
    return (np.rint(255 * (smooth - low) / (high - low)) / 255).astype("float32")


def grey(count, value):
    return np.full((count, 32, 32, 3), np.rint(255 * value) / 255, "float32")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_has_the_same_bytes_for_the_same_seed_and_any_subset(name, photos):
    pytest.importorskip("PIL")
    once = corrupt(photos, name, 3, seed=5)
    rows = np.array([7, 2])
    assert np.array_equal(corrupt(photos[rows], name, 3, seed=5, indices=rows), once[rows])
    assert once.dtype == np.float32
    assert np.array_equal(np.rint(once * 255).astype("uint8") / np.float32(255), once)
    assert np.abs(once - photos).mean() > 1e-3
    fixed = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    assert np.array_equal(corrupt(photos, name, 3, seed=6), once) == (name in fixed)


@pytest.mark.parametrize("constants", ["cifar", "imagenet"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_corruption_takes_other_sizes_and_one_channel(constants, channels, rng):
    pytest.importorskip("PIL")
    x = rng.random((2, 40, 28, channels), dtype="float32")
    for name in CORRUPTIONS:
        for severity in (1, 5):
            result = corrupt(x, name, severity, constants=constants)
            assert result.shape == x.shape
            assert result.min() >= 0
            assert result.max() <= 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_the_standard_deviation_of_its_severity(severity):
    sigma = CIFAR["gaussian_noise"][severity - 1]
    noise = corrupt(grey(20, 0.5), "gaussian_noise", severity) - grey(20, 0.5)
    n = noise.size
    # Cutting to a level lowers by half a level on average and adds the variance of a uniform level.
    assert abs(noise.mean() + LEVEL / 2) < 5 * sigma / np.sqrt(n)
    assert abs(noise.std() - np.hypot(sigma, LEVEL / np.sqrt(12))) < 5 * sigma / np.sqrt(2 * n)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_shot_noise_is_poisson_with_variance_mean_over_photons(severity):
    photons = CIFAR["shot_noise"][severity - 1]
    x = grey(20, 0.4)
    noise = corrupt(x, "shot_noise", severity) - x
    sigma = np.sqrt(x[0, 0, 0, 0] / photons)
    n = noise.size
    assert -LEVEL < noise.mean() < 5 * sigma / np.sqrt(n)  # cut to the level below
    # Cutting adds at most the variance of a level, correlated with the noise or not.
    assert abs(noise.std() - sigma) < 5 * sigma / np.sqrt(n) + LEVEL / 2


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_hits_its_fraction_of_values_half_black_half_white(severity):
    amount = CIFAR["impulse_noise"][severity - 1]
    noisy = corrupt(grey(30, 0.5), "impulse_noise", severity)
    for value in (0.0, 1.0):
        hits = int((noisy == value).sum())
        assert stats.binomtest(hits, noisy.size, amount / 2).pvalue > 1e-5


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_shrinks_the_distance_to_the_channel_mean(severity, photos):
    c = CIFAR["contrast"][severity - 1]
    mean = photos.astype("float64").mean(axis=(1, 2), keepdims=True)
    expected = mean + c * (photos - mean)
    difference = expected - corrupt(photos, "contrast", severity)
    assert difference.min() > -1e-5
    assert difference.max() < LEVEL


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_raises_the_value_of_hsv(severity, photos):
    x = photos[:1, ::4, ::4]
    x[0, 0, 0] = 0  # black becomes grey
    result = corrupt(x, "brightness", severity)
    for pixel, changed in zip(x.reshape(-1, 3), result.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel.astype("float64"))
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + CIFAR["brightness"][severity - 1], 1))
        assert np.all(expected - changed > -1e-5)
        assert np.all(expected - changed < LEVEL + 1e-5)


@pytest.mark.parametrize(
    "name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "pixelate", "contrast"]
)
@pytest.mark.parametrize("constants", ["cifar", "imagenet"])
def test_a_blur_leaves_a_uniform_image_alone(name, constants):
    pytest.importorskip("PIL")
    x = grey(2, 0.4)
    for severity in SEVERITIES:
        # Rounding of float32 may cost one level.
        assert np.abs(corrupt(x, name, severity, constants=constants) - x).max() <= LEVEL * 1.001


@pytest.mark.parametrize("c", [*CIFAR["defocus_blur"], *IMAGENET["defocus_blur"]])
def test_defocus_blur_is_a_correlation_with_its_disk(c, photos):
    kernel = disk(*c).astype("float64")
    # Where the disk fills its grid the mirrored rim counts twice: the official kernels sum to 1.013 and 1.011.
    assert kernel.sum() == pytest.approx(1, abs=0.014 if c[0] >= 8 else 1e-6)
    area = (kernel > kernel.max() / 2).sum()
    assert area == sum(i**2 + j**2 <= c[0] ** 2 for i in range(-11, 12) for j in range(-11, 12))
    expected = ndimage.correlate(photos[0].astype("float64"), kernel[:, :, None], mode="mirror")
    assert np.abs(defocus_blur(photos[:1], c, [])[0] - expected).max() < 1e-5  # float32 FFT


def test_disk_agrees_with_opencv():
    cv2 = pytest.importorskip("cv2")
    for radius, alias in (*CIFAR["defocus_blur"], *IMAGENET["defocus_blur"]):
        grid = np.arange(-max(8, radius), max(8, radius) + 1)
        sharp = ((grid[:, None] ** 2 + grid**2) <= radius**2).astype("float32")
        expected = cv2.GaussianBlur(sharp / sharp.sum(), (3, 3) if radius <= 8 else (5, 5), alias)
        ours = disk(radius, alias)
        border = (len(expected) - len(ours)) // 2
        assert np.abs(np.pad(ours, border) - expected).max() < 1e-6


def test_glass_blur_moves_pixels_by_one_and_keeps_the_rim(photos):
    # Severity 1: sigma 0.05 blurs nothing at this size, so every value comes from a neighbour.
    result = corrupt(photos, "glass_blur", 1)
    rim = np.ones((32, 32), bool)
    rim[2:, 2:] = False
    assert np.abs(result - photos)[:, rim].max() <= LEVEL * 1.001
    assert np.abs(result - photos)[:, ~rim].max() > 2 * LEVEL


def test_motion_blur_of_a_point_is_a_one_sided_gaussian_along_the_angle():
    x = np.zeros((3, 32, 32, 1), "float32")
    x[:, 16, 16] = 1
    radius, sigma = 6, 2.0
    blurred = smear(x, radius, sigma, np.array([0.0, 90.0, -90.0]))[..., 0]
    kernel = np.exp(-(np.arange(13) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    assert np.allclose(blurred[0, 16, 16::-1][:13], kernel, atol=1e-6)
    assert np.allclose(blurred[1, 16::-1, 16][:13], kernel, atol=1e-6)
    assert np.allclose(blurred[2, 16:29, 16], kernel, atol=1e-6)


def test_zoom_matrix_agrees_with_scipy(rng):
    for size in (32, 45, 224):
        line = rng.random(size)
        for factor in (1.0, 1.03, 1.25, 1.75, 3.0):
            crop = int(np.ceil(size / factor))
            start = (size - crop) // 2
            zoomed = ndimage.zoom(line[start : start + crop], factor, order=1)
            trim = (len(zoomed) - size) // 2
            assert np.allclose(zoom_matrix(size, factor) @ line, zoomed[trim : trim + size], atol=1e-6)


def test_sampling_agrees_with_scipy(photos, rng):
    rows, columns = rng.uniform(-5, 37, (2, 1, 32, 32))
    channel = photos[:1, :, :, :1]
    for repeat, mode in ((True, "reflect"), (False, "mirror")):
        expected = ndimage.map_coordinates(channel[0, :, :, 0], [rows[0], columns[0]], order=1, mode=mode)
        assert np.abs(sample(channel, rows, columns, repeat)[0, :, :, 0] - expected).max() < 1e-5


def test_affine_warp_agrees_with_opencv(photos):
    cv2 = pytest.importorskip("cv2")
    source = np.array([[26, 26], [26, 6], [6, 6]], "float32")
    target = source + np.array([[1.5, -2], [0.3, 1], [-1, 0.7]], "float32")
    matrix = cv2.getAffineTransform(source, target)
    expected = cv2.warpAffine(photos[0], matrix, (32, 32), borderMode=cv2.BORDER_REFLECT_101)
    ours = sample(photos[:1], *affine_positions(source[None], target[None], (32, 32)), repeat_edge=False)[0]
    steepest = np.abs(np.diff(photos[0], axis=0)).max() + np.abs(np.diff(photos[0], axis=1)).max()
    assert np.abs(ours - expected).max() < steepest / 32  # OpenCV rounds positions to 1/32 of a pixel


def test_fog_heights_span_0_to_1_and_are_rougher_at_small_decay(rng):
    rough, smooth = (plasma(32, decay, [np.random.default_rng(i) for i in range(50)]) for decay in (1.75, 3))
    assert np.all(rough.min(axis=(1, 2)) == 0)
    assert np.all(rough.max(axis=(1, 2)) == 1)
    assert np.abs(np.diff(rough, axis=1)).mean() > np.abs(np.diff(smooth, axis=1)).mean()


def test_pixelate_at_half_size_is_the_mean_of_two_by_two():
    pytest.importorskip("PIL")
    x = (np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)) / np.float32(255)).astype("float32")
    severity = 1 + IMAGENET["pixelate"].index(0.5)
    means = x.reshape(2, 16, 2, 16, 2, 3).mean(axis=(2, 4)).repeat(2, axis=1).repeat(2, axis=2)
    # Pillow rounds after each of its two passes.
    assert np.abs(corrupt(x, "pixelate", severity, constants="imagenet") - means).max() <= 1.01 * LEVEL


def test_jpeg_of_lower_quality_has_a_larger_error(photos):
    pytest.importorskip("PIL")
    errors = [np.square(corrupt(photos, "jpeg_compression", s) - photos).mean() for s in SEVERITIES]
    assert np.all(np.diff(errors) > 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "rain"}, "`name` must be one of 'gaussian_noise'"),
        ({"severity": 0}, "`severity` must be one of 1, 2"),
        ({"constants": "mnist"}, "`constants` must be one of"),
        ({"x": np.zeros((1, 32, 32, 4), "float32")}, "1 or 3 channels"),
        ({"indices": [0]}, "`indices` must have shape"),
    ],
)
def test_wrong_arguments_are_explained(arguments, message, photos):
    with pytest.raises(ValueError, match=message):
        corrupt(**{"x": photos, "name": "fog", "severity": 1, **arguments})
