"""Made samples in the layouts of ImageNet and TinyImageNet: JPEGs of odd sizes, one grey, one CMYK."""

import numpy as np
import pytest

WNIDS = ("n01440764", "n01443537", "n02102040")


def jpeg(path, size, mode="RGB", *, colour=0, seed=0):
    """Writes noise of one dominant colour."""
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(seed).integers(0, 80, (size[1], size[0], 3), dtype="uint8")
    pixels[..., colour] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(pixels).convert(mode).save(path, "JPEG", quality=95)


def write_imagenet(root, pictures=6):
    """Writes `pictures` for each of three classes to train, and two to val; returns the folder."""
    sizes = [(260, 301), (500, 375), (97, 211), (64, 48), (333, 250), (120, 120)]
    for label, wnid in enumerate(WNIDS):
        for number in range(pictures):
            mode = {(0, 1): "L", (1, 2): "CMYK"}.get((label, number), "RGB")
            path = root / "imagenet" / "train" / wnid / f"{wnid}_{10 * number + 7}.JPEG"
            jpeg(path, sizes[number % len(sizes)], mode, colour=label, seed=number)
        for number in (label + 1, 9 - label):
            path = root / "imagenet" / "val" / wnid / f"ILSVRC2012_val_{number:08d}.JPEG"
            jpeg(path, sizes[number % len(sizes)], colour=label, seed=number)
    return root


def write_tiny_imagenet(root, pictures=6, *, class_folders=False):
    """Writes the same in the layout of TinyImageNet, or with one folder a class everywhere."""
    folder, lines = root / "tiny-imagenet-200", []
    for label, wnid in enumerate(WNIDS):
        for number in range(pictures):
            inside = folder / "train" / wnid
            mode = "L" if number == 3 else "RGB"
            path = (inside if class_folders else inside / "images") / f"{wnid}_{number}.JPEG"
            jpeg(path, (64, 64), mode, colour=label, seed=number)
        for number in (label + 1, 12 - label):
            name = f"val_{number}.JPEG"
            place = folder / "val" / wnid if class_folders else folder / "val" / "images"
            jpeg(place / name, (64, 64), colour=label, seed=number)
            lines.append(f"{name}\t{wnid}\t0\t0\t62\t62\n")
    if not class_folders:
        (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return root
