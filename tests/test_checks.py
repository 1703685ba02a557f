import keras
import numpy as np
import pytest

from keras_robust import checks


def test_images_come_back_as_float32_of_the_same_values():
    x = np.linspace(0, 1, 12).reshape(1, 2, 2, 3)
    for given in (x, keras.ops.convert_to_tensor(x, "float32")):
        found = checks.check_images(given)
        assert (type(found), found.dtype) == (np.ndarray, np.float32)
        np.testing.assert_array_equal(found, x.astype("float32"))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((1, 2, 2, 1), 200.0), r"Did you mean x / 255\?"),
        (np.full((1, 2, 2, 1), -0.5), r"Scale or clip it to \[0, 1\]"),
        (np.full((1, 2, 2, 1), np.nan), r"must lie in \[0, 1\]"),
        (np.zeros((0, 2, 2, 1)), "at least one image"),
        (np.zeros(4), r"add a batch axis: x\[None\]"),
    ],
)
def test_images_that_cannot_be_images_name_the_fix(x, message):
    with pytest.raises(ValueError, match=message):
        checks.check_images(x)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.eye(3), r"For one-hot labels use y\.argmax\(-1\)"),
        (np.ones((3, 1), int), r"shape=\(3, 1\). Use y\[:, 0\]\.$"),
        (np.zeros(2, int), "one label for each image"),
        (np.zeros((2, 1), int), "one label for each image"),
        (np.zeros(3), r"must hold integers.*y\.astype\('int32'\)"),
        (np.array([0, 1, 10]), r"must lie in \[0, 9\].*maximum 10"),
        (np.array([0, -1, 2]), "minimum -1"),
    ],
)
def test_labels_that_cannot_be_labels_name_the_fix(y, message):
    with pytest.raises(ValueError, match=message):
        checks.check_labels(y, 3, num_classes=10)


def test_a_label_of_more_than_31_bits_does_not_become_another_class():
    for label in (np.int64(2**32), np.uint64(2**63)):
        with pytest.raises(ValueError, match="Labels must lie in"):
            checks.check_labels(np.array([label]), 1)


def test_labels_come_back_as_int32():
    assert checks.check_labels(np.array([0, 2], "uint8"), 2).dtype == np.int32


@pytest.mark.parametrize("indices", [[0, 1], [0.2, 0.7, 1.4], [True, True, False], [2, 1, -1]])
def test_indices_that_are_none_are_refused(indices):
    with pytest.raises(ValueError, match="`indices` must h"):
        checks.check_indices(indices, 3)
    np.testing.assert_array_equal(checks.check_indices([4, 2, 9], 3), [4, 2, 9])


@pytest.mark.parametrize("epsilon", [0, -1, np.nan, np.inf, "8/255", True, None])
def test_an_epsilon_that_is_no_positive_number_is_refused(epsilon):
    with pytest.raises(ValueError, match="`epsilon` must be a positive number"):
        checks.check_epsilon(epsilon, "L2")


def test_an_epsilon_of_8_is_refused_for_linf_and_taken_for_l1():
    with pytest.raises(ValueError, match="Did you mean 8 / 255"):
        checks.check_epsilon(8, "Linf")
    checks.check_epsilon(8, "L1")
    checks.check_epsilon(None, "L2", optional=True)


@pytest.mark.parametrize("value", [0, 1.5, "3", True, None])
def test_what_is_no_positive_integer_is_refused(value):
    with pytest.raises(ValueError, match="`steps` must be an integer of at least 1"):
        checks.check_positive_integer("steps", value)


def test_a_choice_lists_the_choices():
    with pytest.raises(ValueError, match=r"`loss` must be one of 'a', 'b'\. Received: loss='c'"):
        checks.check_choice("loss", "c", ("a", "b"))


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (np.zeros(4), r"shape \(batch, classes\)"),
        (np.zeros((4, 1)), "at least two classes"),
        (np.array([[0, np.nan], [1, 2]]), "NaN or infinity in 1 of 2 rows"),
        (np.array([[0.25, 0.75], [1.0, 0.0]]), r"must return logits\. Received: probabilities"),
    ],
)
def test_outputs_that_cannot_be_logits_name_the_fix(logits, message):
    with pytest.raises(ValueError, match=message):
        checks.check_logits(logits)


def test_a_label_beyond_the_logits_is_refused():
    with pytest.raises(ValueError, match="the model returns 2 logits"):
        checks.check_logits(np.array([[3.0, -1.0]]), np.array([2]))


def test_logits_that_only_sum_to_one_are_not_taken_for_a_softmax():
    assert not checks.looks_like_softmax(np.array([[2.0, -1.0], [0.5, 0.5]], "float32"))
    assert checks.looks_like_softmax(np.array([[0.1, 0.9], [0.5, 0.5]], "float32"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_a_softmax_in_half_precision_is_one(dtype, classes):
    logits = np.random.default_rng(0).normal(0, 3, (50, classes)).astype("float32")
    logits = keras.ops.cast(keras.ops.convert_to_tensor(logits), dtype)
    probabilities = keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.softmax(logits), "float32"))
    assert np.abs(probabilities.sum(axis=1) - 1).max() > 1e-5
    with pytest.raises(ValueError, match="Received: probabilities"):
        checks.check_logits(probabilities)
    assert not checks.looks_like_softmax(probabilities * np.float32(0.97))
