import numpy as np
import pytest

from keras_robust.corruptions import read_cifar_c, read_imagenet_c, read_imagenet_p

pytestmark = pytest.mark.once


def test_cifar_c_files_are_sorted_by_severity(tmp_path, rng):
    images = rng.integers(0, 256, (20, 32, 32, 3), dtype="uint8")
    np.save(tmp_path / "fog.npy", images)
    np.save(tmp_path / "labels.npy", np.tile(np.arange(4, dtype="uint8"), 5))
    x, y = read_cifar_c(tmp_path, "fog", 3)
    assert np.array_equal(np.rint(x * 255), images[8:12])
    assert y.tolist() == [0, 1, 2, 3]
    assert x.dtype == np.float32
    with pytest.raises(ValueError, match="no file"):
        read_cifar_c(tmp_path, "snow", 3)
    np.save(tmp_path / "labels.npy", np.arange(4))
    with pytest.raises(ValueError, match="one label each"):
        read_cifar_c(tmp_path, "fog", 3)


def test_imagenet_c_folders_are_read_in_batches_and_cropped(tmp_path, rng):
    image = pytest.importorskip("PIL.Image")
    for name in ("n01", "n02"):
        folder = tmp_path / "fog" / "2" / name
        folder.mkdir(parents=True)
        for number in range(3):
            pixels = np.full((10, 12, 3), 100 * (name == "n02") + 20 * number, "uint8")
            image.fromarray(pixels).save(folder / f"ILSVRC2012_val_{number}.JPEG", quality=85)
    batches = list(read_imagenet_c(tmp_path, "fog", 2, batch_size=4, size=8))
    assert [len(x) for x, _ in batches] == [4, 2]
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert x.shape == (6, 8, 8, 3)
    assert y.tolist() == [0, 0, 0, 1, 1, 1]
    expected = np.array([0, 20, 40, 100, 120, 140])
    assert np.abs(x.mean(axis=(1, 2, 3)) * 255 - expected).max() < 2  # JPEG
    _, y = next(read_imagenet_c(tmp_path, "fog", 2, size=8, classes=["n00", "n02", "n01"]))
    assert y.tolist() == [1, 1, 1, 2, 2, 2]
    with pytest.raises(ValueError, match="unknown \\['n02'\\]"):
        next(read_imagenet_c(tmp_path, "fog", 2, size=8, classes=["n01"]))
    with pytest.raises(ValueError, match="at least 224 pixels"):
        next(read_imagenet_c(tmp_path, "fog", 2))


def test_imagenet_p_videos_are_read_as_sequences(tmp_path):
    cv2 = pytest.importorskip("cv2")
    levels = (40, 120, 200)
    for name in ("n01", "n02"):
        folder = tmp_path / "brightness" / name
        folder.mkdir(parents=True)
        writer = cv2.VideoWriter(str(folder / "a.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 64))
        if not writer.isOpened():
            pytest.skip("this OpenCV cannot write mp4")
        for level in levels:
            frame = np.zeros((64, 64, 3), "uint8")
            frame[..., 2] = level  # red, in OpenCV's order
            writer.write(frame)
        writer.release()
    sequences = list(read_imagenet_p(tmp_path, "brightness"))
    assert [label for _, label in sequences] == [0, 1]
    frames = sequences[0][0]
    assert frames.shape == (3, 64, 64, 3)
    assert np.abs(frames[..., 0].mean(axis=(1, 2)) * 255 - levels).max() < 12  # colour compression
    assert frames[..., 1:].mean() < 0.1
