"""Searches: the controller finds a planted weak subnet; random draws and L1 norms are what they say."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops
from scipy.stats import binomtest

from keras_robust.layers import KAP, Conv2D, SubnetGate, SubnetSpace, subnet
from keras_robust.training import SGD, ControllerSearch, L1Search, RandomSearch, RobustTrainer, WeakSubnets
from keras_robust.training.checkpoint import load_state, save_state
from keras_robust.training.subnet_controller import score_of_draw
from tests.training.planted import CHANCE, IMAGES, WEAKEST_ACCURACY, is_weakest, planted_images, planted_model

DRAWS = 200
SIGNIFICANT = 0.01
SEARCH = {"hidden": 16, "learning_rate": 0.01, "interval": 1, "samples": 4, "baseline_decay": 0.9}


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def trainer_of(model, search):
    trainer = RobustTrainer(model, terms=[WeakSubnets(search)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(optimizer=SGD(0.0), loss=loss)  # the planted network stays as it is
    return trainer


def fit(trainer, steps):
    x, y = planted_images()
    x, y = np.tile(x, (steps, 1)), np.tile(y, steps)
    return trainer.fit(x, y, batch_size=IMAGES, shuffle=False, verbose=0).history


def found(search, draws=DRAWS):
    seed = keras.random.SeedGenerator(7)
    draw = search.sample if isinstance(search, ControllerSearch) else search.propose
    return sum(is_weakest(draw(seed)) for _ in range(draws))


def accuracy(model, masks):
    x, y = planted_images()
    with subnet(model, masks):
        return float(np.mean(numpy(model(x)).argmax(-1) == y))


def p_value(count, draws=DRAWS):
    return binomtest(count, draws, CHANCE, alternative="greater").pvalue


def test_the_planted_subnet_is_the_weakest():
    model, space = planted_model(l1_misleads=True)
    accuracies = []
    rng = np.random.default_rng(0)
    for _ in range(60):
        masks = space.highest(rng.random(space.size))
        if not is_weakest(masks):
            accuracies.append(accuracy(model, masks))
    planted = space.highest(np.array([1, 0, *(np.isin(range(8), (1, 3, 4, 6)))], "float32"))
    assert is_weakest(planted)
    assert accuracy(model, planted) == pytest.approx(WEAKEST_ACCURACY)
    assert min(accuracies) > WEAKEST_ACCURACY + 0.01
    assert accuracy(model, {}) == 1.0


def test_the_controller_finds_the_planted_subnet_more_often_than_chance():
    model, space = planted_model(l1_misleads=True)
    controller = ControllerSearch(space, **SEARCH)
    assert p_value(found(controller)) > SIGNIFICANT  # before it learns it draws like chance
    fit(trainer_of(model, controller), 150)
    assert p_value(found(controller)) < SIGNIFICANT
    assert p_value(found(RandomSearch(space))) > SIGNIFICANT


def test_l1_norms_are_those_of_averaged_kernels_where_kernels_are_averaged():
    inputs = keras.Input((1, 1, 1))
    x = Conv2D(4, 1, use_bias=False, averaging=KAP(2, dims=1), name="conv")(inputs)
    x = SubnetGate("block", 0, layer="conv", name="gate")(x)
    model = keras.Model(inputs, x)
    # Averages of neighbours: 0, -3.5, 0, 4; without them the first two would be the lowest.
    model.get_layer("conv").set_weights([np.array([3.0, -3.0, -4.0, 4.0]).reshape(1, 1, 1, 4)])
    masks = L1Search(SubnetSpace(model, rho=0.5)).propose(keras.random.SeedGenerator(0))
    np.testing.assert_array_equal(numpy(masks["gate"]), [1, 0, 1, 0])


def test_l1_norms_find_the_planted_subnet_only_where_small_weights_mean_weak():
    for l1_misleads in (False, True):
        _, space = planted_model(l1_misleads=l1_misleads)
        assert found(L1Search(space), draws=1) == (not l1_misleads)


def test_random_search_draws_every_channel_and_path_alike():
    _, space = planted_model(l1_misleads=True)
    search, seed = RandomSearch(space), keras.random.SeedGenerator(3)
    masks = [search.propose(seed) for _ in range(DRAWS)]
    channels = np.array([numpy(each["channel_gate"]) for each in masks])
    paths = np.array([[numpy(each[f"{name}_gate"])[0] for name in ("bad", "good")] for each in masks])
    np.testing.assert_array_equal(channels.sum(-1), 4)
    np.testing.assert_array_equal(paths.sum(-1), 1)
    # 200 draws of probability 1/2 have a standard deviation of 0.035; five of them.
    np.testing.assert_allclose(channels.mean(0), 0.5, atol=0.18)
    np.testing.assert_allclose(paths.mean(0), 0.5, atol=0.18)


def log_probability(logits, order):
    left, total = list(range(len(logits))), 0.0
    for item in order:
        total += logits[item] - np.log(np.exp(logits[left]).sum())
        left.remove(item)
    return total


def test_the_score_is_the_gradient_of_the_log_probability_of_the_order_drawn():
    logits = np.array([[0.5, -1.0, 2.0, 0.0]] * 2)
    scores = np.array([[4.0, -1.0, 2.5, 1.0], [0.5, 3.0, 1.0, 9.0]])
    choice = np.array([[1, 0, 1, 0], [0, 1, 0, 1]])
    parts = (ops.convert_to_tensor(part.astype("float32")) for part in (logits, scores, choice))
    received = numpy(score_of_draw(*parts))
    for row, order in enumerate(([0, 2], [3, 1])):
        steps = 1e-5 * np.eye(4)
        expected = [
            (log_probability(logits[row] + step, order) - log_probability(logits[row] - step, order)) / 2e-5
            for step in steps
        ]
        np.testing.assert_allclose(received[row], expected, atol=1e-5)


def test_subnets_are_drawn_with_the_probability_that_the_controller_gives_them():
    _, space = planted_model(l1_misleads=True)
    controller = ControllerSearch(space, hidden=4, seed=2)
    kernel = controller.weights[controller._names.index("paths_bias")]
    kernel.assign(np.array([0.0, np.log(3.0)], "float32"))  # the good path three times as often, or nearly
    weights = [ops.convert_to_tensor(variable) for variable in controller.weights]
    choices, _ = controller._draw(weights, controller._noise(keras.random.SeedGenerator(1), 400))
    paths = numpy(choices[0])
    logits = numpy(controller._decide(weights, 400, lambda number, logits: choices[number])[0][0])
    expected = np.exp(logits[0]) / np.exp(logits[0]).sum()
    # 400 draws have a standard deviation of up to 0.025; four of them.
    np.testing.assert_allclose(paths.mean(0), expected, atol=0.1)
    np.testing.assert_array_equal(numpy(choices[1]).sum(-1), 4)


def test_each_step_trains_another_subnet_drawn_after_the_update():
    model, space = planted_model(l1_misleads=True)
    controller = ControllerSearch(space, **SEARCH | {"interval": 3})
    trainer, seed = trainer_of(model, controller), keras.random.SeedGenerator(0)
    rows = []
    for _ in range(4):
        fit(trainer, 1)
        rows.append(np.concatenate([numpy(mask) for mask in controller.propose(seed).values()]))
        proposals = numpy(controller._proposals)
        if len(rows) == 3:
            first = proposals.copy()
    assert len({row.tobytes() for row in rows}) > 2
    assert len(np.unique(first, axis=0)) > 1
    assert not np.array_equal(first, proposals)


def test_an_update_takes_place_every_interval_and_no_weight_changes_between():
    model, space = planted_model(l1_misleads=True)
    controller = ControllerSearch(space, **SEARCH | {"interval": 3})
    trainer = trainer_of(model, controller)
    updates, weights = [], [numpy(controller.weights[0]).copy()]
    for _ in range(5):
        fit(trainer, 1)
        updates.append(int(numpy(controller.updates)))
        weights.append(numpy(controller.weights[0]).copy())
    assert updates == [1, 1, 1, 2, 2]
    changed = [not np.array_equal(one, other) for one, other in itertools.pairwise(weights)]
    assert changed == [True, False, False, True, False]
    assert int(numpy(controller.step)) == 5


def test_the_baseline_starts_from_the_first_accuracy_and_follows_slowly_across_epochs():
    model, space = planted_model(l1_misleads=True)
    controller = ControllerSearch(space, **SEARCH | {"learning_rate": 1e-12, "baseline_decay": 0.5})
    trainer = trainer_of(model, controller)
    fit(trainer, 1)
    first = float(numpy(controller.baseline))
    assert 0.1 <= first <= 0.8  # a mean of four accuracies
    fit(trainer, 40)
    # Channels of 1 to 4 frequent classes are kept alike, and the paths; the mean over subnets is (0.5 + 0.25) / 2.
    assert float(numpy(controller.baseline)) == pytest.approx(0.375, abs=0.2)


def test_a_controller_resumes_with_its_weights_optimizer_and_baseline(tmp_path):
    unbroken = {}
    for name, cut in (("unbroken", None), ("resumed", 2)):
        model, space = planted_model(l1_misleads=True)
        controller = ControllerSearch(space, **SEARCH)
        trainer = trainer_of(model, controller)
        if cut is None:
            fit(trainer, 4)
        else:
            fit(trainer, cut)
            save_state(tmp_path / "state", trainer, {"epoch": 1})
            model, space = planted_model(l1_misleads=True)
            controller = ControllerSearch(space, **SEARCH | {"seed": 5})
            trainer = trainer_of(model, controller)
            load_state(tmp_path / "state", trainer)
            fit(trainer, 4 - cut)
        unbroken[name] = [numpy(variable) for variable in controller.variables]
    for one, other in zip(unbroken["unbroken"], unbroken["resumed"], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.once
def test_options_out_of_range_are_refused():
    _, space = planted_model(l1_misleads=True)
    with pytest.raises(ValueError, match="`interval` must be an integer of at least 1"):
        ControllerSearch(space, interval=0)
    with pytest.raises(ValueError, match=r"`learning_rate` must be positive.*learning_rate=0"):
        ControllerSearch(space, learning_rate=0)
