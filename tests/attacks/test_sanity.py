import keras
import numpy as np
import pytest

from keras_robust.attacks import Predictor, sanity
from tests.attacks.contract import contract_data, contract_images, contract_model
from tests.attacks.linear import linear_model


def names(flags):
    return [flag.name for flag in flags]


def test_a_deterministic_net_with_a_dropout_layer_has_no_flag():
    model = contract_model()
    assert sanity.check_model(model, *contract_data(model), targets=4) == []


def test_a_model_that_draws_at_inference_is_randomized():
    @keras.saving.register_keras_serializable("tests")
    class Noise(keras.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.seed_generator = keras.random.SeedGenerator(0)

        def call(self, x):
            return x + keras.random.normal(keras.ops.shape(x), stddev=0.01, seed=self.seed_generator)

    model = keras.Sequential([keras.Input((6, 6, 3)), Noise(), contract_model()])
    x = contract_images()
    (flag,) = sanity.check_model(model, x, Predictor.of(model).predict(x).argmax(1))
    assert flag.name == "randomized"
    assert flag.value > 1e-4


def test_a_softmax_is_found():
    model = contract_model()
    x, y = contract_data(model)
    soft = keras.Sequential([model, keras.layers.Softmax()])
    assert "softmax_output" in names(sanity.check_model(soft, x, y))


def test_the_share_of_images_without_a_gradient_is_exact():
    model = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.ReLU(threshold=0.5), keras.layers.Dense(3)]
    )
    x = np.full((8, 2, 2, 1), 0.9, "float32")
    x[:3] = 0.1  # below the threshold: dead
    model.layers[-1].set_weights([np.eye(4, 3, dtype="float32"), np.array([0.2, 0.1, 0.0], "float32")])
    y = np.zeros(8, "int32")
    assert sanity.zero_gradients(model, x, y, "margin").tolist() == [True] * 3 + [False] * 5
    flags = sanity.check_model(model, x, y)
    assert [(flag.name, flag.value) for flag in flags] == [("zero_gradient", 3 / 8)] * 2
    assert "3 of 8 images" in flags[0].message


def test_too_few_classes_for_the_targets_are_a_note():
    model, _, _ = linear_model(4, (3, 3, 1), seed=0)
    x = np.full((2, 3, 3, 1), 0.5, "float32")
    (flag,) = sanity.check_model(model, x, np.zeros(2, int), targets=9)
    assert (flag.name, flag.value, flag.severity) == ("few_classes", 4, "note")
    assert sanity.few_classes(10, 9) is None
    assert sanity.few_classes(9, 9) is not None


def test_square_ahead_of_the_white_box_attacks_is_a_flag():
    assert sanity.square_beats_white_box({"apgd-ce": 0.5, "fab-t": 0.45, "square": 0.449}) is None
    assert sanity.square_beats_white_box({"square": 0.1}) is None
    flag = sanity.square_beats_white_box({"apgd-ce": 0.5, "fab-t": 0.45, "square": 0.40})
    assert flag.value == pytest.approx(0.05)
