import json

import keras
import numpy as np
import pytest
from scipy import stats

from keras_robust.certification import ABSTAIN, SmoothedClassifier, lower_confidence_bound
from tests.attacks.linear import linear_model

SHAPE = (4, 4, 3)
SIGMA = 0.5
FAILURE = 1e-6  # alpha of the tests against closed forms: a chance failure in a million seeds


@pytest.fixture(scope="module")
def linear():
    """A two-class linear model, images, and the exact radius and class of each under smoothing."""
    model, weights, bias = linear_model(2, SHAPE, seed=0)
    x = np.random.default_rng(1).random((6, *SHAPE)).astype("float32")
    slope = weights[:, 1] - weights[:, 0]
    value = (x.reshape(len(x), -1) @ slope + bias[1] - bias[0]) / np.linalg.norm(slope)
    return model, x, np.abs(value), (value > 0).astype(int)


def test_certified_radius_of_a_linear_model_agrees_with_its_closed_form(linear):
    model, x, exact, classes = linear
    n = 4000
    found = SmoothedClassifier(model, SIGMA, 2).certify(x, n0=200, n=n, alpha=FAILURE, batch_size=500)
    # Smoothing a half-space gives the same half-space: the vote's probability is Phi(distance / sigma).
    probability = stats.norm.cdf(exact / SIGMA)
    lowest = lower_confidence_bound(stats.binom.ppf(FAILURE, n, probability), n, FAILURE)
    certified = found.prediction != ABSTAIN
    assert certified.any()
    assert np.array_equal(found.prediction[certified], classes[certified])
    assert np.all(found.radius <= exact)
    assert np.all(found.lower_bound >= lowest)
    assert np.allclose(found.radius[certified], SIGMA * stats.norm.ppf(found.lower_bound[certified]), atol=1e-12)


def test_lower_bound_is_scipys_clopper_pearson():
    for n in (10, 1000, 100_000):
        for successes in {0, 1, n // 3, n // 2 + 1, n - 1, n}:
            for alpha in (0.001, 0.05):
                exact = stats.binomtest(successes, n, alternative="greater").proportion_ci(1 - alpha, "exact").low
                assert abs(lower_confidence_bound(successes, n, alpha) - exact) < 1e-9


def test_certify_abstains_where_the_bound_is_below_one_half(linear):
    model, x, _, _ = linear
    found = SmoothedClassifier(model, SIGMA, 2).certify(x, n0=10, n=5, alpha=0.001, batch_size=10)
    # Five votes of five give a bound of 0.001 ** (1 / 5) = 0.25.
    assert np.all(found.prediction == ABSTAIN)
    assert np.all(found.radius == 0)


def test_predict_abstains_by_the_binomial_test_of_the_two_most_voted(linear):
    model, x, _, classes = linear
    smoothed = SmoothedClassifier(model, SIGMA, 2)
    answers = smoothed.predict(x, n=1000, alpha=0.001, batch_size=250)
    assert set(answers) <= {ABSTAIN, *classes}
    assert np.array_equal(answers[answers >= 0], classes[answers >= 0])
    # Five votes of five: p = 2 * 0.5 ** 5 = 0.0625.
    sure = smoothed.predict(x[:1], n=5, alpha=0.07, batch_size=5)
    assert sure[0] == ABSTAIN or sure[0] == classes[0]
    assert smoothed.predict(x[:1], n=5, alpha=0.06, batch_size=5)[0] == ABSTAIN


def test_results_do_not_depend_on_which_other_images_are_certified(linear):
    model, x, _, _ = linear
    smoothed = SmoothedClassifier(model, SIGMA, 2)
    settings = {"n0": 20, "n": 150, "batch_size": 100}  # the last batch is not full
    every = smoothed.certify(x, seed=3, **settings)
    reverse = smoothed.certify(x[::-1], seed=3, **settings)
    assert np.array_equal(every.successes, reverse.successes[::-1])
    assert not np.array_equal(every.successes, smoothed.certify(x, seed=4, **settings).successes)


def test_interrupted_certification_goes_on_to_the_same_counts(linear, tmp_path):
    model, x, _, _ = linear
    smoothed = SmoothedClassifier(model, SIGMA, 2)
    settings = {"n0": 20, "n": 300, "batch_size": 100, "output": tmp_path / "state.json"}
    whole = smoothed.certify(x, **{**settings, "output": None})

    def stop(images, _, done, __):
        if images == 2 and done == 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        smoothed.certify(x, progress=stop, **settings)
    held = json.loads((tmp_path / "state.json").read_text())["images"]
    assert [each["done"] for each in held.values()] == [300, 300, 200]
    seen = []
    resumed = smoothed.certify(x, progress=lambda *args: seen.append(args), **settings)
    assert np.array_equal(resumed.successes, whole.successes)
    assert seen[0] == (3, len(x), 300, 300)
    assert len(seen) == 1 + 3 * 3  # what was counted is not counted again


def test_with_labels_only_images_whose_selected_class_is_right_are_counted(linear, tmp_path):
    model, x, _, _ = linear
    smoothed = SmoothedClassifier(model, SIGMA, 2)
    settings = {"n0": 20, "n": 300, "batch_size": 100}
    whole = smoothed.certify(x, **settings)
    assert (whole.prediction >= 0).sum() >= 3
    y = np.where(np.arange(len(x)) % 2, np.maximum(whole.prediction, 0), 1 - np.maximum(whole.prediction, 0))
    seen = []
    state = tmp_path / "state.json"
    found = smoothed.certify(x, y=y, output=state, progress=lambda *args: seen.append(args), **settings)
    right = whole.prediction == y
    assert 0 < right.sum() < len(x)
    assert np.array_equal(found.radius[right], whole.radius[right])
    assert np.array_equal(found.prediction == y, right)
    wrong = (whole.prediction >= 0) & ~right
    assert (found.prediction[wrong] == ABSTAIN).all()
    assert (found.radius[wrong] == 0).all()
    assert seen[-1] == (len(x), len(x), 300, 300)
    assert len(seen) < 3 * len(x)
    # The counts that were spared are made up for when they are asked for.
    assert np.array_equal(smoothed.certify(x, output=state, **settings).successes, whole.successes)
    with pytest.raises(ValueError, match=r"shape \(6,\)"):
        smoothed.certify(x, y=y[:2], **settings)


def test_state_of_another_certification_is_refused(linear, tmp_path):
    model, x, _, _ = linear
    settings = {"n0": 5, "n": 10, "batch_size": 10, "output": tmp_path / "state.json"}
    SmoothedClassifier(model, SIGMA, 2).certify(x[:1], **settings)
    with pytest.raises(ValueError, match="differs in sigma"):
        SmoothedClassifier(model, 0.25, 2).certify(x[:1], **settings)
    # Of the same weights: a layer before it that has none.
    other = keras.Sequential([keras.Input(SHAPE), keras.layers.Rescaling(0.5), model])
    with pytest.raises(ValueError, match="differs in layers"):
        SmoothedClassifier(other, SIGMA, 2).certify(x[:1], **settings)


def test_numbers_may_be_numpys(linear, tmp_path):
    model, x, _, _ = linear
    numbers = {"n0": np.int64(5), "n": np.int32(10), "batch_size": np.int64(10), "seed": np.int64(3)}
    state = tmp_path / "state.json"
    found = SmoothedClassifier(model, np.float32(SIGMA), np.int64(2)).certify(x[:1], output=state, **numbers)
    again = SmoothedClassifier(model, SIGMA, 2).certify(
        x[:1], output=state, **{name: int(number) for name, number in numbers.items()}
    )
    assert found.successes == again.successes


def test_the_counts_do_not_depend_on_the_default_float_type(linear):
    _, x, _, _ = linear
    model = linear_model(2, SHAPE, seed=0)[0]  # whose functions are not compiled yet
    settings = {"n0": 5, "n": 30, "batch_size": 20}
    expected = SmoothedClassifier(linear[0], SIGMA, 2).certify(x[:2], **settings)
    keras.config.set_floatx("float64")
    try:
        found = SmoothedClassifier(model, SIGMA, 2).certify(x[:2], **settings)
    finally:
        keras.config.set_floatx("float32")
    assert np.array_equal(found.successes, expected.successes)


def test_noise_reaches_the_model_unclipped_with_the_given_sigma():
    # Votes for class 1 where the one pixel exceeds 1.2: out of reach for clipped noise.
    model = keras.Sequential([keras.Input((1, 1, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.set_weights([np.array([[0.0, 1.0]], "float32"), np.array([0.0, -1.2], "float32")])
    smoothed = SmoothedClassifier(model, 0.5, 2)
    n = 20_000
    counts = smoothed._count(np.ones((1, 1, 1), "float32"), 0, n, 5000, 0)
    expected = stats.norm.sf(0.2 / 0.5)
    assert abs(counts[1] / n - expected) < 5 * np.sqrt(expected * (1 - expected) / n)  # five standard errors


def test_variables_of_the_model_do_not_change(linear):
    model, x, _, _ = linear
    before = [w.copy() for w in model.get_weights()]
    SmoothedClassifier(model, SIGMA, 2).certify(x[:1], n0=5, n=10, batch_size=10)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_a_copy_with_a_nan_votes_for_no_class():
    inputs = keras.Input((1, 1, 1))
    value = keras.layers.Flatten()(inputs)
    logits = keras.layers.Concatenate()([keras.ops.sqrt(2.0 - value), keras.ops.sqrt(2.0 - value) - 1.0])
    smoothed = SmoothedClassifier(keras.Model(inputs, logits), 2.0, 2)
    counts = smoothed._count(np.ones((1, 1, 1), "float32"), 0, 2000, 1000, 0)
    assert counts[1] == 0
    assert abs(counts[0] / 2000 - stats.norm.cdf(0.5)) < 5 * 0.5 / np.sqrt(2000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma": 0.0}, "`sigma` must be a positive"),
        ({"sigma": 64.0}, "Did you mean 64 / 255"),
        ({"num_classes": 3}, "must be the number of logits"),
        ({"alpha": 0.0}, "`alpha` must be a probability"),
        ({"n": 0}, "`n` must be an integer"),
    ],
)
def test_wrong_arguments_are_explained(linear, arguments, message):
    model, x, _, _ = linear
    made = {"sigma": SIGMA, "num_classes": 2, **arguments}
    called = {name: made.pop(name) for name in ("alpha", "n") if name in made}
    with pytest.raises(ValueError, match=message):
        SmoothedClassifier(model, **made).certify(x[:1], **{"n0": 5, "n": 10, **called})
