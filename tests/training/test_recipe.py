"""Recipes: what is accepted, what every message names, and what the digest depends on."""

import copy

import pytest

from keras_robust.training import load_recipe, parse_recipe

pytestmark = pytest.mark.once

CONTENT = {
    "name": "cnn_digits.standard",
    "dataset": {"name": "digits"},
    "model": {"builder": "kap_cnn", "arguments": {"depth": 2}},
    "training": {"epochs": 20, "batch_size": 64},
    "optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9},
}


def changed(table, **values):
    content = copy.deepcopy(CONTENT)
    content.setdefault(table, {}).update(values)
    return content


def test_a_recipe_needs_only_name_data_model_length_and_optimizer():
    recipe = parse_recipe(CONTENT)
    assert recipe.schedule.type == "constant"
    assert recipe.augmentation.random_crop == 0
    assert recipe.perturbations == []


def test_an_unknown_key_is_named_with_the_file_its_value_and_a_close_match():
    with pytest.raises(ValueError, match=r"x\.toml.*\n.*`optimizer\.learning_rat`.*0\.5.*'learning_rate'"):
        parse_recipe(changed("optimizer", learning_rat=0.5), source="x.toml")


def test_an_unknown_table_is_named_with_a_close_match():
    with pytest.raises(ValueError, match=r"`optimiser`.*Did you mean 'optimizer'"):
        parse_recipe({**CONTENT, "optimiser": {}})


def test_an_unknown_key_inside_a_list_of_tables_is_named_with_its_position():
    attack = {"name": "pgd", "norm": "Linf", "epsilon": 0.1, "step": 3}
    with pytest.raises(ValueError, match=r"`evaluation\.attacks\.0\.step`.*'steps'"):
        parse_recipe(changed("evaluation", attacks=[attack]))


@pytest.mark.parametrize(
    ("table", "values", "named"),
    [
        ("training", {"epochs": 0}, r"`training\.epochs`.*greater than or equal to 1.*Received: 0"),
        ("training", {"epochs": "20"}, r"`training\.epochs`.*valid integer.*Received: '20'"),
        ("training", {"batch_size": 64.5}, r"`training\.batch_size`"),
        ("optimizer", {"name": "rmsprop"}, r"`optimizer\.name`.*'sgd' or 'adam'.*Received: 'rmsprop'"),
        ("optimizer", {"learning_rate": -0.1}, r"`optimizer\.learning_rate`.*greater than 0"),
        ("optimizer", {"name": "adam"}, r"`optimizer`.*`momentum`.*belong to the optimizer 'sgd'"),
        ("schedule", {"type": "piecewise"}, r"`milestones` \(epochs\) must be given"),
        ("schedule", {"milestones": [5]}, r"`milestones` \(epochs\) must be given .* only for it"),
        ("schedule", {"type": "piecewise", "milestones": [5, 3]}, r"`milestones` must be positive and rise"),
        ("schedule", {"type": "piecewise", "milestones": [20]}, r"smaller than `training\.epochs`, 20"),
        ("augmentation", {"random_crop": -1}, r"`augmentation\.random_crop`"),
        ("augmentation", {"auto_augment": "svhn"}, r"`augmentation\.auto_augment`.*'cifar10' or 'imagenet'"),
        ("augmentation", {"augmix": {"severity": 0.0}}, r"`augmentation\.augmix\.severity`.*0\.1"),
        (
            "augmentation",
            {"augmix": {"level": 3}},
            r"unknown key `augmentation\.augmix\.level`.*Known keys: width",
        ),
        ("augmentation", {"augmix": {}, "auto_augment": "cifar10"}, r"`augmentation`.*exclude each other"),
        ("objective", {"type": "jensen_shannon"}, r"add the table \[augmentation\.augmix\]"),
        ("dataset", {"validation_fraction": 1.0}, r"`dataset\.validation_fraction`.*less than 1"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_was_received(table, values, named):
    with pytest.raises(ValueError, match=named):
        parse_recipe(changed(table, **values))


def test_a_perturbation_of_unknown_type_is_refused():
    with pytest.raises(ValueError, match=r"`perturbations\.0\.type`.*'gaussian_noise'.*Received: 'noise'"):
        parse_recipe({**CONTENT, "perturbations": [{"type": "noise", "sigma": 0.1}]})


ADVERSARIAL = {"type": "adversarial", "epsilon": 0.1}
TRADES = {"type": "trades", "epsilon": 0.1}


def test_the_parts_of_adversarial_training_are_accepted_with_the_defaults_of_the_papers():
    content = {**changed("dataset", validation_fraction=0.1), "perturbations": [ADVERSARIAL]}
    content["weight_perturbation"] = {"type": "awp"}
    content["early_stopping"] = {"type": "robust_accuracy", "epsilon": 0.1}
    recipe = parse_recipe(content)
    assert recipe.perturbations[0].steps == 10
    assert recipe.weight_perturbation.gamma == 0.01
    assert recipe.early_stopping.steps == 20
    assert parse_recipe({**CONTENT, "objective": TRADES}).objective.beta == 6.0


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"perturbations": [{**ADVERSARIAL, "step": 3}]}, r"`perturbations\.0\.step`.*3.*'steps'"),
        ({"perturbations": [{**ADVERSARIAL, "sigma": 3}]}, r"unknown key `perturbations\.0\.sigma`.*Known keys"),
        ({"perturbations": [{"type": "adversarial"}]}, r"`perturbations\.0\.epsilon` is missing"),
        ({"perturbations": [{"epsilon": 0.1}]}, r"`perturbations\.0\.type` is missing"),
        (
            {"perturbations": [{**ADVERSARIAL, "steps": 0}]},
            r"`perturbations\.0\.steps`.*to 1.*Received: 0",
        ),
        ({"objective": {**TRADES, "betas": 6.0}}, r"unknown key `objective\.betas`.*'beta'"),
        ({"objective": {**TRADES, "norm": "linf"}}, r"`objective\.norm`.*'Linf'.*Received: 'linf'"),
        (
            {"objective": {"type": "mart"}},
            r"`objective\.type`.*'cross_entropy', 'trades', 'jensen_shannon'.*Received: 'mart'",
        ),
        ({"weight_perturbation": {"type": "awp", "gama": 0.1}}, r"`weight_perturbation\.gama`.*'gamma'"),
        ({"weight_perturbation": {"type": "awp", "warmup_epochs": 20}}, r"warmup_epochs.*smaller than.*20"),
        (
            {"early_stopping": {"type": "robust_accuracy", "epsilon": 0.1}},
            r"`dataset\.validation_fraction`",
        ),
        ({"early_stopping": {"type": "robust_accuracy"}}, r"`epsilon` must be given for the type 'robust"),
        ({"early_stopping": {"type": "accuracy", "steps": 5}}, r"takes no options\. Received: steps"),
        ({"perturbations": [ADVERSARIAL], "objective": TRADES}, r"one place, not in 'trades' and 'adversarial'"),
        ({"extra_data": {"file": "x.npz", "sha256": "12"}}, r"`extra_data\.sha256`"),
    ],
)
def test_a_wrong_part_is_named_with_its_key(tables, named):
    with pytest.raises(ValueError, match=named):
        parse_recipe({**CONTENT, **tables})


def test_phases_change_length_size_and_rate_and_must_fit_the_training():
    phases = [
        {"epochs": 6, "image_size": 128, "learning_rate": [0.0, 0.4, 0.04], "at_epochs": [0, 1, 6]},
        {"epochs": 14, "batch_size": 32},
    ]
    content = {**changed("augmentation", random_resized_crop=224), "phases": phases}
    recipe = parse_recipe(content)
    assert recipe.phases[0].at_epochs == [0, 1, 6]
    assert recipe.digest() != parse_recipe(CONTENT).digest()
    for tables, named in (
        ({"phases": phases[:1]}, r"must sum up to `training\.epochs`, 20"),
        ({"augmentation": {}}, r"`phases\.image_size` needs `augmentation\.random_resized_crop`"),
        ({"schedule": {"type": "cosine"}}, r"`phases` cannot go with `schedule\.type = 'cosine'`"),
        ({"phases": [{**phases[0], "at_epochs": [0, 6]}, phases[1]]}, r"`phases\.0`: `at_epochs` must rise"),
        ({"phases": [{**phases[0], "size": 4}, phases[1]]}, r"unknown key `phases\.0\.size`.*'image_size'"),
        ({"augmentation": {"random_crop": 4, "random_resized_crop": 32}}, "exclude each other"),
    ):
        with pytest.raises(ValueError, match=named):
            parse_recipe({**content, **tables})


def test_the_digest_changes_with_each_part_of_the_training():
    contents = [
        CONTENT,
        {**CONTENT, "perturbations": [ADVERSARIAL]},
        {**CONTENT, "perturbations": [{**ADVERSARIAL, "steps": 5}]},
        {**CONTENT, "objective": TRADES},
        {**CONTENT, "weight_perturbation": {"type": "awp"}},
        {**CONTENT, "augmentation": {"auto_augment": "cifar10"}},
        {**CONTENT, "augmentation": {"augmix": {}}},
        {**CONTENT, "augmentation": {"augmix": {"severity": 5}}},
    ]
    assert len({parse_recipe(content).digest() for content in contents}) == len(contents)


def test_weak_subnets_need_only_their_table_and_refuse_what_is_no_option_of_theirs():
    table = parse_recipe({**CONTENT, "weak_subnets": {}}).weak_subnets
    assert (table.search, table.rho, table.distillation_weight, table.interval) == ("controller", 0.7, 1.0, 10)
    assert parse_recipe(CONTENT).weak_subnets is None
    for values, named in (
        ({"rho": 1.0}, r"`weak_subnets\.rho`.*less than 1"),
        ({"search": "greedy"}, r"`weak_subnets\.search`.*'controller', 'random' or 'l1'"),
        ({"search": "random", "interval": 5}, r"`weak_subnets`.*`interval` belongs to the search 'controller'"),
        ({"lambda": 1.0}, r"unknown key `weak_subnets\.lambda`"),
    ):
        with pytest.raises(ValueError, match=named):
            parse_recipe({**CONTENT, "weak_subnets": values})


def test_a_missing_table_and_a_wrong_name_are_both_reported():
    content = {**CONTENT, "name": "No Name"}
    del content["model"]
    with pytest.raises(ValueError, match=r"(?s)`name`.*`model` is missing"):
        parse_recipe(content)


def test_an_absent_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.toml"):
        load_recipe(tmp_path / "absent.toml")


def test_a_file_that_is_not_toml_is_an_error_that_names_it(tmp_path):
    (tmp_path / "recipe.toml").write_text("name = \n")
    with pytest.raises(ValueError, match=r"recipe\.toml is not valid TOML"):
        load_recipe(tmp_path)


def test_the_digest_changes_with_what_decides_the_weights():
    digest = parse_recipe(CONTENT).digest()
    assert parse_recipe(changed("optimizer", momentum=0.8)).digest() != digest
    assert parse_recipe(changed("model", arguments={"depth": 3})).digest() != digest
    assert parse_recipe({**CONTENT, "seed": 1}).digest() != digest


def test_the_digest_ignores_name_evaluation_metadata_and_defaults_written_out():
    content = changed("evaluation", images=10)
    content["name"] = "other_digits.standard"
    content["metadata"] = {"description": "x"}
    content["schedule"] = {"type": "constant"}
    assert parse_recipe(content).digest() == parse_recipe(CONTENT).digest()


def test_the_digest_of_this_recipe_stays_what_it_was():
    # Published entries carry digests: a change here means that a default or the canonical form changed.
    assert parse_recipe(CONTENT).digest() == "5dd50b903fe603f8092c3cbb4322aa4d527f370faa86cf663e272a9981b06e57"
