import keras
import numpy as np
import pytest
from keras import layers

from keras_robust import models
from keras_robust.analysis import activation_shift, activation_shift_figure, attacked_copies, noisy_copies
from keras_robust.attacks import PGD

# A convolution in float32 against NumPy's float64.
ROUNDING = 1e-5


def linear_net():
    inputs = keras.Input((6, 6, 1))
    x = layers.Conv2D(3, 1, name="conv")(inputs)
    x = layers.ReLU(name="relu")(x)
    return keras.Model(inputs, layers.Dense(4, name="logits")(layers.Flatten()(x)))


def test_shift_of_a_pointwise_convolution_is_the_norm_of_what_it_makes_of_the_difference(rng):
    model = linear_net()
    x, moved = (rng.uniform(size=(7, 6, 6, 1)).astype("float32") for _ in range(2))
    shifts = activation_shift(model, x, moved, batch_size=3)
    assert [shift.layer for shift in shifts] == ["conv", "logits"]
    kernel, bias = (w.astype("float64") for w in model.get_layer("conv").get_weights())
    distance = np.linalg.norm(((moved - x) * kernel[0, 0]).reshape(7, -1), axis=1)
    length = np.linalg.norm((x * kernel[0, 0] + bias).reshape(7, -1), axis=1)
    np.testing.assert_allclose(shifts[0].distance, distance, rtol=ROUNDING)
    np.testing.assert_allclose(shifts[0].relative, distance / length, rtol=ROUNDING)


def test_a_nested_model_is_measured_as_one_layer(rng):
    model = linear_net()
    backbone = keras.Model(model.inputs, model.get_layer("relu").output, name="backbone")
    nested = keras.Sequential([keras.Input((6, 6, 1)), backbone, layers.Flatten(), model.get_layer("logits")])
    x, moved = (rng.uniform(size=(7, 6, 6, 1)).astype("float32") for _ in range(2))
    shifts = activation_shift(nested, x, moved)
    assert [shift.layer for shift in shifts] == ["backbone", "logits"]
    expected = activation_shift(model, x, moved, layers=["relu", "logits"])
    for found, wanted in zip(shifts, expected, strict=True):
        np.testing.assert_allclose(found.distance, wanted.distance, rtol=ROUNDING)


def test_shift_of_layers_that_another_model_used_first_is_that_of_this_model(rng):
    model, inputs = linear_net(), keras.Input((6, 6, 1))
    x = model.get_layer("relu")(model.get_layer("conv")(layers.Rescaling(0.5)(inputs)))
    halved = keras.Model(inputs, model.get_layer("logits")(layers.Flatten()(x)))
    x, moved = (rng.uniform(size=(7, 6, 6, 1)).astype("float32") for _ in range(2))
    for found, wanted in zip(
        activation_shift(halved, x, moved), activation_shift(model, 0.5 * x, 0.5 * moved), strict=True
    ):
        assert found.layer == wanted.layer
        np.testing.assert_allclose(found.distance, wanted.distance, rtol=ROUNDING)


def test_shift_of_a_layer_that_a_model_calls_twice_is_that_of_its_first_call(rng):
    double, inputs = layers.Dense(6, name="dense"), keras.Input((6, 6, 1))
    once = double(layers.Reshape((6, 6))(inputs))
    x, moved = (rng.uniform(size=(7, 6, 6, 1)).astype("float32") for _ in range(2))
    (found,) = activation_shift(keras.Model(inputs, double(layers.ReLU()(once))), x, moved)
    (expected,) = activation_shift(keras.Model(inputs, once), x, moved)
    np.testing.assert_allclose(found.distance, expected.distance, rtol=ROUNDING)


def test_norms_of_a_model_in_half_precision_do_not_overflow():
    x = np.ones((1, 6, 6, 1), "float32")
    inputs = keras.Input((6, 6, 1))
    outputs = layers.Conv2D(1, 1, use_bias=False, kernel_initializer="ones", name="conv", dtype="mixed_float16")(
        inputs
    )
    model = keras.Model(inputs, outputs)
    model.get_layer("conv").set_weights([np.full((1, 1, 1, 1), 1000.0)])
    (shift,) = activation_shift(model, x, 0.5 * x)
    np.testing.assert_allclose(shift.distance, 3000.0)
    np.testing.assert_allclose(shift.relative, 0.5)


def test_one_clean_image_serves_all_perturbed_ones(rng):
    model, x = linear_net(), rng.uniform(size=(1, 6, 6, 1)).astype("float32")
    moved = rng.uniform(size=(5, 6, 6, 1)).astype("float32")
    one = activation_shift(model, x, moved, layers=["relu"], batch_size=2)
    each = activation_shift(model, np.repeat(x, 5, 0), moved, layers=["relu"])
    np.testing.assert_allclose(one[0].relative, each[0].relative, rtol=ROUNDING)
    assert activation_shift(model, x, x)[0].distance.max() == 0


def test_noisy_copies_have_the_noise_asked_for_and_are_not_clipped(rng):
    x = rng.uniform(size=(1, 8, 8, 3)).astype("float32")
    noise = noisy_copies(x, 0.5, count=50, seed=1) - x
    assert noise.std() == pytest.approx(0.5, rel=0.02)  # 9600 draws
    assert (noise + x).min() < 0
    assert len(np.unique(noise[:, 0, 0, 0])) == 50
    np.testing.assert_array_equal(
        noisy_copies(x, 0.5, count=3, seed=1), noisy_copies(x, 0.5, count=50, seed=1)[:3]
    )


def test_attacked_copies_differ_by_the_attacks_own_randomness(rng):
    model, x = linear_net(), rng.uniform(0.2, 0.8, size=(1, 6, 6, 1)).astype("float32")
    copies = attacked_copies(model, x, [1], PGD(norm="L2", epsilon=0.1, step_size=0.01, steps=2), count=4)
    assert copies.shape == (4, 6, 6, 1)
    assert np.linalg.norm((copies - x).reshape(4, -1), axis=1).max() <= 0.1 + ROUNDING
    assert np.abs(copies[0] - copies[1]).max() > 1e-3


@pytest.mark.once
def test_wrong_images_and_layers_are_errors(rng):
    model, x = linear_net(), rng.uniform(size=(3, 6, 6, 1)).astype("float32")
    with pytest.raises(ValueError, match="the clean image of each perturbed one"):
        activation_shift(model, x, x[:2])
    with pytest.raises(ValueError, match=r"conv, relu.*Received: \['conv9'\]"):
        activation_shift(model, x, x, layers=["conv9"])
    with pytest.raises(ValueError, match=r"x\[:1\]"):
        noisy_copies(x, 0.1)


@pytest.mark.once
def test_figure_names_the_layers_and_the_curves(rng):
    pytest.importorskip("matplotlib")
    model = models.build("kap_cnn", 10, (8, 8, 1), depth=1, pooling="kap", seed=0)
    x = rng.uniform(size=(1, 8, 8, 1)).astype("float32")
    shifts = activation_shift(model, x, noisy_copies(x, 0.1, count=4))
    axes = activation_shift_figure({"noise": shifts, "more noise": shifts}).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["conv1", "logits"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["noise", "more noise"]
