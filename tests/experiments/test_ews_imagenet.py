"""ImageNet-C and -P over AlexNet's, for a model that always answers the first class."""

import keras
import numpy as np
import pytest

from keras_robust.corruptions import CORRUPTIONS, PERTURBATIONS, SEVERITIES
from keras_robust.corruptions.error import ALEXNET_ERRORS
from keras_robust.experiments.ews_imagenet import measure_imagenet, print_imagenet

pytestmark = pytest.mark.once


def answers_the_first_class(initial="zeros"):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, kernel_initializer=initial)(x))


def test_a_model_of_known_error_gets_the_closed_form(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    for name in CORRUPTIONS:
        for severity in SEVERITIES:
            for label in ("n01", "n02"):
                folder = tmp_path / "c" / name / str(severity) / label
                folder.mkdir(parents=True)
                image.fromarray(np.zeros((8, 8, 3), "uint8")).save(folder / "a.png")
    model = answers_the_first_class()
    found = measure_imagenet(model, tmp_path / "out", c=tmp_path / "c", size=8)
    assert set(found) == {"ImageNet-C"}
    assert found["ImageNet-C"]["fog"] == pytest.approx(0.5 / ALEXNET_ERRORS["fog"])
    assert found["ImageNet-C"]["mCE"] == pytest.approx(np.mean([0.5 / each for each in ALEXNET_ERRORS.values()]))
    (tmp_path / "c").rename(tmp_path / "gone")
    assert measure_imagenet(model, tmp_path / "out", c=tmp_path / "c", size=8) == found
    with pytest.raises(ValueError, match="Give another output folder"):
        measure_imagenet(answers_the_first_class("ones"), tmp_path / "out", c=tmp_path / "c", size=8)
    with pytest.raises(ValueError, match=r"size 4.*Received: size 8.*Give another output folder"):
        measure_imagenet(model, tmp_path / "out", c=tmp_path / "c", size=4)
    print_imagenet("deepaugment.ews", found)
    assert "the printed mCE is 58.7" in " ".join(capsys.readouterr().out.split())


def test_a_model_that_never_changes_its_mind_has_no_flips(tmp_path, capsys):
    cv2 = pytest.importorskip("cv2")
    for name in PERTURBATIONS:
        folder = tmp_path / "p" / name / "n01"
        folder.mkdir(parents=True)
        writer = cv2.VideoWriter(str(folder / "a.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 64))
        if not writer.isOpened():
            pytest.skip("this OpenCV cannot write mp4")
        for level in (40, 200):
            writer.write(np.full((64, 64, 3), level, "uint8"))
        writer.release()
    found = measure_imagenet(answers_the_first_class(), tmp_path / "out", p=tmp_path / "p")
    assert found == {"ImageNet-P": {"mFR": 0.0} | dict.fromkeys(PERTURBATIONS, 0.0)}
    print_imagenet("standard.ews", found)
    assert "alphabetical" in capsys.readouterr().out
