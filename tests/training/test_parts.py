"""Every part of a recipe becomes the object that its table describes."""

import hashlib

import numpy as np
import pytest

from keras_robust.training import (
    AWP,
    Adversarial,
    ControllerSearch,
    CrossEntropy,
    FreeAdversarial,
    GaussianNoiseInput,
    JensenShannon,
    L1Search,
    RandomSearch,
    Trades,
    parse_recipe,
    parts,
)
from keras_robust.training.tables import ExtraDataTable
from tests.training import nets

pytestmark = pytest.mark.once

CONTENT = {
    "name": "cnn_digits.test",
    "dataset": {"name": "digits", "validation_fraction": 0.1},
    "model": {"builder": "kap_cnn"},
    "training": {"epochs": 20, "batch_size": 64},
    "optimizer": {"name": "sgd", "learning_rate": 0.1},
}


def recipe(**tables):
    return parse_recipe({**CONTENT, **tables})


def test_perturbations_come_in_the_order_of_the_recipe_with_its_values():
    adversarial = {"type": "adversarial", "norm": "L2", "epsilon": 0.5, "steps": 7, "model_mode": "train"}
    noise = {"type": "gaussian_noise", "sigma": 0.1}
    first, second = parts.make_perturbations(recipe(perturbations=[adversarial, noise]), (8, 8, 1))
    assert isinstance(first, Adversarial)
    assert (first.norm, first.steps, first.model_mode, first.step_size) == ("L2", 7, "train", None)
    assert float(first.epsilon.numpy()) == pytest.approx(0.5)
    assert isinstance(second, GaussianNoiseInput)


def test_free_training_takes_the_batch_of_the_recipe():
    table = {"type": "free_adversarial", "epsilon": 0.1, "replays": 4}
    (part,) = parts.make_perturbations(recipe(perturbations=[table]), (8, 8, 1))
    assert isinstance(part, FreeAdversarial)
    assert tuple(part.delta.shape) == (64, 8, 8, 1)


def test_objectives_have_the_values_of_the_recipe():
    assert parts.make_objective(recipe()) is None
    trades = parts.make_objective(recipe(objective={"type": "trades", "epsilon": 0.1, "beta": 3}))
    assert isinstance(trades, Trades)
    assert (trades.beta, trades.perturbation.steps, trades.perturbation.loss) == (3, 10, "kl")
    papers = parts.make_objective(recipe(objective={"type": "trades", "epsilon": 0.031}))
    assert papers.perturbation.step_size == pytest.approx(0.00775)
    smooth = parts.make_objective(recipe(objective={"type": "cross_entropy", "label_smoothing": 0.1}))
    assert isinstance(smooth, CrossEntropy)
    assert smooth.label_smoothing == 0.1


def test_three_views_reach_every_part_that_counts_images():
    tables = {
        "augmentation": {"augmix": {}},
        "objective": {"type": "jensen_shannon"},
        "weak_subnets": {},
        "perturbations": [{"type": "free_adversarial", "epsilon": 0.1, "replays": 4}],
    }
    objective = parts.make_objective(recipe(**tables))
    assert isinstance(objective, JensenShannon)
    assert objective.weight == 12
    assert parts.make_terms(recipe(**tables), nets.dense())[0].views == 3
    (part,) = parts.make_perturbations(recipe(**tables), (8, 8, 1))
    assert tuple(part.delta.shape) == (192, 8, 8, 1)
    assert parts.make_terms(recipe(weak_subnets={}), nets.dense())[0].views == 1


def test_the_warm_up_of_awp_is_counted_in_steps():
    assert parts.make_weight_perturbation(recipe(), [7]) is None
    table = {"type": "awp", "gamma": 0.005, "warmup_epochs": 10}
    part = parts.make_weight_perturbation(recipe(weight_perturbation=table), [7])
    assert isinstance(part, AWP)
    assert part.warmup == 70
    assert float(part.gamma.numpy()) == pytest.approx(0.005)


def test_the_warm_up_of_awp_takes_the_steps_of_each_phase():
    tables = {
        "phases": [{"epochs": 4, "batch_size": 128}, {"epochs": 16, "batch_size": 16}],
        "weight_perturbation": {"type": "awp", "warmup_epochs": 10},
    }
    assert parts.make_weight_perturbation(recipe(**tables), [10, 80]).warmup == 4 * 10 + 6 * 80


def test_weak_subnets_have_the_search_and_the_values_of_the_recipe():
    model = nets.dense()
    assert parts.make_terms(recipe(), model) == []
    table = {"rho": 0.5, "interval": 4, "entropy_weight": 0.01, "distillation_weight": 6.0, "clean_weight": 1.0}
    (term,) = parts.make_terms(recipe(weak_subnets=table), model)
    assert isinstance(term.search, ControllerSearch)
    assert (term.search.interval, term.search.entropy_weight, term.search.samples) == (4, 0.01, 1)
    assert (term.distillation_weight, term.clean_weight, term.search.space.rho) == (6.0, 1.0, 0.5)
    for name, kind in (("random", RandomSearch), ("l1", L1Search)):
        (term,) = parts.make_terms(recipe(weak_subnets={"search": name}), model)
        assert isinstance(term.search, kind)
    with pytest.raises(ValueError, match="must hold SubnetGate layers"):
        parts.make_terms(recipe(weak_subnets={}), nets.linear())


def test_early_stopping_attacks_the_images_that_it_is_given():
    x, y = np.zeros((3, 8, 8, 1), "float32"), np.zeros(3, int)
    assert parts.make_early_stopping(recipe(), x, y) is None
    table = {"type": "robust_accuracy", "epsilon": 0.1}
    part = parts.make_early_stopping(recipe(early_stopping=table), x, y)
    assert (part.attack.epsilon, part.attack.steps, part.attack.norm) == (0.1, 20, "Linf")
    assert parts.make_early_stopping(recipe(early_stopping={"type": "accuracy"}), x, y).attack is None


def extra_file(folder, **arrays):
    np.savez(folder / "extra.npz", **arrays)
    digest = hashlib.sha256((folder / "extra.npz").read_bytes()).hexdigest()
    return ExtraDataTable(file="extra.npz", sha256=digest)


def test_extra_data_are_read_where_the_digest_agrees(tmp_path):
    pixels = np.arange(16, dtype="uint8").reshape(4, 2, 2, 1)
    table = extra_file(tmp_path, pixels=pixels, labels=np.arange(4))
    found, labels = parts.read_extra_data(table, tmp_path, 10)
    np.testing.assert_array_equal(found, pixels)
    assert labels.dtype == np.int32


@pytest.mark.parametrize("labels", [[0, 10], [-1, 0], [[0], [1]], [0.0, 1.0]])
def test_labels_of_extra_data_must_be_classes_of_the_data_set(tmp_path, labels):
    table = extra_file(tmp_path, pixels=np.zeros((2, 2, 2, 1), "uint8"), labels=np.array(labels))
    with pytest.raises(ValueError, match=r"Labels must|`labels` must"):
        parts.read_extra_data(table, tmp_path, 10)


def test_extra_data_that_are_absent_changed_or_incomplete_are_refused(tmp_path):
    table = extra_file(tmp_path, pixels=np.zeros((1, 2, 2, 1), "uint8"))
    with pytest.raises(ValueError, match="`pixels` and `labels`"):
        parts.read_extra_data(table, tmp_path, 10)
    with pytest.raises(ValueError, match="SHA-256"):
        parts.read_extra_data(table.model_copy(update={"sha256": "0" * 64}), tmp_path, 10)
    with pytest.raises(ValueError, match="absent"):
        parts.read_extra_data(table, tmp_path / "elsewhere", 10)
