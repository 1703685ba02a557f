import dataclasses

import numpy as np
import pytest

from keras_robust.evaluation import DataFingerprint, Environment, Metric, Metrics
from keras_robust.evaluation.protocol import attack_classes, make_attacks, make_noise, parse_numbers
from keras_robust.evaluation.report import curves, save_figure, terminal_table

pytestmark = pytest.mark.once


def make_metric(correct, kind="clean", name="clean", **fields):
    x = np.zeros((10, 2, 2, 1), "float32")
    data = DataFingerprint.of(x, np.zeros(10, int))
    return Metric.of(
        correct, 10, name=name, kind=kind, seed=0, seconds=1.0, environment=Environment.here(), data=data, **fields
    )


def attacked(correct, epsilon, name="PGD", norm="Linf", **options):
    attack = {"name": name, "epsilon": epsilon, **options}
    return make_metric(correct, "attack", name, norm=norm, epsilon=epsilon, attack=attack)


@pytest.fixture
def metrics():
    noise = make_metric(8, "gaussian_noise", "noise", sigma=0.1, attack={"name": "Gaussian", "sigma": 0.1})
    found = [make_metric(9), attacked(2, 0.2, steps=10), attacked(5, 0.1, steps=10), attacked(4, 0.1, steps=50)]
    return Metrics(metrics=[*found, attacked(3, 1.0, "FGSM", "L2"), noise])


def test_curves_start_at_the_clean_accuracy_and_rise_in_epsilon(metrics):
    panels = curves(metrics)
    assert set(panels) == {"Linf epsilon", "L2 epsilon", "sigma of Gaussian noise"}
    assert [(m.epsilon, m.correct) for m in panels["Linf epsilon"]["PGD (1)"]] == [(None, 9), (0.1, 5), (0.2, 2)]


def test_the_same_attack_with_other_options_is_another_curve(metrics):
    assert [m.correct for m in curves(metrics)["Linf epsilon"]["PGD (2)"]] == [9, 4]


def test_autoattacks_of_other_attacks_are_two_curves():
    def auto(correct, epsilon, attack):
        return attacked(correct, epsilon, "AutoAttack", attacks=f"({attack}(norm='Linf', epsilon={epsilon!r}),)")

    found = [auto(5, 0.1, "PGD"), auto(2, 0.2, "PGD"), auto(4, 0.1, "APGD"), auto(1, 0.2, "APGD")]
    panel = curves(Metrics(metrics=[make_metric(9), *found]))["Linf epsilon"]
    assert [[m.correct for m in points] for points in panel.values()] == [[9, 5, 2], [9, 4, 1]]


def test_the_figure_is_written_and_nothing_is_drawn_without_attack_or_noise(metrics, tmp_path):
    pytest.importorskip("matplotlib")
    assert save_figure([("one", metrics), ("two", metrics)], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert not save_figure([("one", Metrics(metrics=[metrics.clean]))], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_the_terminal_table_shows_value_interval_and_count(metrics):
    from rich.console import Console

    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal_table(metrics, "title"))
    text = console.export_text()
    assert "90.00%" in text
    assert f"{metrics.clean.low:.2%} to {metrics.clean.high:.2%}" in text
    assert "9 / 10" in text


def test_a_label_has_the_radius_as_the_field_writes_it():
    names = {
        "AutoAttack Linf 0.03137 after apgd-ce": "AutoAttack Linf 8/255 after apgd-ce",
        "AutoAttack Linf 0.03137, square alone": "AutoAttack Linf 8/255, square alone",
    }
    for name, label in names.items():
        assert make_metric(5, "attack", name, norm="Linf", epsilon=0.03137255).label == label
    assert make_metric(5, "attack", "PGD L2 1", norm="L2", epsilon=1.0).label == "PGD L2 1"
    assert make_metric(9).label == "clean"


def test_numbers_may_be_fractions():
    assert parse_numbers("epsilon", "8/255, 0.5") == [8 / 255, 0.5]
    for text in ("8/0", "a", "", "1,,2"):
        with pytest.raises(ValueError, match="fractions"):
            parse_numbers("epsilon", text)


def test_every_attack_of_the_package_is_known_by_name():
    known = attack_classes()
    assert set(known) == {"apgd", "autoattack", "fab", "fgsm", "pgd", "square"}
    assert all(dataclasses.is_dataclass(attack) for attack in known.values())


def test_an_attack_is_made_at_each_radius_and_its_defaults_stay():
    attacks = make_attacks("PGD", norm="L2", epsilon=[0.5, 1.0], steps=7, step_size=None)
    assert [(a.norm, a.epsilon, a.steps, a.step_size) for a in attacks] == [
        ("L2", 0.5, 7, None),
        ("L2", 1.0, 7, None),
    ]


def test_an_option_that_an_attack_does_not_have_is_named():
    with pytest.raises(ValueError, match="Attack 'fgsm' takes the options"):
        make_attacks("fgsm", norm="Linf", epsilon=0.1, steps=3)


def test_an_unknown_kind_of_noise_is_named():
    with pytest.raises(ValueError, match="'gaussian', 'uniform'"):
        make_noise("salt", [0.1])
