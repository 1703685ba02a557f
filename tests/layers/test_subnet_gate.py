"""Gates: free and invisible without a subnet, masks where there is one, no mask left over afterwards."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_robust.attacks import PGD
from keras_robust.backend import jit
from keras_robust.layers import SubnetGate, SubnetModel, SubnetSpace, kept_count, subnet
from keras_robust.layers.subnet_space import keep_highest
from keras_robust.prediction import Predictor

COMPILED_TOLERANCE = 1e-5  # the same float32 operations, fused in another way


def make_model():
    """One block: a residual of two dense layers, 6 and 4 units, and an identity skip; three classes."""
    inputs = keras.Input((4,))
    residual = layers.Dense(6, activation="relu", name="first")(inputs)
    residual = SubnetGate("block", 0, layer="first", name="gate1")(residual)
    residual = layers.Dense(4, name="second")(residual)
    residual = SubnetGate("block", 0, layer="second", ends_path=True, name="residual_gate")(residual)
    skip = SubnetGate("block", 1, ends_path=True, name="skip_gate")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="logits")(layers.Add()([residual, skip])))


@pytest.fixture
def x(rng):
    return rng.uniform(size=(5, 4)).astype("float32")


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def by_hand(model, x, first, residual, skip):
    """Logits of the subnet of these masks in NumPy."""
    weights = {layer.name: [numpy(v.value) for v in layer.weights] for layer in model.layers}

    def dense(name, inputs):
        return inputs @ weights[name][0] + weights[name][1]

    hidden = np.maximum(dense("first", x), 0) * first
    return dense("logits", dense("second", hidden) * residual + x * skip)


def test_masks_act_where_the_gates_are(x):
    model = make_model()
    first = np.array([1, 0, 1, 1, 0, 1], "float32")
    residual, skip = np.array([1, 1, 0, 1], "float32"), np.zeros(4, "float32")
    with subnet(model, {"gate1": first, "residual_gate": residual, "skip_gate": skip}):
        outputs = numpy(model(x))
    np.testing.assert_allclose(outputs, by_hand(model, x, first, residual, skip), atol=COMPILED_TOLERANCE)


def test_masks_of_ones_give_the_whole_network_exactly(x):
    model = make_model()
    whole = numpy(model(x))
    ones = {"gate1": np.ones(6), "residual_gate": np.ones(4), "skip_gate": np.ones(4)}
    with subnet(model, {name: mask.astype("float32") for name, mask in ones.items()}):
        np.testing.assert_array_equal(numpy(model(x)), whole)


def test_the_network_is_whole_again_after_the_block_even_after_an_error(x):
    model = make_model()
    whole = numpy(model(x))
    with pytest.raises(RuntimeError, match="inside"), subnet(model, {"gate1": np.zeros(6, "float32")}):
        raise RuntimeError("inside")
    np.testing.assert_array_equal(numpy(model(x)), whole)


def test_inner_blocks_end_in_the_subnet_around_them(x):
    model = make_model()
    half, none = np.array([1, 1, 1, 0, 0, 0], "float32"), np.zeros(6, "float32")
    with subnet(model, {"gate1": half}):
        expected = numpy(model(x))
        with subnet(model, {"gate1": none}):
            assert not np.array_equal(numpy(model(x)), expected)
        np.testing.assert_array_equal(numpy(model(x)), expected)


def test_compiled_predictions_follow_the_active_subnet(x):
    model = make_model()
    masks = {"gate1": np.zeros(6, "float32")}
    for predict in (lambda: model.predict(x, verbose=0), lambda: Predictor.of(model).predict(x)):
        whole = predict()
        with subnet(model, masks):
            cut = predict()
        np.testing.assert_allclose(predict(), whole, atol=COMPILED_TOLERANCE)
        np.testing.assert_allclose(cut, by_hand(model, x, 0, 1, 1), atol=COMPILED_TOLERANCE)
        assert np.abs(cut - whole).max() > 0.01


def test_masks_enter_a_compiled_function_as_tensors(x):
    model = make_model()
    traces = []

    def run(mask, images):
        traces.append(1)
        with subnet(model, {"gate1": mask}):
            return model(images)

    compiled = jit(run)
    for mask in np.eye(6, dtype="float32"):
        outputs = numpy(compiled(ops.convert_to_tensor(mask), ops.convert_to_tensor(x)))
        np.testing.assert_allclose(outputs, by_hand(model, x, mask, 1, 1), atol=COMPILED_TOLERANCE)
    # PyTorch records at the third call; before that it runs eagerly.
    assert len(traces) == (3 if keras.backend.backend() == "torch" else 1)


def test_gates_hold_no_weights_and_survive_saving(x, tmp_path):
    model = make_model()
    assert not any(layer.weights for layer in model.layers if isinstance(layer, SubnetGate))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    masks = {"gate1": np.array([0, 1, 0, 1, 0, 1], "float32")}
    with subnet(model, masks), subnet(again, masks):
        np.testing.assert_array_equal(numpy(again(x)), numpy(model(x)))
    assert again.get_layer("gate1").get_config() == model.get_layer("gate1").get_config()


def test_a_subnet_model_is_the_subnet_that_was_chosen_last(x):
    model = make_model()
    cut = SubnetModel(model)
    np.testing.assert_allclose(cut.predict(x, verbose=0), by_hand(model, x, 1, 1, 1), atol=COMPILED_TOLERANCE)
    first = np.array([0, 1, 1, 0, 1, 0], "float32")
    cut.choose({"gate1": first})
    np.testing.assert_allclose(Predictor.of(cut).predict(x), by_hand(model, x, first, 1, 1), atol=1e-5)
    cut.choose({"skip_gate": np.zeros(4, "float32")})
    np.testing.assert_allclose(Predictor.of(cut).predict(x), by_hand(model, x, 1, 1, 0), atol=1e-5)


def test_an_attack_sees_the_chosen_subnet(x):
    model = make_model()
    cut = SubnetModel(model)
    cut.choose({"gate1": np.zeros(6, "float32"), "residual_gate": np.zeros(4, "float32")})
    y = by_hand(model, x, 0, 0, 1).argmax(-1)
    # This subnet is linear: attack the linear model itself.
    plain = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    plain.set_weights(model.get_layer("logits").get_weights())
    attack = PGD(norm="Linf", epsilon=0.1, steps=5)
    attacked = attack(cut, x, y, seed=0)
    np.testing.assert_allclose(attacked, attack(plain, x, y, seed=0), atol=COMPILED_TOLERANCE)
    assert np.abs(attacked - x).max() > 0.05


def test_what_is_no_gate_is_refused(x):
    model = make_model()
    with pytest.raises(ValueError, match=r"such as 'gate1'.*Received: 'gate2'"), subnet(model, {"gate2": 1.0}):
        pass
    with pytest.raises(ValueError, match="Received: 'gate2'"):
        SubnetModel(model).choose({"gate2": 1.0})
    plain = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(ValueError, match=r"must hold SubnetGate layers.*with 0 gates"):
        SubnetModel(plain)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 6)])
def test_masks_that_are_no_factor_a_channel_are_refused(shape, x):
    model, mask = make_model(), np.zeros(shape, "float32")
    cut = SubnetModel(model)
    expected = r"mask of 'gate1' must have shape \(6,\), a factor a channel. Received: shape=" + re.escape(
        f"{shape}."
    )
    with pytest.raises(ValueError, match=expected), subnet(model, {"gate1": mask}):
        pass
    with pytest.raises(ValueError, match=expected):
        cut.choose({"skip_gate": np.zeros(4, "float32"), "gate1": mask})
    # What is refused changes nothing.
    np.testing.assert_array_equal(numpy(cut(x)), numpy(model(x)))


@pytest.mark.once
@pytest.mark.parametrize(
    ("count", "rho", "rounding", "kept"),
    [
        (2, 0.7, "up", 2),
        (2, 0.5, "up", 1),
        (2, 0.7, "nearest", 1),
        (64, 0.7, "up", 45),
        (128, 0.7, "up", 90),
        (256, 0.7, "up", 180),
        (512, 0.7, "up", 359),
        (10, 0.7, "up", 7),
        (64, 0.5, "up", 32),
        (160, 0.7, "up", 112),
        (3, 0.1, "nearest", 1),
    ],
)
def test_kept_counts_are_those_of_the_paper(count, rho, rounding, kept):
    assert kept_count(count, rho, rounding) == kept


def test_keeping_the_highest_keeps_exactly_so_many_also_among_equals():
    np.testing.assert_array_equal(
        numpy(keep_highest(ops.convert_to_tensor([0.3, 0.9, -1.0, 0.5]), 2)), [0, 1, 0, 1]
    )
    assert numpy(keep_highest(ops.zeros((7,)), 4)).sum() == 4


@pytest.mark.once
def test_the_space_of_a_block_is_its_paths_and_the_channels_of_every_layer():
    space = SubnetSpace(make_model(), rho=0.5)
    assert [(d.gate, d.path, d.count, d.kept) for d in space.decisions] == [
        (None, None, 2, 1),
        ("gate1", 0, 6, 3),
        ("residual_gate", 0, 4, 2),
    ]
    assert space.size == 12


@pytest.mark.once
def test_the_space_of_the_code_is_the_inputs_of_the_second_layer():
    space = SubnetSpace(make_model(), rho=0.7, scope="conv2")
    assert [(d.gate, d.count, d.kept) for d in space.decisions] == [("gate1", 6, 5)]
    nearest = SubnetSpace(make_model(), rho=0.7, scope="conv2", path_rounding="nearest")
    assert [d.kept for d in nearest.decisions] == [1, 5]


def test_a_dropped_path_masks_its_last_gate_whatever_its_channels():
    space = SubnetSpace(make_model(), rho=0.5)
    scores = np.array([0, 1, 6, 5, 4, 3, 2, 1, 1, 2, 3, 4], "float32")
    masks = {name: numpy(mask) for name, mask in space.highest(scores).items()}
    np.testing.assert_array_equal(masks["gate1"], [1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(masks["residual_gate"], np.zeros(4))
    np.testing.assert_array_equal(masks["skip_gate"], np.ones(4))
    scores[:2] = 1, 0
    masks = {name: numpy(mask) for name, mask in space.highest(scores).items()}
    np.testing.assert_array_equal(masks["residual_gate"], [0, 0, 1, 1])
    np.testing.assert_array_equal(masks["skip_gate"], np.zeros(4))


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": 1.0}, r"`rho` must be .* in \(0, 1\)"),
        ({"rho": 0.99, "scope": "conv2"}, "something to drop"),
        ({"scope": "layer"}, "`scope` must be one of 'block', 'conv2'"),
        ({"path_rounding": "down"}, "`path_rounding` must be one of"),
        ({"blocks": ["block2"]}, "blocks of the model: block. Received: 'block2'"),
    ],
)
def test_a_space_that_is_none_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SubnetSpace(make_model(), **options)


def test_a_subnet_model_has_the_policy_of_its_model_not_the_global_one(x):
    model = make_model()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        subnets = SubnetModel(model)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(subnets(x)), ops.convert_to_numpy(model(x)))
