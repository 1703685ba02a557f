import numpy as np
import pytest

from keras_robust.evaluation.metrics import (
    DataFingerprint,
    Environment,
    Metric,
    Metrics,
    radius,
    robust_accuracy,
    wilson_interval,
)

pytestmark = pytest.mark.once


def make_metric(correct=7, images=10, **fields):
    x = np.zeros((images, 2, 2, 1), "float32")
    defaults = {"name": "clean", "kind": "clean", "seed": 0, "seconds": 1.0, "environment": Environment.here()}
    data = DataFingerprint.of(x, np.zeros(images, int))
    return Metric.of(correct, images, **(defaults | {"data": data} | fields))


def test_wilson_interval_equals_the_closed_form():
    z, n, p = 1.959963984540054, 50, 0.3
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    np.testing.assert_allclose(wilson_interval(15, 50), (centre - half, centre + half), rtol=1e-9)


def test_wilson_interval_stays_in_the_unit_interval_at_both_ends():
    assert wilson_interval(0, 10)[0] == 0.0
    assert wilson_interval(10, 10)[1] == 1.0


def test_metrics_survive_a_round_trip_through_json(tmp_path):
    metrics = Metrics(metrics=[make_metric(), make_metric(3, name="PGD", kind="attack", norm="L2", epsilon=1.0)])
    metrics.save(tmp_path / "metrics.json")
    assert Metrics.load(tmp_path / "metrics.json") == metrics
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_a_value_that_does_not_match_its_count_is_refused(tmp_path):
    path = tmp_path / "metrics.json"
    Metrics(metrics=[make_metric(7, 10)]).save(path)
    path.write_text(path.read_text().replace('"value": 0.7', '"value": 0.9'))
    with pytest.raises(ValueError, match="correct / images"):
        Metrics.load(path)


def test_an_unknown_key_in_a_metrics_file_is_named(tmp_path):
    path = tmp_path / "metrics.json"
    Metrics(metrics=[make_metric()]).save(path)
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 0, "sead": 1'))
    with pytest.raises(ValueError, match="sead"):
        Metrics.load(path)


def test_the_fingerprint_changes_with_a_pixel_a_label_and_the_order():
    x, y = np.zeros((3, 2, 2, 1), "float32"), np.array([0, 1, 2])
    other = x.copy()
    other[1, 0, 0, 0] = 1e-3
    same = DataFingerprint.of(x, y).sha256
    assert same == DataFingerprint.of(x.astype("float64"), y.astype("int64")).sha256
    assert len({same, DataFingerprint.of(other, y).sha256, DataFingerprint.of(x, y[::-1]).sha256}) == 3


def test_robust_accuracy_takes_the_lowest_number_of_the_most_images():
    attack = {"kind": "attack", "norm": "L2", "epsilon": 1.0}
    metrics = [
        make_metric(5, 10, name="a", **attack),
        make_metric(40, 100, name="b", **attack),
        make_metric(30, 100, name="c", **attack),
        make_metric(0, 10, name="d", **attack),
        make_metric(),
    ]
    assert [metric.name for _, metric in robust_accuracy(metrics)] == ["c"]


def test_robust_accuracy_is_bounded_by_attacks_within_smaller_balls_of_the_same_norm_and_images():
    data, linf = make_metric().data, {"kind": "attack", "norm": "Linf"}
    other = data.model_copy(update={"first_index": 10})
    metrics = [
        make_metric(7, name="FGSM", epsilon=0.2, **linf),
        make_metric(1, name="PGD", epsilon=0.15, **linf),
        make_metric(5, name="PGD", epsilon=0.1, **linf),
        make_metric(0, name="AutoAttack", epsilon=0.3, **linf),  # of a larger ball
        make_metric(0, name="PGD", epsilon=0.1, kind="attack", norm="L2"),
        make_metric(0, 5, name="PGD", epsilon=0.01, data=data, **linf),  # of the first of them only
        make_metric(0, name="PGD", epsilon=0.02, data=other, **linf),
        make_metric(0, name="AutoAttack, a stage", epsilon=0.01, attack={"stage": "square"}, **linf),
    ]
    found = [(metric.norm, epsilon, metric.value, metric.epsilon) for epsilon, metric in robust_accuracy(metrics)]
    assert found == [
        ("L2", 0.1, 0.0, 0.1),
        ("Linf", 0.01, 0.0, 0.01),
        ("Linf", 0.02, 0.0, 0.02),
        ("Linf", 0.1, 0.5, 0.1),
        ("Linf", 0.15, 0.1, 0.15),
        ("Linf", 0.2, 0.1, 0.15),
        ("Linf", 0.3, 0.0, 0.3),
    ]


def test_the_environment_names_commit_backend_and_device():
    here = Environment.here()
    assert here.code_commit
    assert here.backend in ("jax", "tensorflow", "torch")
    assert here.device


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        (8 / 255, "8/255"),
        (0.03137255, "8/255"),
        (0.00196078, "0.5/255"),
        (128 / 255, "128/255"),
        (0.1, "0.1"),
        (0.3, "0.3"),
        (0.5, "0.5"),
        (1.0, "1"),
        (0.0314, "0.0314"),
        (1 / 3, "85/255"),
        (0.123456, "0.1235"),
    ],
)
def test_a_radius_is_written_in_255ths_where_few_digits_do_not_say_it(epsilon, text):
    assert radius(epsilon) == text
