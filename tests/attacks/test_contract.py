import functools

import keras
import numpy as np
import pytest

from keras_robust import attacks, losses, norms
from tests.attacks.contract import EPSILON, ROWS, contract_data, contract_model, model_of_nan_in_the_dark

SEED, BATCH, OTHER_BATCH = 11, 8, 4  # 12 images are batches of 8 and 4: two compilations an attack
# A radius and a box in float32, summed over up to 108 pixels.
ROUNDING = 1e-5
# The same path in another batch: convolutions of another batch size sum in another order. Where steps follow the
# gradient's sign, a pixel whose gradient is zero to that rounding may step either way, and leave the path alone.
SAME_PATH, FREE_PIXELS = 1e-3, {"Linf": 0.005}

CASES = [pytest.param(row, norm, id=f"{row.name}-{norm}") for row in ROWS for norm in row.norms]
table = pytest.mark.parametrize(("row", "norm"), CASES)


@functools.cache
def subject():
    model = contract_model()
    return model, *contract_data(model)


@functools.cache
def outcome(row, norm):
    model, x, y = subject()
    before = [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in model.variables]
    x_adv = row.make(norm, EPSILON[norm])(model, x, y, seed=SEED, batch_size=BATCH)
    return x_adv, before


def assert_same_path(row, norm, x_adv, part=slice(None)):
    expected, y = outcome(row, norm)[0][part], subject()[2][part]
    apart = np.abs(x_adv - expected) > SAME_PATH
    assert apart.mean() <= FREE_PIXELS.get(norm, 0.0), np.argwhere(apart)
    np.testing.assert_array_equal(loss_of(x_adv, y)[1] > 0, loss_of(expected, y)[1] > 0)


def loss_of(x, y):
    logits = attacks.Predictor.of(subject()[0]).predict(x)
    margin = keras.ops.convert_to_numpy(losses.margin(keras.ops.convert_to_tensor(logits), y))
    return keras.ops.convert_to_numpy(losses.cross_entropy(keras.ops.convert_to_tensor(logits), y)), margin


@table
def test_the_result_has_the_shape_and_type_of_the_images(row, norm):
    x_adv, _ = outcome(row, norm)
    assert isinstance(x_adv, np.ndarray)
    assert (x_adv.shape, x_adv.dtype) == (subject()[1].shape, np.float32)


@table
def test_the_result_lies_in_the_ball(row, norm):
    lengths = keras.ops.convert_to_numpy(norms.get(norm).length(outcome(row, norm)[0] - subject()[1]))
    assert lengths.max() <= EPSILON[norm] * (1 + ROUNDING) + ROUNDING


@table
def test_the_result_lies_in_the_box(row, norm):
    x_adv, _ = outcome(row, norm)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@table
def test_the_variables_of_the_model_are_unchanged(row, norm):
    _, before = outcome(row, norm)
    for variable, value in zip(subject()[0].variables, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable.value), value)


@pytest.mark.parametrize(
    ("row", "norm"), [case for case in CASES if case.id in ("pgd-L1", "apgd-Linf", "fab_targeted-L2", "square-L2")]
)
def test_the_result_does_not_depend_on_the_default_float_type(row, norm):
    expected, _ = outcome(row, norm)
    model, x, y = contract_model(), *subject()[1:]
    keras.config.set_floatx("float64")
    try:
        found = row.make(norm, EPSILON[norm])(model, x, y, seed=SEED, batch_size=BATCH)
    finally:
        keras.config.set_floatx("float32")
    np.testing.assert_array_equal(found, expected)


@table
def test_the_same_seed_gives_the_same_result(row, norm):
    model, x, y = subject()
    again = row.make(norm, EPSILON[norm])(model, x, y, seed=SEED, batch_size=BATCH)
    np.testing.assert_array_equal(again, outcome(row, norm)[0])


@table
def test_another_seed_gives_another_result_where_the_attack_is_random(row, norm):
    model, x, y = subject()
    other = row.make(norm, EPSILON[norm])(model, x, y, seed=SEED + 1, batch_size=BATCH)
    assert np.array_equal(other, outcome(row, norm)[0]) != row.random


@table
def test_the_result_does_not_depend_on_the_batch_size(row, norm):
    model, x, y = subject()
    other = row.make(norm, EPSILON[norm])(model, x, y, seed=SEED, batch_size=OTHER_BATCH)
    assert_same_path(row, norm, other)


@table
def test_a_part_of_the_images_is_attacked_as_it_is_within_the_whole(row, norm):
    model, x, y = subject()
    part = np.array([11, 3, 7, 0])
    alone = row.make(norm, EPSILON[norm])(model, x[part], y[part], seed=SEED, batch_size=OTHER_BATCH, indices=part)
    assert_same_path(row, norm, alone, part)


@table
def test_a_row_that_never_breaks_holds_a_point_of_higher_loss(row, norm):
    _, x, y = subject()
    clean, _ = loss_of(x, y)
    found, margin = loss_of(outcome(row, norm)[0], y)
    robust = margin < 0
    assert robust.any()
    assert (found > clean)[robust].all()


@table
def test_some_rows_break(row, norm):
    assert (loss_of(outcome(row, norm)[0], subject()[2])[1] > 0).any()


@table
def test_pixels_outside_the_box_are_refused(row, norm):
    model, x, y = subject()
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\].*Did you mean x / 255"):
        row.make(norm, EPSILON[norm])(model, x * 255, y)


@table
def test_labels_outside_the_logits_are_refused(row, norm):
    model, x, y = subject()
    with pytest.raises(ValueError, match=r"Labels must lie in \[0, 4\]"):
        row.make(norm, EPSILON[norm])(model, x, y + 5)


@table
def test_an_unknown_norm_is_refused(row, norm):
    with pytest.raises(ValueError, match="`norm` must be one of 'Linf', 'L2', 'L1'"):
        row.make("L3", 0.1)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_an_epsilon_of_8_is_refused_for_linf(row):
    with pytest.raises(ValueError, match="Did you mean 8 / 255"):
        row.make("Linf", 8)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_model_with_a_softmax_is_refused(row):
    model, x, y = subject()
    soft = keras.Sequential([model, keras.layers.Softmax()])
    with pytest.raises(ValueError, match=r"must return logits\. Received: probabilities"):
        row.make(row.norms[0], 0.02)(soft, x, y)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_model_of_logits_that_are_not_finite_is_refused(row):
    _, x, y = subject()
    model = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Flatten(), keras.layers.Dense(5)])
    model.layers[-1].bias.assign(np.full(5, np.nan, "float32"))
    with pytest.raises(ValueError, match="must return finite logits"):
        row.make(row.norms[0], 0.02)(model, x, y)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_model_of_logits_that_are_not_finite_beyond_the_first_batch_is_refused(row):
    model = model_of_nan_in_the_dark((6, 6, 3), 5)
    x = np.random.default_rng(0).uniform(0.7, 0.9, (4, 6, 6, 3)).astype("float32")
    x[2:] = 0.4
    y = np.append(model.predict(x[:2], verbose=0).argmax(axis=1), [1, 1])  # argmax of NaN is 0
    with pytest.raises(ValueError, match="finite logits"):
        row.make(row.norms[0], 0.02)(model, x, y, batch_size=2)
