import keras
import numpy as np
import pytest
from keras import ops

from keras_robust import losses, norms
from keras_robust.attacks import FGSM, PGD, Predictor
from keras_robust.layers import noise_at_inference
from keras_robust.models import insert_noise
from tests.attacks.contract import EPSILON, contract_data, contract_model
from tests.attacks.linear import best_gain, closest_distance, linear_model

EXACT = 1e-4  # pixels in float32 under weights of size 1, summed over 64 features


def share_of_optimum(attack, low=0.0, high=1.0, shape=(8, 8, 1), lead=0.0):
    """Gain of the attack on a linear model of two classes, as a share of the closed-form optimum."""
    model, weights, bias = linear_model(2, shape, seed=0)
    bias[1] += lead  # of the true class
    model.layers[-1].set_weights([weights, bias])
    slope = weights[:, 0] - weights[:, 1]
    x = np.random.default_rng(1).uniform(low, high, (8, *shape)).astype("float32")
    x_adv = attack(model, x, np.ones(8, int))
    return (x_adv - x).reshape(8, -1) @ slope / best_gain(attack.norm, attack.epsilon, x, slope)


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("random_start", [True, False])
def test_pgd_finds_the_optimum_of_a_linear_model_in_linf(loss, random_start):
    share = share_of_optimum(PGD("Linf", 0.1, loss=loss, random_start=random_start))
    np.testing.assert_allclose(share, 1, atol=EXACT)


def test_pgd_finds_the_optimum_of_a_linear_model_in_l2_where_the_box_is_far():
    share = share_of_optimum(PGD("L2", 0.5, random_start=False, loss="margin"), 0.4, 0.6)
    assert share.min() >= 0.999
    assert share.max() <= 1 + EXACT


@pytest.mark.parametrize(("norm", "epsilon"), [("Linf", 0.1), ("L2", 0.5), ("L1", 6.0)])
@pytest.mark.parametrize("lead", [25.0, 60.0])
def test_the_cross_entropy_shows_the_way_where_the_model_is_sure(norm, epsilon, lead):
    share = share_of_optimum(PGD(norm, epsilon, random_start=False), 0.4, 0.6, lead=lead)
    assert share.min() >= 0.997


def test_pgd_comes_close_to_the_optimum_in_l2_where_the_box_cuts_the_ball():
    # The projection on the ball, then the box, is not the projection on both: the usual PGD falls short a little.
    share = share_of_optimum(PGD("L2", 3.0, steps=40, random_start=False, loss="margin"))
    assert share.min() >= 0.97
    assert share.max() <= 1 + EXACT


@pytest.mark.parametrize("epsilon", [1.0, 6.0, 12.0])
def test_pgd_finds_the_optimum_of_a_linear_model_in_l1(epsilon):
    share = share_of_optimum(PGD("L1", epsilon, random_start=False, loss="margin"))
    np.testing.assert_allclose(share, 1, atol=1e-3)  # the bisection stops at a millionth of the largest gradient


@pytest.mark.parametrize(("norm", "epsilon", "least"), [("L2", 0.5, 0.97), ("L1", 6.0, 0.97)])
def test_a_random_start_costs_little_of_the_optimum(norm, epsilon, least):
    assert share_of_optimum(PGD(norm, epsilon, steps=40, loss="margin")).min() >= least


def test_fgsm_finds_the_optimum_of_a_linear_model_where_one_step_reaches_it():
    np.testing.assert_allclose(share_of_optimum(FGSM("Linf", 0.1)), 1, atol=EXACT)
    assert share_of_optimum(FGSM("L2", 0.5), 0.4, 0.6).min() >= 0.999


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_pgd_breaks_a_linear_model_exactly_outside_the_distance_to_its_boundary(norm):
    model, weights, bias = linear_model(2, (6, 6, 1), seed=4)
    x = np.random.default_rng(2).uniform(0.3, 0.7, (16, 6, 6, 1)).astype("float32")
    y = (x.reshape(16, -1) @ weights + bias).argmax(1)
    distance = closest_distance(norm, x, weights[:, 0] - weights[:, 1], bias[0] - bias[1])
    epsilon = float(np.median(distance))
    attack = PGD(norm, epsilon, steps=40, random_start=False, loss="margin")
    broken = Predictor.of(model).predict(attack(model, x, y)).argmax(1) != y
    np.testing.assert_array_equal(broken[distance < 0.99 * epsilon], True)
    np.testing.assert_array_equal(broken[distance > epsilon * (1 + EXACT)], False)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_pgd_comes_close_to_the_best_class_of_a_linear_model_of_five(norm):
    model, weights, bias = linear_model(5, (8, 8, 1), seed=0)
    x = np.random.default_rng(1).uniform(0, 1, (20, 8, 8, 1)).astype("float32")
    logits = x.reshape(20, -1) @ weights + bias
    y, rows = logits.argmax(1), np.arange(20)
    epsilon = {"Linf": 0.02, "L2": 0.2, "L1": 0.6}[norm]
    gaps = [logits[:, t] - logits[rows, y] for t in range(5)]
    gains = [best_gain(norm, epsilon, x, (weights[:, [t]] - weights[:, y]).T) for t in range(5)]
    best = np.max([np.where(y == t, -np.inf, gaps[t] + gains[t]) for t in range(5)], axis=0)
    found = PGD(norm, epsilon, steps=20, loss="margin", restarts=2)(model, x, y)
    margin = ops.convert_to_numpy(losses.margin(ops.convert_to_tensor(Predictor.of(model).predict(found)), y))
    clean = np.max([np.where(y == t, -np.inf, gaps[t]) for t in range(5)], axis=0)
    robust = best < 0  # a broken row may stop at any point beyond the boundary
    assert (margin <= best + EXACT * np.abs(clean)).all()
    assert (((margin - clean) / (best - clean))[robust] > 0.9).all()
    np.testing.assert_array_equal(margin > 0, best > 0)


def test_more_restarts_never_lower_the_loss():
    model = contract_model()
    x, y = contract_data(model)

    def score(restarts):
        found = PGD("L2", EPSILON["L2"], steps=3, restarts=restarts)(model, x, y)
        logits = Predictor.of(model).predict(found)
        broken = logits.argmax(1) != y
        return broken, ops.convert_to_numpy(losses.cross_entropy(ops.convert_to_tensor(logits), y))

    (broken, loss), (broken_more, loss_more) = score(1), score(3)
    assert (broken_more | ~broken).all()
    robust = ~broken_more
    assert (loss_more >= loss - EXACT)[robust].all()


def test_one_step_from_the_clean_image_is_fgsm():
    model = contract_model()
    x, y = contract_data(model)
    step = PGD("Linf", 0.02, step_size=0.02, steps=1, random_start=False)
    np.testing.assert_array_equal(step(model, x, y), FGSM("Linf", 0.02)(model, x, y))


def test_another_epsilon_does_not_trace_the_model_again():
    model = contract_model()
    x, y = contract_data(model)
    calls = []
    inner = model.stateless_call
    model.stateless_call = lambda *values, **options: calls.append(1) or inner(*values, **options)
    for _ in range(3):  # PyTorch records at the third call
        PGD("Linf", 0.01)(model, x, y)
    first = len(calls)
    PGD("Linf", 0.03)(model, x, y)
    assert len(calls) == first


@pytest.mark.parametrize(
    ("attack", "before"),
    [
        (PGD("Linf", 0.05, steps=3), PGD("Linf", 0.05, steps=7)),
        (PGD("Linf", 0.05, steps=3, random_start=False), FGSM("Linf", 0.05)),
    ],
)
def test_the_result_on_a_random_model_does_not_depend_on_the_steps_of_an_attack_before(attack, before):
    x = contract_data(contract_model())[0]
    y = np.arange(len(x)) % 5

    def result(*attacks):
        model = insert_noise(contract_model(), 0.2, seed=0)
        with noise_at_inference(model, inputs=True, activations=True):
            return [each(model, x, y) for each in attacks][-1]

    np.testing.assert_array_equal(result(before, attack), result(attack))


@pytest.mark.parametrize("keep_best", [True, False])
def test_perturb_can_climb_another_objective_from_a_start(keep_best):
    model = contract_model()
    x, y = contract_data(model)
    attack = PGD("L2", 0.2, steps=5)
    start = norms.L2.sample(x.shape, lambda shape: keras.random.normal(shape, seed=0))

    def run(logits, images, labels):
        clean = logits(images, 0)
        return attack.perturb(
            logits, images, labels, start, objective=lambda each: losses.kl(clean, each), keep_best=keep_best
        )

    images, labels = ops.convert_to_tensor(x), ops.convert_to_tensor(y)
    found, _ = Predictor.of(model).compiled(("kl", keep_best), run)(images, labels)
    logits = [
        ops.convert_to_tensor(Predictor.of(model).predict(ops.convert_to_numpy(each))) for each in (x, found)
    ]
    divergence = ops.convert_to_numpy(losses.kl(*logits))
    assert (divergence > 0.01).all()
    assert float(ops.max(norms.L2.length(found - images))) <= 0.2 + 1e-5


def test_averaging_gradients_finds_what_one_noisy_gradient_misses():
    class Noise(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.seed_generator = keras.random.SeedGenerator(0)

        def call(self, x):
            return x * keras.random.uniform(keras.ops.shape(x), -6.0, 8.0, seed=self.seed_generator)

    linear, weights, _ = linear_model(2, (6, 6, 1), seed=1)
    linear.layers[-1].kernel.assign(linear.layers[-1].kernel * 0.1)  # away from saturation
    model = keras.Sequential([keras.Input((6, 6, 1)), Noise(), linear])
    x = np.full((32, 6, 6, 1), 0.5, "float32")
    slope = weights[:, 0] - weights[:, 1]

    def gain(eot):
        x_adv = FGSM("Linf", 0.1, eot=eot)(model, x, np.ones(32, int))
        return ((x_adv - x).reshape(32, -1) @ slope).mean()

    assert gain(64) > 1.5 * gain(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps` must be an integer of at least 1"),
        ({"step_size": -1.0}, "`step_size` must be a positive number"),
        ({"loss": "hinge"}, "`loss` must be one of"),
        ({"restarts": 2, "random_start": False}, "needs `random_start=True`"),
        ({"epsilon": 0}, "`epsilon` must be a positive number"),
    ],
)
def test_pgd_refuses_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        PGD(**options)


def test_dlr_on_two_classes_names_the_margin_instead():
    model, _, _ = linear_model(2, (4, 4, 1), seed=0)
    with pytest.raises(ValueError, match="Use loss='margin'"):
        PGD(loss="dlr")(model, np.full((2, 4, 4, 1), 0.5), np.zeros(2, int))
