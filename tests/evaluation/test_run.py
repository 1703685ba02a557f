import dataclasses
import json

import keras
import numpy as np
import pytest

from keras_robust.attacks import PGD, AutoAttack, Square
from keras_robust.attacks.sanity import Flag
from keras_robust.evaluation import (
    Corrupted,
    DataFingerprint,
    Gaussian,
    Metrics,
    Uniform,
    epsilon_sweep,
    evaluate,
    robust_accuracy,
)
from keras_robust.evaluation.metrics import Environment

SHAPE = (4, 4, 1)


@dataclasses.dataclass(frozen=True)
class Push:
    """Moves every pixel by epsilon in one direction: on the model below, the exact optimum."""

    epsilon: float
    norm: str = "Linf"
    overshoot: float = 0.0
    die_after: int = 10**9
    step_size: float | None = None
    calls = []  # noqa: RUF012

    def __call__(self, model, x, y, *, seed=0, batch_size=128, indices=None):
        self.calls.append(list(indices))
        if len(self.calls) > self.die_after:
            raise KeyboardInterrupt
        direction = np.where(np.asarray(y) == 0, 1.0, -1.0).reshape(-1, 1, 1, 1)
        return np.clip(x + direction * (self.epsilon + self.overshoot), 0, 1).astype("float32")


@pytest.fixture(autouse=True)
def _no_calls():
    Push.calls.clear()


@pytest.fixture
def model():
    """Class 1 if the mean pixel is above one half."""
    inputs = keras.Input(SHAPE)
    outputs = keras.layers.Dense(2)(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    kernel = np.stack([np.zeros(16), np.full(16, 1.0)], axis=1)
    model.set_weights([kernel, np.array([8.0, 0.0])])
    return model


@pytest.fixture
def images():
    """Constant images at 21 grey values; distance of the k-th to the boundary is |k - 10| / 20."""
    x = np.ones((21, *SHAPE), "float32") * (np.arange(21) / 20).reshape(-1, 1, 1, 1).astype("float32")
    return x, (np.arange(21) > 10).astype("int32")


def test_robust_accuracy_counts_images_farther_than_epsilon_from_the_boundary(model, images):
    metrics = evaluate(model, *images, attacks=[Push(0.12)], batch_size=2)
    clean, robust = metrics.metrics
    assert clean.correct == 21
    assert robust.correct == 21 - 5  # k = 8 to 12 lie within 0.1
    assert robust.images == 21
    assert robust.low < robust.value < robust.high
    assert robust.attack == {
        "name": "Push", "epsilon": 0.12, "norm": "Linf", "overshoot": 0.0, "die_after": 10**9, "step_size": None
    }  # fmt: skip


def test_an_image_that_is_wrong_when_clean_is_not_attacked_and_stays_wrong(model, images):
    x, y = images
    y = y.copy()
    y[0] = 1
    metrics = evaluate(model, x, y, attacks=[Push(0.001)])
    assert metrics.clean.correct == 20
    assert metrics.metrics[1].correct == 19  # the middle grey lies on the boundary: any push moves it across
    assert 0 not in Push.calls[0]


def test_the_worst_case_is_taken_over_images_not_over_numbers(model, images):
    @dataclasses.dataclass(frozen=True)
    class OneSide(Push):
        side: int = 0

        def __call__(self, model, x, y, **options):
            moved = super().__call__(model, x, y, **options)
            return np.where((np.asarray(y) == self.side).reshape(-1, 1, 1, 1), moved, x)

    metrics = evaluate(model, *images, attacks=[OneSide(0.12, side=0), OneSide(0.12, side=1), Push(0.2)])
    zero, one, _, worst = metrics.metrics[1:]
    assert zero.correct == 21 - 3
    assert one.correct == 21 - 2
    assert (worst.kind, worst.correct, worst.epsilon) == ("worst_case", 21 - 5, 0.12)


def test_radii_that_are_one_to_rounding_have_one_worst_case(model, images):
    metrics = evaluate(model, *images, attacks=[Push(0.12), Push(0.12 + 1e-9)])
    assert [metric.kind for metric in metrics.metrics[1:]] == ["attack", "attack", "worst_case"]


def test_an_attack_that_leaves_its_ball_is_an_error(model, images):
    with pytest.raises(ValueError, match=r"distance 0\.15"):
        evaluate(model, *images, attacks=[Push(0.1, overshoot=0.05)])


def test_noise_is_measured_on_every_image(model, images):
    metrics = evaluate(model, *images, noise=[Gaussian(0.0), Gaussian(3.0), Uniform(0.5)], batch_size=4)
    none, much, uniform = metrics.metrics[1:]
    assert none.correct == 21
    assert 4 < much.correct < 21  # noise of the mean has deviation 0.75: near guessing
    # x + u / 2 over 1.5 is above one half from a mean of x of 0.5 on: nothing moves across but the grey middle
    assert uniform.correct >= 19
    assert [metric.sigma for metric in (none, much, uniform)] == [0.0, 3.0, 0.5]


def test_results_do_not_depend_on_the_batch_size(model, images):
    counts = [
        [m.correct for m in evaluate(model, *images, noise=[Gaussian(0.4)], batch_size=size).metrics]
        for size in (3, 50)
    ]
    assert counts[0] == counts[1]


def test_an_interrupted_evaluation_goes_on_where_it_stopped(model, images, tmp_path):
    output = tmp_path / "metrics.json"
    output.write_text("earlier results")
    attacks = [Push(0.12), Push(0.3, die_after=5)]
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, *images, attacks=attacks, batch_size=2, output=output)
    assert output.read_text() == "earlier results"
    seen = [image for call in Push.calls[:5] for image in call]

    Push.calls.clear()
    resumed = evaluate(model, *images, attacks=attacks, batch_size=2, output=output)
    again = [image for call in Push.calls for image in call]
    assert len(seen) + len(again) == 2 * 21
    unbroken = evaluate(model, *images, attacks=[Push(0.12), Push(0.3)], batch_size=2)
    assert [m.correct for m in resumed.metrics] == [m.correct for m in unbroken.metrics]
    assert Metrics.load(output) == resumed
    assert not (tmp_path / "metrics.json.partial").exists()


def test_the_state_of_another_run_is_refused_and_survives(model, images, tmp_path):
    output = tmp_path / "metrics.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, *images, attacks=[Push(0.1, die_after=1)], batch_size=2, output=output)
    before = (tmp_path / "metrics.json.partial").read_text()
    with pytest.raises(ValueError, match="differs in seed"):
        evaluate(model, *images, attacks=[Push(0.1)], seed=1, output=output)
    model.set_weights([weight * 2 for weight in model.get_weights()])
    with pytest.raises(ValueError, match="differs in weights"):
        evaluate(model, *images, attacks=[Push(0.1)], output=output)
    assert (tmp_path / "metrics.json.partial").read_text() == before


def test_the_state_of_other_layers_is_refused(model, images, tmp_path):
    output = tmp_path / "metrics.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, *images, attacks=[Push(0.1, die_after=1)], batch_size=2, output=output)
    other = keras.Sequential([keras.Input(SHAPE), keras.layers.Rescaling(0.9), model])
    with pytest.raises(ValueError, match="differs in layers"):
        evaluate(other, *images, attacks=[Push(0.1)], output=output)


def test_the_state_of_other_images_under_the_same_name_is_refused(model, images, tmp_path):
    x, y = images
    options = {"data": DataFingerprint.of(x, y), "batch_size": 2, "output": tmp_path / "metrics.json"}
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, x, y, attacks=[Push(0.1, die_after=1)], **options)
    for other in ((1 - x, y), (x, 1 - y)):
        with pytest.raises(ValueError, match="differs in images"):
            evaluate(model, *other, attacks=[Push(0.1)], **options)


def test_a_fingerprint_of_another_number_of_images_is_refused(model, images):
    x, y = images
    with pytest.raises(ValueError, match=r"data\.count=21.*Received: data\.count=9"):
        evaluate(model, x, y, data=DataFingerprint.of(x[:9], y[:9]))


def test_numbers_may_be_numpys(model, images, tmp_path):
    options = {"seed": np.int64(0), "batch_size": np.int32(4), "output": tmp_path / "metrics.json"}
    attacks, noise = [Push(np.float32(0.12)), Push(np.float64(0.2))], [Gaussian(np.float32(0.0))]
    metrics = evaluate(model, *images, attacks=attacks, noise=noise, **options)
    assert [metric.name for metric in metrics.metrics[1:]] == [
        "Push Linf 0.12",
        "Push Linf 0.2",
        "gaussian noise 0",
    ]
    assert Metrics.load(tmp_path / "metrics.json") == metrics


def test_a_broken_state_file_is_refused(model, images, tmp_path):
    (tmp_path / "m.json.partial").write_text("[1, 2")
    with pytest.raises(ValueError, match="not the state of an evaluation"):
        evaluate(model, *images, output=tmp_path / "m.json")


def test_metrics_say_how_they_came_about(model, images, tmp_path):
    evaluate(model, *images, attacks=[Push(0.1)], seed=4, output=tmp_path / "m.json")
    metric = json.loads((tmp_path / "m.json").read_text())["metrics"][1]
    assert metric["seed"] == 4
    assert metric["environment"]["backend"] == keras.backend.backend()
    assert metric["environment"]["code_commit"]
    assert metric["data"]["count"] == 21
    assert metric["cost"]["forward"] >= 21


def test_a_sweep_scales_the_step_with_the_radius():
    attacks = epsilon_sweep(Push(0.5, step_size=0.1), [0.25, 1.0])
    assert [(a.epsilon, a.step_size) for a in attacks] == [(0.25, 0.05), (1.0, 0.2)]


def test_softmax_outputs_are_refused_before_any_attack(images):
    inputs = keras.Input(SHAPE)
    outputs = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(inputs))
    with pytest.raises(ValueError, match="Remove the softmax"):
        evaluate(keras.Model(inputs, outputs), *images, attacks=[Push(0.1)])
    assert not Push.calls


def test_bad_images_labels_and_attacks_are_refused_before_any_attack(model, images):
    x, y = images
    for arguments, options, message in [
        ((x * 255, y), {}, "x / 255"),
        ((x, y[:-1]), {}, "labels"),
        ((x, y + 5), {}, "logits"),
        ((x, y), {"attacks": ["pgd"]}, "PGD"),
        ((x, y), {"batch_size": 0}, "batch_size"),
        # What is no instance of a dataclass has no options to write down.
        (
            (x, y),
            {"attacks": [PGD]},
            r"`attacks` must hold .*PGD\(.*instances of a dataclass.*Received: <class.*PGD",
        ),
        ((x, y), {"attacks": [lambda *_, **__: x]}, r"`attacks` must hold .*Received: <function.*lambda"),
        ((x, y), {"noise": [Gaussian]}, r"`noise` must hold .*Gaussian\(.*Received: <class"),
        ((x, y), {"further": [Corrupted]}, r"`further` must hold .*Corrupted\(.*Received: <class"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluate(model, *arguments, **{"attacks": [Push(0.1)], **options})
    assert not Push.calls


@pytest.mark.once
@pytest.mark.parametrize(
    ("last", "message"),
    [
        ({"attacks": [Push(0.1), PGD("Linf", 0.1, loss="dlr")]}, "at least three classes"),
        ({"attacks": [Push(0.1), AutoAttack("L2", 1.0, "custom", [PGD("L2", 1.0, loss="dlr")])]}, "three classes"),
        ({"further": [Corrupted()]}, "at least 8 x 8 pixels"),
    ],
)
def test_what_the_last_measurement_refuses_is_an_error_before_the_first_begins(
    model, images, last, message, tmp_path
):
    with pytest.raises(ValueError, match=message):
        evaluate(model, *images, **{"attacks": [Push(0.1)], **last}, output=tmp_path / "metrics.json")
    assert not Push.calls
    assert not list(tmp_path.iterdir())


@pytest.mark.once
def test_an_attack_on_pixels_in_rows_refuses_vectors_before_the_first_attack(images):
    x, y = images
    flat = keras.Sequential([keras.Input((16,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="Square needs images"):
        evaluate(flat, x.reshape(21, 16), y, attacks=[Push(0.1), Square("Linf", 0.1)])
    assert not Push.calls


def test_each_stage_of_autoattack_is_a_number_with_its_cost(model, images, tmp_path):
    # The model is linear in the mean pixel, so Auto-PGD finds the optimum: the distance to the boundary decides.
    attack = AutoAttack(norm="Linf", epsilon=0.12, version="custom", attacks=["apgd-ce", "square"])
    seen = []
    output = tmp_path / "metrics.json"
    metrics = evaluate(
        model, *images, attacks=[attack, Push(0.12)], output=output, progress=lambda *each: seen.append(each)
    )
    first, last, push, worst = metrics.metrics[1:]
    assert (first.name, first.attack["stage"]) == ("AutoAttack Linf 0.12 after apgd-ce", "apgd-ce")
    assert [first.correct, last.correct, push.correct, worst.correct] == [16] * 4
    assert last.name == "AutoAttack Linf 0.12"
    assert last.cost["forward"] > first.cost["forward"] > 0
    assert any("apgd-ce" in detail for *_, detail in seen)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    # two classes: the number of targets or the loss had to adapt, or nothing; neither puts the number in doubt
    assert not [flag for flag in metrics.flags if "classes" in flag]


def test_autoattacks_number_is_recomputed_from_its_images(model, images, monkeypatch):
    attack = AutoAttack(norm="Linf", epsilon=0.12, version="custom", attacks=["apgd-ce"])
    original = AutoAttack.run

    def boastful(self, *arguments, **options):
        result = original(self, *arguments, **options)
        warning = Flag("zero_gradient", 0.5, "half of the gradients are zero")
        everything = {"clean": 1.0, "apgd-ce": 1.0}
        return dataclasses.replace(
            result, accuracy_after=everything, robust=np.ones(21, bool), robust_accuracy=1.0, flags=[warning]
        )

    monkeypatch.setattr(AutoAttack, "run", boastful)
    metrics = evaluate(model, *images, attacks=[attack])
    assert metrics.metrics[1].correct == 16
    assert metrics.flags == ["half of the gradients are zero"]


def test_each_attack_of_autoattack_alone_is_a_number_on_the_first_images(model, images, tmp_path):
    attack = AutoAttack(norm="Linf", epsilon=0.12, version="custom", attacks=["apgd-ce", "square"])
    metrics = evaluate(model, *images, attacks=[attack], stages_alone=9, output=tmp_path / "metrics.json")
    alone = [metric for metric in metrics.metrics if metric.name.endswith("alone")]
    assert [metric.name for metric in alone] == [
        "AutoAttack Linf 0.12, apgd-ce alone",
        "AutoAttack Linf 0.12, square alone",
    ]
    # The boundary lies at image 10: the first eight images are farther from it than epsilon, the ninth is not.
    assert [(metric.correct, metric.images) for metric in alone] == [(8, 9), (8, 9)]
    (robust,) = robust_accuracy(metrics.metrics)
    assert robust.metric.name == "AutoAttack Linf 0.12"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_attacks_may_run_on_the_first_images_only(model, images):
    ensemble = AutoAttack(norm="Linf", epsilon=0.12, version="custom", attacks=["apgd-ce", "square"])
    found = evaluate(
        model, *images, attacks=[Push(0.12), ensemble], noise=[Gaussian(0.0)], attack_images=9, stages_alone=12
    ).metrics
    # The boundary lies at image 10: of the first nine, the ninth alone is nearer to it than epsilon.
    assert {metric.name: (metric.correct, metric.images) for metric in found} == {
        "clean": (21, 21),
        "Push Linf 0.12": (8, 9),
        "AutoAttack Linf 0.12 after apgd-ce": (8, 9),
        "AutoAttack Linf 0.12": (8, 9),
        "AutoAttack Linf 0.12, apgd-ce alone": (8, 9),
        "AutoAttack Linf 0.12, square alone": (8, 9),
        "worst case Linf 0.12": (8, 9),
        "gaussian noise 0": (21, 21),
    }
    with pytest.raises(ValueError, match=r"`attack_images` must be .*Received: attack_images=0"):
        evaluate(model, *images, attacks=[ensemble], attack_images=0)


def test_an_interrupted_run_goes_on_to_attack_more_images(model, images, tmp_path):
    output = tmp_path / "metrics.json"
    attacks = [Push(0.12), Push(0.2, die_after=1)]
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, *images, attacks=attacks, attack_images=9, batch_size=4, output=output)
    Push.calls.clear()
    again = evaluate(model, *images, attacks=[Push(0.12)], attack_images=12, batch_size=4, output=output)
    assert Push.calls == [[9, 10, 11]]
    assert (again.metrics[1].correct, again.metrics[1].images) == (8, 12)


def test_a_run_broken_within_autoattack_goes_on_to_the_same_numbers(model, images, tmp_path):
    attack = AutoAttack(norm="Linf", epsilon=0.12, version="custom", attacks=["apgd-ce", "square"])
    whole = evaluate(model, *images, attacks=[attack], batch_size=4)

    def break_in_square(name, done, total, accuracy, detail):
        if detail.startswith("square"):
            raise KeyboardInterrupt

    output = tmp_path / "metrics.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, *images, attacks=[attack], batch_size=4, output=output, progress=break_in_square)
    assert not output.exists()
    stages = []
    again = evaluate(
        model,
        *images,
        attacks=[attack],
        batch_size=4,
        output=output,
        progress=lambda *each: stages.append(each[4]),
    )
    assert not any(stage.startswith("apgd-ce") for stage in stages)
    assert [(each.name, each.correct) for each in again.metrics] == [
        (each.name, each.correct) for each in whole.metrics
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_two_autoattacks_of_one_ball_keep_their_own_state(model, images, tmp_path):
    ensembles = [
        AutoAttack(norm="Linf", epsilon=0.12, version="custom", attacks=list(attacks))
        for attacks in (["apgd-ce"], ["apgd-ce", "square"])
    ]
    found = evaluate(model, *images, attacks=ensembles, output=tmp_path / "metrics.json")
    assert [metric.correct for metric in found.metrics if metric.name == "AutoAttack Linf 0.12"] == [16, 16]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_a_run_broken_within_autoattack_is_refused_to_other_code(model, images, tmp_path, monkeypatch):
    attack = AutoAttack(norm="Linf", epsilon=0.12, version="custom", attacks=["apgd-ce", "square"])

    def interrupt(name, done, total, accuracy, detail):
        if detail.startswith("square"):
            raise KeyboardInterrupt

    output = tmp_path / "metrics.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, *images, attacks=[attack], output=output, progress=interrupt)
    other = Environment.here().model_copy(update={"code_commit": "0" * 40})
    monkeypatch.setattr(Environment, "here", lambda: other)
    with pytest.raises(ValueError, match="differs in code_commit"):
        evaluate(model, *images, attacks=[attack], output=output)
