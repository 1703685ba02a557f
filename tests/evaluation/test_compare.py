"""Models side by side."""

import numpy as np
import pytest

from keras_robust.evaluation.compare import comparison_table, differs, read_results, repeated
from keras_robust.evaluation.metrics import DataFingerprint, Environment, Metric, Metrics

pytestmark = pytest.mark.once


def save(folder, correct, first_image=0.0, attack_images=10):
    x = np.full((10, 2, 2, 1), first_image, "float32")
    data = DataFingerprint.of(x, np.zeros(10, "int32"))
    fields = {"seed": 0, "seconds": 0.1, "data": data, "environment": Environment.here()}
    clean = Metric.of(correct, 10, name="clean", kind="clean", **fields)
    attack = Metric.of(2, attack_images, name="FGSM Linf 0.1", kind="attack", **fields)
    folder.mkdir()
    Metrics(metrics=[clean, attack]).save(folder / "metrics.json")
    return folder / "metrics.json"


def test_two_models_stand_side_by_side(tmp_path):
    results = read_results([save(tmp_path / "plain", 4), save(tmp_path / "robust", 8)])
    table = comparison_table(results)
    assert [column.header for column in table.columns] == ["measured", "plain", "robust"]
    assert next(iter(table.columns[2].cells)).startswith("80.0 ± ")


def test_a_number_on_fewer_images_says_how_many(tmp_path):
    results = read_results([save(tmp_path / "plain", 4), save(tmp_path / "robust", 8, attack_images=4)])
    plain, robust = (list(column.cells)[1] for column in comparison_table(results).columns[1:])
    assert plain.startswith("20.0 ± ")
    assert "images" not in plain
    assert robust.startswith("50.0 ± ")
    assert robust.endswith("(4 images)")


def test_measurements_of_one_name_are_told_apart_by_their_options(tmp_path):
    path = save(tmp_path / "plain", 4)
    metrics = Metrics.load(path)
    for steps, correct in ((1, 3), (20, 1)):
        same = {"name": "PGD Linf 0.1", "value": correct / 10, "correct": correct}
        options = {"name": "PGD", "epsilon": 0.1, "steps": steps}
        metrics.metrics.append(metrics.metrics[1].model_copy(update={**same, "attack": options}))
    metrics.save(path)
    measured, plain = (list(column.cells) for column in comparison_table(read_results([path])).columns)
    assert measured == ["clean", "FGSM Linf 0.1", "PGD Linf 0.1 (steps=1)", "PGD Linf 0.1 (steps=20)"]
    assert [cell.split(" ")[0] for cell in plain] == ["40.0", "20.0", "30.0", "10.0"]


def test_autoattacks_of_other_attacks_are_two_rows(tmp_path):
    path = save(tmp_path / "plain", 4)
    metrics = Metrics.load(path)
    for attacks, correct in (("('apgd-ce',)", 3), ("('square',)", 1)):
        same = {"name": "AutoAttack Linf 0.1", "value": correct / 10, "correct": correct}
        options = {"name": "AutoAttack", "epsilon": 0.1, "version": "custom", "attacks": attacks}
        metrics.metrics.append(metrics.metrics[1].model_copy(update={**same, "attack": options}))
    metrics.save(path)
    _, plain = (list(column.cells) for column in comparison_table(read_results([path])).columns)
    assert [cell.split(" ")[0] for cell in plain] == ["40.0", "20.0", "30.0", "10.0"]


def test_models_measured_on_other_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="same images only"):
        read_results([save(tmp_path / "plain", 4), save(tmp_path / "robust", 8, first_image=0.5)])


def test_a_missing_result_names_the_file_and_the_command(tmp_path):
    with pytest.raises(ValueError, match=r"keras-robust evaluate.*absent"):
        read_results([tmp_path / "absent" / "metrics.json"])


def test_numbers_are_paired_with_stored_ones_of_the_same_measurement_alone(tmp_path):
    stored = Metrics.load(save(tmp_path / "stored", 8)).metrics
    again = Metrics.load(save(tmp_path / "again", 7))
    assert [(now.correct, before.correct) for now, before in repeated(again, stored)] == [(7, 8), (2, 2)]
    for changes in ({"seed": 1}, {"sigma": 0.1}, {"attack": {"name": "FGSM", "epsilon": 0.1}}):
        other = again.model_copy(update={"metrics": [each.model_copy(update=changes) for each in again.metrics]})
        assert repeated(other, stored) == []
    assert repeated(Metrics.load(save(tmp_path / "other", 7, first_image=0.5)), stored) == []
    fewer = Metrics.load(save(tmp_path / "fewer", 7, attack_images=4))
    assert [now.name for now, _ in repeated(fewer, stored)] == ["clean"]


def test_a_radius_typed_as_a_fraction_is_that_of_a_recipe(tmp_path):
    metrics = Metrics.load(save(tmp_path / "model", 8))

    def at(epsilon):
        changes = {"epsilon": epsilon, "attack": {"name": "FGSM", "norm": "Linf", "epsilon": epsilon}}
        return metrics.metrics[1].model_copy(update=changes)

    again = Metrics(metrics=[metrics.clean, at(8 / 255)])
    assert [now.name for now, _ in repeated(again, [at(0.03137255)])] == ["FGSM Linf 0.1"]
    assert repeated(again, [at(0.0314)]) == []


def test_half_a_point_apart_is_the_same_and_more_is_not(tmp_path):
    first = Metrics.load(save(tmp_path / "first", 8)).metrics[0]
    of_1000 = [first.model_copy(update={"value": value}) for value in (0.8, 0.805, 0.795, 0.806, 0.794)]
    assert [differs(each, of_1000[0]) for each in of_1000] == [False, False, False, True, True]
