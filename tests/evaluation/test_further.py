import sys

import keras
import numpy as np
import pytest

from keras_robust import evaluation
from keras_robust.certification import SmoothedClassifier, state
from keras_robust.corruptions import CORRUPTIONS, corrupt
from keras_robust.evaluation import Certified, Corrupted, further
from keras_robust.evaluation.further import interval_over_images


@pytest.fixture
def judged(rng):
    """A linear model and images of which it gets some right."""
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])
    model.layers[-1].kernel.assign(rng.normal(size=(192, 4)).astype("float32"))
    x = rng.uniform(size=(12, 8, 8, 3)).astype("float32")
    y = model.predict(x, verbose=0).argmax(-1)
    y[::3] = (y[::3] + 1) % 4
    return model, x, y


def test_certified_accuracy_counts_right_images_of_enough_radius(judged, tmp_path):
    model, x, y = judged
    certified = Certified(sigma=0.05, radii=[0.0, 0.05], n=200, images=9)
    metrics = evaluation.evaluate(model, x, y, further=[certified], output=tmp_path / "metrics.json")
    found = metrics.of_kind("certified")
    expected = SmoothedClassifier(model, 0.05, 4).certify(x[:9], n=200, batch_size=200)
    right = expected.prediction == y[:9]
    assert [metric.correct for metric in found] == [right.sum(), (right & (expected.radius >= 0.05)).sum()]
    assert [(metric.norm, metric.epsilon, metric.sigma, metric.images) for metric in found] == [
        ("L2", 0.0, 0.05, 9),
        ("L2", 0.05, 0.05, 9),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_a_broken_certification_goes_on_and_counts_what_both_runs_cost(judged, tmp_path, monkeypatch):
    model, x, y = judged
    monkeypatch.setattr(further, "SECONDS", 0.0)
    monkeypatch.setattr(state, "SECONDS", 0.0)
    certified = [Certified(sigma=0.05, radii=[0.0], n=200, images=9), Certified(sigma=0.05, radii=[0.0], n=100)]
    whole = evaluation.evaluate(model, x, y, further=certified).of_kind("certified")

    def interrupt(name, done, total, accuracy, detail):
        if done == 5:
            raise KeyboardInterrupt

    output = tmp_path / "metrics.json"
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate(model, x, y, further=certified, output=output, progress=interrupt)
    broken = evaluation.evaluate(model, x, y, further=certified, output=output).of_kind("certified")
    assert [each.correct for each in broken] == [each.correct for each in whole]
    # Each run looks at the model's number of classes once more.
    at_least = [each.cost["forward"] for each in whole]
    assert at_least[0] <= broken[0].cost["forward"] <= at_least[0] + 10
    assert broken[1].cost == whole[1].cost
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_a_model_of_its_own_class_is_certified(judged):
    model, x, y = judged

    class Wrapped(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = model

        def call(self, inputs):
            return self.inner(inputs)

    own = Wrapped()
    own(x[:1])
    asked = {"further": [Certified(sigma=0.05, radii=[0.0], n=100)]}
    found = [evaluation.evaluate(each, x, y, **asked).of_kind("certified") for each in (model, own)]
    assert found[0][0].correct == found[1][0].correct


def test_corrupted_accuracy_is_the_mean_over_corruptions_and_severities(judged):
    model, x, y = judged
    metrics = evaluation.evaluate(model, x, y, further=[Corrupted()], seed=3)
    found = {metric.name: metric for metric in metrics.of_kind("corruption")}
    assert len(found) == len(CORRUPTIONS) + 1
    fog = [model.predict(corrupt(x, "fog", s, seed=3), verbose=0).argmax(-1) == y for s in range(1, 6)]
    assert found["corruption fog"].correct == np.sum(fog)
    mean = found["corruptions, mean"]
    assert mean.value == pytest.approx(np.mean([found[f"corruption {name}"].value for name in CORRUPTIONS]))
    assert mean.images == 75 * 12


@pytest.mark.once
def test_a_missing_library_is_an_error_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"keras-robust\[corruptions\]"):
        Corrupted()


@pytest.mark.once
def test_copies_of_an_image_do_not_narrow_the_interval():
    one = np.arange(100)[None] % 3 > 0
    low, high = interval_over_images(one)
    assert interval_over_images(np.repeat(one, 75, axis=0)) == pytest.approx((low, high))
    assert high - low == pytest.approx(2 * 1.96 * one.std(ddof=1) / 10, rel=1e-3)


@pytest.mark.once
@pytest.mark.parametrize(
    "wrong", [{"radii": [-0.1]}, {"radii": []}, {"sigma": 25}, {"n": 0}, {"images": 0}, {"alpha": 1.0}]
)
def test_option_out_of_range_is_an_error_before_any_work(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Certified(**{"sigma": 0.1, "radii": [0.5], **wrong})
