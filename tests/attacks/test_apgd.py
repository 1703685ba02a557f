import dataclasses

import keras
import numpy as np
import pytest

from keras_robust import norms
from keras_robust.attacks import APGD, Predictor, apgd
from tests.attacks.contract import contract_data, contract_model
from tests.attacks.linear import best_gain, linear_model

SHAPE = (6, 6, 3)


def _two_classes(low=0.0, high=1.0, count=16):
    """Images of one class, far from the boundary, so that none is broken and every step of the attack counts."""
    model, weights, bias = linear_model(2, SHAPE, seed=0)
    bias = bias + np.array([60.0, 0.0])
    model.set_weights([0.05 * weights.astype("float32"), 0.05 * bias.astype("float32")])  # keeps the loss curved
    x = np.random.default_rng(1).uniform(low, high, (count, *SHAPE)).astype("float32")
    assert np.all((x.reshape(count, -1) @ weights + bias).argmax(1) == 0)
    return model, x, np.zeros(count, "int32"), weights[:, 1] - weights[:, 0]


def _gain(x_adv, x, w, norm, epsilon):
    return ((x_adv - x).reshape(len(x), -1) @ w) / best_gain(norm, epsilon, x, w)


def _wide_and_broken(count=64):
    """A model that any step breaks on nearly all images."""
    model, weights, bias = linear_model(5, SHAPE, seed=2)
    x = np.random.default_rng(3).uniform(0.2, 0.8, (count, *SHAPE)).astype("float32")
    y = (x.reshape(count, -1) @ weights + bias).argmax(1).astype("int32")
    return model, x, y


@pytest.mark.parametrize(
    ("norm", "epsilon", "low", "high", "share"),
    [
        ("Linf", 0.05, 0.0, 1.0, 0.999),
        ("L2", 0.3, 0.4, 0.6, 0.999),  # the box is inactive
        ("L2", 1.0, 0.0, 1.0, 0.98),  # the box is active: ball, then box is not the projection on both
    ],
)
@pytest.mark.parametrize("loss", ["cross_entropy", "targeted_dlr"])
def test_apgd_finds_the_optimum_of_a_linear_model(norm, epsilon, low, high, share, loss):
    model, x, y, w = _two_classes(low, high)
    x_adv = APGD(norm, epsilon, loss=loss)(model, x, y)
    assert _gain(x_adv, x, w, norm, epsilon).min() >= share


def test_apgd_with_the_large_epsilon_schedule_comes_near_the_optimum_in_an_l1_ball():
    model, x, y, w = _two_classes()
    x_adv = APGD("L1", 5.0, large_epsilon_schedule=True)(model, x, y)
    assert _gain(x_adv, x, w, "L1", 5.0).min() >= 0.9  # the reference reaches 0.5 to 0.99


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [False, True])
def test_apgd_gains_no_less_than_the_reference_in_an_l1_ball(schedule):
    if keras.backend.backend() != "torch":
        pytest.skip("the reference runs on PyTorch")
    reference = pytest.importorskip("pyautoattack.autopgd_base")
    model, x, y, w = _two_classes()
    attack = reference.APGDAttack(lambda t: model(t), norm="L1", eps=5.0, use_largereps=schedule, device="cpu")
    tensors = (keras.ops.convert_to_tensor(x), keras.ops.cast(keras.ops.convert_to_tensor(y), "int64"))
    if schedule:
        attack.init_hyperparam(tensors[0])
        theirs = attack.decr_eps_pgd(*tensors, [15.0, 10.0, 5.0], [30, 30, 40])[0]
    else:
        theirs = attack.perturb(*tensors, best_loss=True)
    theirs = _gain(keras.ops.convert_to_numpy(theirs), x, w, "L1", 5.0)
    ours = _gain(APGD("L1", 5.0, large_epsilon_schedule=schedule)(model, x, y), x, w, "L1", 5.0)
    assert ours.mean() >= theirs.mean() - 0.02
    assert ours.min() >= theirs.min() - 0.02


@pytest.mark.once
def test_checkpoints_are_those_of_the_paper():
    assert [step for step, _ in apgd.checkpoints(100)] == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_apgd_drops_broken_rows_early_with_the_same_result(norm, monkeypatch):
    model, x, y = _wide_and_broken()
    attack = APGD(norm, {"Linf": 0.04, "L2": 0.4}[norm])
    predictor = Predictor.of(model)
    predictor.backward_passes = 0
    early = attack(model, x, y, batch_size=64)
    passes = predictor.backward_passes
    monkeypatch.setattr(apgd, "_ENDS", ())
    late = attack(model, x, y, batch_size=64)
    early_broken, late_broken = (predictor.predict(each).argmax(1) != y for each in (early, late))
    np.testing.assert_array_equal(early_broken, late_broken)
    assert 0.8 < early_broken.mean() < 1
    assert passes * 4 < 101 * len(x)
    # other batch sizes, other rounding
    np.testing.assert_allclose(early[~early_broken], late[~early_broken], atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 9])
def test_apgd_takes_every_other_class_as_target_where_there_are_few(classes):
    model, weights, bias = linear_model(classes, SHAPE, seed=4)
    x = np.random.default_rng(5).uniform(0, 1, (1, *SHAPE)).astype("float32")
    y = (x.reshape(1, -1) @ weights + bias).argmax(1).astype("int32")
    for loss in ("dlr", "targeted_dlr"):
        attack = APGD("Linf", 0.01, steps=5, loss=loss)
        assert attack.stages(classes) == (classes - 1 if loss == "targeted_dlr" else 1)
        x_adv = attack(model, x, y)
        assert np.isfinite(x_adv).all()
        assert np.abs(x_adv - x).max() > 0.005


@pytest.mark.once
def test_targets_are_ranked_on_the_clean_image_without_the_true_class():
    logits = np.array([[0.1, 3.0, 2.0], [0.1, 3.0, 2.0]], "float32")
    y = keras.ops.convert_to_tensor(np.array([1, 2], "int32"))
    assert keras.ops.convert_to_numpy(apgd.ranked_targets(logits, y, 0)).tolist() == [2, 1]
    assert keras.ops.convert_to_numpy(apgd.ranked_targets(logits, y, 1)).tolist() == [0, 0]


def test_apgd_serves_all_epsilons_steps_and_targets_with_one_compilation():
    model = contract_model()
    x, y = (each[:1] for each in contract_data(model))
    predictor = Predictor.of(model)
    APGD("Linf", 0.01, steps=5, loss="targeted_dlr")(model, x, y)
    before = len(predictor._compiled)
    APGD("Linf", 0.02, steps=5, loss="targeted_dlr", targets=2, restarts=2, rho=0.5)(model, x, y)
    assert len(predictor._compiled) == before


class Jitter(keras.layers.Layer):
    """Multiplies every pixel by 1 + noise, at inference too."""

    def __init__(self):
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, x):
        return x * (1.0 + keras.random.normal(keras.ops.shape(x), seed=self.seed_generator))


def test_apgd_averages_gradients_over_passes_of_a_randomised_model():
    plain, x, y, w = _two_classes(0.4, 0.6)
    image = keras.Input(SHAPE)
    noisy = keras.Model(image, plain(Jitter()(image)))  # the gradient is the plain one on average alone
    gains = {}
    for eot in (1, 16):
        predictor = Predictor.of(noisy)
        predictor.backward_passes = 0
        x_adv = APGD("L2", 0.3, steps=10, eot=eot)(noisy, x, y)
        gains[eot] = _gain(x_adv, x, w, "L2", 0.3).mean()
        assert predictor.backward_passes == 11 * eot * len(x)
    assert gains[1] < 0.9 < gains[16]


def test_apgd_averaging_changes_nothing_on_a_deterministic_model():
    model, x, y, _ = _two_classes()
    attack = APGD("Linf", 0.05, steps=8)
    np.testing.assert_allclose(attack(model, x, y), dataclasses.replace(attack, eot=3)(model, x, y), atol=1e-6)


def test_apgd_stays_in_the_l1_ball_after_the_large_phases():
    model = contract_model()
    x, y = contract_data(model)
    x_adv = APGD("L1", 1.0, steps=10, large_epsilon_schedule=True)(model, x, y)
    assert keras.ops.convert_to_numpy(norms.L1.length(x_adv - x)).max() <= 1.0 + 1e-4  # rounding of 108 terms


@pytest.mark.once
@pytest.mark.parametrize(
    "options",
    [
        {"norm": "L0"},
        {"epsilon": 8},
        {"steps": 0},
        {"loss": "ce"},
        {"rho": 1.5},
        {"large_epsilon_schedule": True},
    ],
)
def test_apgd_names_a_wrong_option(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        APGD(**options)
