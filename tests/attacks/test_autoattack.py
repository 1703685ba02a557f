import json

import keras
import numpy as np
import pytest
from keras import layers

from keras_robust import attacks, norms
from keras_robust.attacks import APGD, FAB, PGD, AutoAttack, Square
from keras_robust.attacks.autoattack_state import RunState
from keras_robust.attacks.precision import float32_copy, is_mixed
from keras_robust.layers import GaussianNoise, noise_at_inference
from tests.attacks.contract import contract_data, contract_model, model_of_nan_in_the_dark

BATCH = 4
ROUNDING = 1e-5  # a radius in float32, summed over up to 108 pixels


def quick(norm="Linf", epsilon=0.02):
    """AutoAttack with the attacks of `standard` and budgets of a test."""
    ball = {"norm": norm, "epsilon": epsilon}
    parts = [
        APGD(**ball, steps=3),
        APGD(**ball, steps=3, loss="targeted_dlr", targets=2),
        FAB(**ball, steps=3, targets=2),
        Square(**ball, queries=15),
    ]
    return AutoAttack(**ball, version="custom", attacks=parts)


@pytest.fixture(scope="module")
def subject():
    model = contract_model()
    x, y = contract_data(model)
    return model, x, np.where(np.arange(len(y)) == 2, (y + 1) % 5, y)  # image 2 is misclassified as it is


@pytest.fixture(scope="module")
def result(subject):
    return quick().run(*subject, seed=1, batch_size=BATCH)


def test_each_attack_leaves_no_more_images_than_the_one_before(result):
    accuracies = list(result.accuracy_after.values())
    assert list(result.accuracy_after) == ["clean", "apgd", "apgd#2", "fab", "square"]
    assert accuracies == sorted(accuracies, reverse=True)
    assert 0 < result.robust_accuracy < result.clean_accuracy


def test_the_robust_accuracy_is_that_of_the_model_on_the_images(subject, result):
    model, _, y = subject
    right = attacks.Predictor.of(model).predict(result.x_adv).argmax(1) == y
    assert result.robust_accuracy == right.mean() == result.accuracy_after["square"]
    np.testing.assert_array_equal(right, result.robust)


def test_misclassified_images_stay_and_all_others_are_attacked(subject, result):
    moved = np.abs(result.x_adv - subject[1]).reshape(len(subject[1]), -1).max(1)
    assert moved[2] == 0
    assert (np.delete(moved, 2) > 0).all()
    assert moved.max() <= 0.02 + ROUNDING


def test_the_result_does_not_depend_on_the_batch_size(subject, result):
    other = quick().run(*subject, seed=1, batch_size=12)
    np.testing.assert_array_equal(other.robust, result.robust)
    # Convolutions of another batch size sum in another order.
    np.testing.assert_allclose(other.x_adv, result.x_adv, atol=1e-3)


def test_calling_it_returns_the_images(subject, result):
    np.testing.assert_array_equal(quick()(*subject, seed=1, batch_size=BATCH), result.x_adv)


def test_individual_accuracies_agree_with_the_attacks_alone(subject, result):
    each = quick().run(*subject, seed=1, batch_size=BATCH, individual=True)
    assert each.accuracy_after == result.accuracy_after
    first = AutoAttack("Linf", 0.02, "custom", attacks=quick().attacks[:1]).run(*subject, seed=1, batch_size=BATCH)
    assert each.individual["apgd"] == first.robust_accuracy
    assert min(each.individual.values()) >= each.robust_accuracy
    # The same attack at the same place of the sequence, on every image: no other had broken any before it.
    model, x, y = subject
    number = 3
    seed = int(np.random.SeedSequence([1, number]).generate_state(1)[0])
    alone = quick().attacks[number](model, x, y, seed=seed, batch_size=BATCH)
    right = attacks.Predictor.of(model).predict(alone).argmax(1) == y
    assert each.individual["square"] == right.mean()


def test_alone_an_attack_sees_only_what_others_had_broken_before_it(subject, result):
    each = quick().run(*subject, seed=1, batch_size=BATCH, individual=True)
    for name, cost in result.cost["attacks"].items():
        assert each.cost["attacks"][name]["forward_passes"] == cost["forward_passes"]
    passes = [each.cost["individual"][name]["forward_passes"] for name in ("apgd", "apgd#2", "fab", "square")]
    assert passes[0] == 0
    assert passes[3] > 0
    total = sum(passes) + sum(cost["forward_passes"] for cost in result.cost["attacks"].values())
    assert each.cost["forward_passes"] == total
    few = quick().run(*subject, seed=1, batch_size=BATCH, individual=8)
    assert few.accuracy_after == result.accuracy_after
    assert few.cost["forward_passes"] < total
    model, x, y = subject
    eight = quick().run(model, x[:8], y[:8], seed=1, batch_size=BATCH, individual=True)
    assert few.individual == eight.individual
    with pytest.raises(ValueError, match="individual=-1"):
        quick().run(*subject, individual=-1)


def test_looking_at_the_first_images_alone_hides_no_sign_of_masked_gradients(subject):
    model, x, y = subject
    y = np.where(np.arange(len(y)) < 5, (y + 1) % 5, y)  # nothing is left to attack of the first five
    ball = {"norm": "Linf", "epsilon": 0.05}
    parts = [PGD(**ball, steps=1, step_size=1e-6, random_start=False), Square(**ball, queries=30)]
    auto = AutoAttack(**ball, version="custom", attacks=parts)
    for individual in (False, 5):
        flags = auto.run(model, x, y, batch_size=BATCH, individual=individual).flags
        assert "square_beats_white_box" in [flag.name for flag in flags]


def test_the_json_names_cost_and_flags(result):
    read = json.loads(result.to_json())
    assert (read["images"], read["cost"]["seed"], read["cost"]["batch_size"]) == (12, 1, BATCH)
    assert read["cost"]["forward_passes"] >= read["cost"]["backward_passes"] > 0
    assert set(read["cost"]["attacks"]) == {"apgd", "apgd#2", "fab", "square"}
    assert read["cost"]["versions"]["keras"] == keras.__version__


def test_progress_ends_at_one_and_counts_the_images_left(subject, result):
    calls = []
    quick().run(*subject, seed=1, batch_size=BATCH, progress=lambda *call: calls.append(call))
    assert calls[-1] == ("square", result.robust.sum(), result.robust_accuracy, 1.0)
    assert [call[3] for call in calls] == sorted(call[3] for call in calls)


class InterruptedRunError(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("individual", [False, True, 5])
def test_a_run_that_broke_off_goes_on_to_the_same_result(subject, tmp_path, individual, monkeypatch):
    monkeypatch.setattr("keras_robust.attacks.autoattack_state._SHARE", 1.0)  # save after every batch
    whole = quick().run(*subject, seed=1, batch_size=BATCH, individual=individual)
    path = tmp_path / "state.npz"
    breaks = 0
    while True:
        left = [2]

        def stop(*_, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise InterruptedRunError

        try:
            again = quick().run(
                *subject, seed=1, batch_size=BATCH, individual=individual, state_path=path, progress=stop
            )
            break
        except InterruptedRunError:
            breaks += 1
    assert breaks >= 3
    np.testing.assert_array_equal(again.x_adv, whole.x_adv)
    assert (again.accuracy_after, again.individual) == (whole.accuracy_after, whole.individual)


def test_a_finished_state_file_gives_the_result_without_another_attack(subject, result, tmp_path):
    path = tmp_path / "state.npz"
    quick().run(*subject, seed=1, batch_size=BATCH, state_path=path)
    calls = []
    again = quick().run(
        *subject, seed=1, batch_size=BATCH, state_path=path, progress=lambda *call: calls.append(call)
    )
    assert not calls
    np.testing.assert_array_equal(again.x_adv, result.x_adv)


def test_the_state_file_of_another_run_is_an_error_and_survives(subject, tmp_path):
    model, x, y = subject
    path = tmp_path / "state.npz"
    quick().run(model, x, y, seed=1, batch_size=BATCH, state_path=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="another run: seed differ"):
        quick().run(model, x, y, seed=2, batch_size=BATCH, state_path=path)
    with pytest.raises(ValueError, match="another run: images differ"):
        quick().run(model, x * 0.5, y, seed=1, batch_size=BATCH, state_path=path)
    with pytest.raises(ValueError, match="another run: attacks differ"):
        quick(epsilon=0.01).run(model, x, y, seed=1, batch_size=BATCH, state_path=path)
    other = contract_model()
    other.layers[-1].bias.assign(other.layers[-1].bias + 0.1)
    with pytest.raises(ValueError, match="another run: weights differ"):
        quick().run(other, x, y, seed=1, batch_size=BATCH, state_path=path)
    assert path.read_bytes() == before


def test_a_damaged_state_file_is_an_error_and_survives(subject, tmp_path):
    path = tmp_path / "state.npz"
    path.write_bytes(b"PK not a state")
    with pytest.raises(ValueError, match="cannot be read"):
        quick().run(*subject, state_path=path)
    assert path.read_bytes() == b"PK not a state"


@pytest.mark.once
def test_the_plans_are_those_of_the_reference():
    def plan(*args):
        return AutoAttack(*args).plan()

    standard, sparse, rand = plan("L2", 0.5), plan("L1", 12.0), plan("Linf", 0.1, "rand")
    assert list(standard) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert standard["apgd-ce"] == APGD("L2", 0.5, steps=100, restarts=1)
    assert standard["apgd-t"] == APGD("L2", 0.5, steps=100, restarts=1, loss="targeted_dlr", targets=9)
    assert standard["fab-t"] == FAB("L2", 0.5, steps=100, restarts=1, targeted=True, targets=9)
    assert standard["square"] == Square(
        "L2", 0.5, queries=5000, initial_fraction=0.8, resc_schedule=False, all_positions=False
    )
    assert (sparse["apgd-ce"].restarts, sparse["apgd-ce"].large_epsilon_schedule) == (5, True)
    assert (sparse["apgd-t"].targets, sparse["apgd-t"].large_epsilon_schedule) == (5, True)
    assert list(rand) == ["apgd-ce", "apgd-dlr"]
    assert [(each.eot, each.restarts) for each in rand.values()] == [(20, 1), (20, 1)]
    plus = plan("Linf", 0.1, "plus")
    assert list(plus) == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert (plus["apgd-ce"].restarts, plus["apgd-dlr"].restarts, plus["fab"].restarts) == (5, 5, 5)
    assert (plus["fab"].targeted, plus["fab-t"].restarts, plus["apgd-t"].targets) == (False, 1, 9)


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "L3"}, "norm"),
        ({"epsilon": 8}, "8 / 255"),
        ({"version": "best"}, "version"),
        ({"version": "custom"}, "attacks"),
        ({"attacks": ["square"]}, "attacks"),
        ({"version": "custom", "attacks": ["pgd"]}, "apgd-ce"),
        ({"version": "custom", "attacks": [Square("L2", 0.5)]}, "ball of AutoAttack"),
        ({"version": "custom", "attacks": [3]}, "type int"),
    ],
)
def test_options_out_of_range_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        AutoAttack(**options)


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 9])
def test_few_classes_are_attacked_and_noted(classes):
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(classes, bias_initializer="zeros")]
    )
    rng = np.random.default_rng(classes)
    model.layers[-1].kernel.assign(rng.normal(0, 1, (16, classes)).astype("float32"))
    x = rng.uniform(0, 1, (6, 4, 4, 1)).astype("float32")
    y = attacks.Predictor.of(model).predict(x).argmax(1)
    ball = {"norm": "Linf", "epsilon": 0.2}
    parts = [APGD(**ball, steps=2, loss=loss) for loss in ("dlr", "targeted_dlr")] + [FAB(**ball, steps=2)]
    result = AutoAttack(**ball, version="custom", attacks=parts).run(model, x, y, batch_size=6)
    notes = [flag for flag in result.flags if flag.name == "few_classes"]
    assert len(notes) == 1 + (classes < 3) + (classes < 4)
    assert {note.severity for note in notes} == {"note"}
    assert result.robust_accuracy < 1


@pytest.mark.parametrize(
    ("attack", "shape", "message"),
    [
        (Square("Linf", 0.1, queries=2), (16,), "Square needs images"),
        (Square("Linf", 0.1, queries=2), (4, 4), "Square needs images"),
        (PGD("Linf", 0.1, loss="dlr"), (4, 4, 1), "at least three classes"),
    ],
)
def test_what_the_last_attack_refuses_is_an_error_before_the_first_begins(attack, shape, message, tmp_path):
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(2)])
    x = np.random.default_rng(0).uniform(0, 1, (3, *shape)).astype("float32")
    auto = AutoAttack("Linf", 0.1, "custom", attacks=[APGD("Linf", 0.1, steps=1), attack])
    with pytest.raises(ValueError, match=message):
        auto.run(model, x, np.zeros(3, int), state_path=tmp_path / "state.npz")
    assert not (tmp_path / "state.npz").exists()


def noisy_model():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(5), GaussianNoise(0.5, seed=1)]
    model = keras.Sequential([keras.Input((4, 4, 1)), GaussianNoise(0.3, role="input", seed=2), *layers])
    x = np.random.default_rng(0).uniform(0, 1, (20, 4, 4, 1)).astype("float32")
    return model, x, attacks.Predictor.of(model).predict(x).argmax(1)


def test_a_randomised_model_is_flagged_and_evaluated_repeatedly():
    model, x, y = noisy_model()
    parts = [APGD("Linf", 0.02, steps=2, eot=2)]
    auto = AutoAttack("Linf", 0.02, "custom", attacks=parts)
    still = auto.run(model, x, y)
    assert still.repeated is None
    with noise_at_inference(model, inputs=True, activations=True):
        moving = auto.run(model, x, y)
    assert [flag.name for flag in moving.warnings] == ["randomized"]
    assert moving.repeated.low < moving.repeated.mean < moving.repeated.high
    assert len(moving.repeated.accuracies) == 10


def test_noise_is_switched_on_after_the_attack():
    model, x, y = noisy_model()
    found = attacks.accuracy_under_noise(model, x, y, switch=noise_at_inference, repeats=4)
    assert list(found) == ["none", "input", "activation", "both"]
    assert found["none"].mean == found["none"].low == found["none"].high == 1.0
    assert all(0 < found[name].mean < 1 for name in ("input", "activation", "both"))


def test_verdicts_on_a_mixed_precision_model_are_those_of_float32():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = contract_model()
    finally:
        keras.config.set_dtype_policy(before)
    x, y = contract_data(model)
    result = quick().run(model, x, y, batch_size=BATCH)
    plain = contract_model()
    plain.set_weights(model.get_weights())
    right = attacks.Predictor.of(plain).predict(result.x_adv).argmax(1) == y
    assert result.robust_accuracy < 1
    np.testing.assert_array_equal(right[~result.robust & (result.clean_accuracy == 1)], False)
    assert not any(flag.name == "low_precision" for flag in result.flags)


def test_a_copy_in_float32_is_one_throughout_and_of_the_same_state_or_there_is_none():
    half = {"dtype": "mixed_bfloat16"}
    inner = layers.TimeDistributed(layers.Dense(4, **half), **half)
    wrapped = keras.Sequential([keras.Input((2, 4)), inner, layers.Flatten(**half), layers.Dense(3, **half)])
    assert float32_copy(wrapped) is None
    noisy = keras.Sequential([keras.Input((4,)), GaussianNoise(1.0, **half), layers.Dense(3, **half)])
    assert not is_mixed(float32_copy(noisy))
    with noise_at_inference(noisy, inputs=False, activations=True):
        assert float32_copy(noisy) is None


@pytest.mark.parametrize("fault", ["nan", "softmax", "range", "labels"])
def test_bad_input_is_an_error_before_any_file_is_written(fault, tmp_path):
    model = contract_model()  # not called before it is changed: compiled functions would keep the old activation
    x, y = contract_data(contract_model())
    if fault == "nan":
        model.layers[-1].bias.assign(model.layers[-1].bias * np.nan)
    if fault == "softmax":
        model.layers[-1].activation = keras.activations.softmax
    if fault == "range":
        x = x * 255
    if fault == "labels":
        y = y + 5
    words = {"nan": "finite", "softmax": "logits", "range": "/ 255", "labels": "Labels"}
    with pytest.raises(ValueError, match=words[fault]):
        quick().run(model, x, y, state_path=tmp_path / "state.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("clean", [True, False])
def test_logits_that_are_not_finite_are_an_error_beyond_the_first_batch_and_on_attacked_images(clean):
    model = model_of_nan_in_the_dark((4, 4, 1), 3)
    x = np.random.default_rng(0).uniform(0.55, 0.6, (6, 4, 4, 1)).astype("float32")
    y = attacks.Predictor.of(model).predict(x).argmax(1)
    if clean:
        x[4:], y[4:] = 0.4, 0  # argmax of NaN is 0, too
    else:
        x -= 0.049
    epsilon = 1e-6 if clean else 0.2
    auto = AutoAttack("Linf", epsilon, "custom", attacks=[Square("Linf", epsilon, queries=1)])
    with pytest.raises(ValueError, match=r"finite logits on every image in \[0, 1\]\. Received: NaN"):
        auto.run(model, x, y, batch_size=2)


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_the_other_norms_stay_in_the_ball(subject, norm):
    epsilon = {"L2": 0.15, "L1": 1.0}[norm]
    result = quick(norm, epsilon).run(*subject, batch_size=BATCH)
    lengths = keras.ops.convert_to_numpy(norms.get(norm).length(result.x_adv - subject[1]))
    assert lengths.max() <= epsilon * (1 + ROUNDING) + ROUNDING


@pytest.mark.once
def test_the_state_keeps_what_it_holds(tmp_path):
    state = RunState.start(np.zeros((3, 2, 2, 1), "float32"), np.array([True, False, True]), 2)
    state.left = np.array([2])
    state.save(tmp_path / "state.npz", {"seed": "1"})
    read = RunState.load(tmp_path / "state.npz", {"seed": "1"})
    assert read.left.tolist() == [2]
    assert (read.attack, read.stage) == (0, 0)
    np.testing.assert_array_equal(read.correct, state.correct)
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]
