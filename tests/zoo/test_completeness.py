"""Every entry of the zoo has been measured by all that its threat model asks for, on images enough."""

import pytest

from keras_robust.zoo.entry import WEIGHTS, Entry
from keras_robust.zoo.registry import find, folders

pytestmark = pytest.mark.once

IMAGES = {"digits": (360, 360, 200), "mnist": (1_000, 1_000, 200), "cifar10": (1_000, 1_000, 200)}
"""Images of clean accuracy, of the attacks, and of AutoAttack's attacks alone."""
SMALLER = {
    "preact_resnet18_cifar10.at_ews": (1_000, 500, 200),
    "preact_resnet18_cifar10.at_vanilla": (1_000, 250, 200),
    "resnet18_cifar10.at_es_l2_1.0": (500, 64, 10),
    "resnet18_cifar10.trades_l2_1.0": (500, 64, 10),
}
"""Entries whose attacks are too dear for processors: their tables and cards say on how many images."""
LARGER = {f"wm_resnet_{data}.conv_300_epochs": (10_000, 1_000, 200) for data in ("mnist", "cifar10")}
"""Entries in the paper's length, whose clean accuracy is held against the paper's on the same images."""
MISSES = {"wm_resnet_cifar10.conv_300_epochs"}
"""Those of them that lie more than a point and a half from the paper: their cards say so."""
STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")


def measured(name):
    return Entry.load(find(name)).metrics


@pytest.mark.parametrize("name", sorted(folders()))
def test_clean_pgd_and_autoattack_in_sequence_and_alone(name):
    metrics = measured(name)
    attacks = {metric.name: metric.images for metric in metrics if metric.kind == "attack"}
    clean, attacked, alone = (SMALLER | LARGER).get(name, IMAGES[metrics[0].data.dataset])
    assert [metric.images for metric in metrics if metric.kind == "clean"] == [clean]
    assert {images for attack, images in attacks.items() if not attack.endswith("alone")} == {attacked}
    assert {images for attack, images in attacks.items() if attack.endswith("alone")} == {alone}
    assert any(attack.startswith("PGD ") for attack in attacks)
    whole = {each for each in attacks if each.startswith("AutoAttack ") and not each.endswith((*STAGES, "alone"))}
    assert whole, "no entry is complete without AutoAttack"
    missing = {f"{each}, {stage} alone" for each in whole for stage in STAGES} - attacks.keys()
    assert not missing


@pytest.mark.parametrize("name", LARGER)
def test_clean_accuracy_in_the_papers_length_is_the_papers_within_a_point_and_a_half_or_the_card_says_so(name):
    entry = Entry.load(find(name))
    (clean,) = (metric.value for metric in entry.metrics if metric.kind == "clean")
    (paper,) = (reported.value for reported in entry.reported if reported.name == "clean")
    assert (abs(clean - paper) > 0.015) == (name in MISSES)
    errors = (f"{100 - 100 * each:.2f}" for each in (clean, paper))
    assert all(error in entry.limits[0] for error in errors)


@pytest.mark.parametrize("name", sorted(name for name in folders() if ".noise_" in name))
def test_what_was_trained_with_noise_is_certified(name):
    certified = [metric for metric in measured(name) if metric.kind == "certified"]
    assert certified
    assert all(metric.images >= 100 and metric.attack["n"] >= 10_000 for metric in certified)


@pytest.mark.parametrize("name", sorted(name for name in folders() if "_cifar10." in name))
def test_cifar10_entries_have_the_error_under_corruptions(name):
    assert any(metric.name == "corruptions, mean" for metric in measured(name))


@pytest.mark.parametrize("name", sorted(folders()))
def test_no_number_is_of_code_that_was_not_committed(name):
    assert [metric.name for metric in measured(name) if "+" in metric.environment.code_commit] == []


def test_weights_stay_within_what_a_checkout_can_bear():
    sizes = {name: find(name).joinpath(WEIGHTS).stat().st_size for name in folders()}
    assert max(sizes.values()) <= 24_000_000
    assert sum(sizes.values()) <= 200_000_000
