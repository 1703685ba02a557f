import contextlib

import keras
import numpy as np
import pytest

from keras_robust import attacks, norms
from keras_robust.attacks import Square, square, square_moves
from keras_robust.attacks.repeated import repeated_accuracy
from tests.attacks.linear import best_gain, linear_model

ROUNDING = 1e-5  # a radius in float32, summed over some hundred pixels


def attacked_gain(norm, epsilon, queries, size=8):
    """Share of the closed-form optimum that Square gains on a linear model of two classes, image by image."""
    model, weights, _ = linear_model(2, (size, size, 1), seed=0)
    model.layers[-1].bias.assign([0.0, 1e3])  # class 1 always wins: nothing is broken, the search goes on
    x = np.random.default_rng(1).uniform(0.2, 0.8, (6, size, size, 1)).astype("float32")
    slope = weights[:, 0] - weights[:, 1]
    x_adv = Square(norm, epsilon, queries=queries)(model, x, np.ones(6, int))
    return (x_adv - x).reshape(6, -1) @ slope / best_gain(norm, epsilon, x, slope)


def test_square_gains_nine_tenths_of_the_optimum_of_a_linear_model():
    assert attacked_gain("Linf", 0.1, queries=2500).min() > 0.9


@pytest.mark.parametrize(("norm", "epsilon"), [("L2", 0.5), ("L1", 2.0)])
def test_square_gains_on_a_linear_model_in_the_other_norms(norm, epsilon):
    few, many = attacked_gain(norm, epsilon, queries=1), attacked_gain(norm, epsilon, queries=300)
    assert (many > few).all()
    assert many.min() > 0.3  # far above a random direction, whose share of the optimum is about 0.1


def test_square_does_not_depend_on_which_rows_are_dropped():
    model, _, _ = linear_model(4, (6, 6, 3), seed=2)
    x = np.random.default_rng(3).uniform(0, 1, (16, 6, 6, 3)).astype("float32")
    y = attacks.Predictor.of(model).predict(x).argmax(1)
    attack = Square("Linf", 0.06, queries=150)
    together = attack(model, x, y, batch_size=16)
    broken = attacks.Predictor.of(model).predict(together).argmax(1) != y
    assert 0 < broken.sum() < 16  # so that rows were dropped
    alone = attack(model, x[3:8], y[3:8], indices=np.arange(3, 8))
    # One product of float32 numbers may round otherwise in another batch size; no decision changes here.
    np.testing.assert_allclose(together[3:8], alone, atol=ROUNDING)


def test_square_counts_one_forward_pass_a_query_and_stops_at_broken_rows():
    model, _, _ = linear_model(2, (6, 6, 1), seed=4)
    x = np.full((4, 6, 6, 1), 0.5, "float32")
    y = attacks.Predictor.of(model).predict(x).argmax(1)
    predictor = attacks.Predictor.of(model)
    before = predictor.forward_passes
    Square("Linf", 0.5, queries=5000)(model, x, y)
    assert predictor.forward_passes - before < 4 * 500


class Watched(keras.layers.Layer):
    """Passes images on, and remembers for each time its Python runs whether products were in full float32."""

    full, seen = False, ()

    def call(self, x):
        type(self).seen += (type(self).full,)
        return x


def test_queries_of_square_and_verdicts_are_computed_in_full_float32(monkeypatch):
    @contextlib.contextmanager
    def full_precision():
        Watched.full = True
        yield
        Watched.full = False

    model = keras.Sequential([keras.Input((6, 6, 1)), Watched(), keras.layers.Flatten(), keras.layers.Dense(2)])
    x = np.random.default_rng(6).uniform(0, 1, (4, 6, 6, 1)).astype("float32")
    y = keras.ops.convert_to_numpy(model(x)).argmax(1)
    monkeypatch.setattr(square.backend, "full_precision", full_precision)
    Watched.seen = ()
    Square("Linf", 0.01, queries=20)(model, x, y)
    assert False not in Watched.seen
    assert len(Watched.seen) >= 3  # the images, clean and found, the start, the queries
    Watched.seen = ()
    repeated_accuracy(model, x, y, repeats=2)
    assert Watched.seen
    assert False not in Watched.seen


def _propose(norm, x, best, position, sign, size, largest, epsilon, **options):
    norm, size = norms.get(norm), keras.ops.convert_to_tensor(size, "int32")
    drawn = (keras.ops.convert_to_tensor(each[:, None]) for each in (position, sign))  # one query
    windows = [kind[0] for kind in square_moves.plan_windows(norm, x, *drawn, size, **options)]
    pattern = keras.ops.convert_to_tensor(square_moves.window_pattern(norm.name, int(size), largest))
    contents = square_moves.window_contents(norm, x, pattern, epsilon)
    return square_moves.propose(norm, x, best, windows, contents, epsilon)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_square_keeps_every_proposal_in_the_ball(norm, rng):
    x = keras.ops.convert_to_tensor(rng.uniform(0, 1, (5, 9, 7, 3)).astype("float32"))
    epsilon = {"Linf": 0.1, "L2": 1.0, "L1": 5.0}[norm]
    best = x
    for size in (7, 5, 3, 3, 3):
        position = rng.integers(0, square_moves.SPREAD, (5, 2 if norm == "Linf" else 4)).astype("int32")
        sign = (2.0 * rng.integers(0, 2, (5, 4)) - 1).astype("float32")
        best = _propose(norm, x, best, position, sign if norm != "Linf" else sign[:, :3], size, 7, epsilon)
        lengths = keras.ops.convert_to_numpy(norms.get(norm).length(best - x))
        assert (lengths <= epsilon * (1 + ROUNDING)).all()
        assert (lengths > 0).all()


@pytest.mark.once
@pytest.mark.parametrize("size", [3, 5, 28])
def test_the_window_pattern_has_norm_one_and_two_halves_of_opposite_sign(size):
    pattern = square_moves.window_pattern("L2", size, 30)
    assert np.square(pattern).sum() == pytest.approx(1.0, abs=1e-6)
    assert (pattern[: size // 2, :size] > 0).all()
    assert (pattern[size // 2 : size, :size] < 0).all()
    assert not pattern[size:].any()
    assert np.abs(square_moves.window_pattern("L1", size, 30)).sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.once
def test_the_windows_shrink_at_the_queries_of_the_paper():
    attack = Square("Linf", 0.1)
    sizes = {start: attack._size(start, (32, 32)) for start in [0, *attack._ends((32, 32))[:-1]]}
    changes = [start for start in sizes if start and sizes[start] != sizes[max(f for f in sizes if f < start)]]
    assert changes == [11, 51, 201, 501, 1001, 2001, 4001]
    assert list(dict.fromkeys(sizes.values())) == [29, 20, 14, 10, 7, 5, 4, 3]


@pytest.mark.once
def test_square_rejects_vectors():
    model, _, _ = linear_model(3, (10,), seed=0)
    with pytest.raises(ValueError, match="height, width, channels"):
        Square("Linf", 0.1)(model, np.full((2, 10), 0.5), np.zeros(2, int))


@pytest.mark.once
@pytest.mark.parametrize("options", [{"queries": 0}, {"initial_fraction": 0.0}, {"restarts": 0}, {"epsilon": 8}])
def test_square_rejects_options_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Square(**{"norm": "Linf", "epsilon": 0.1, **options})


@pytest.mark.once
@pytest.mark.parametrize("all_positions", [True, False])
def test_windows_reach_the_last_row_unless_they_follow_the_reference(all_positions):
    x = keras.ops.full((1, 5, 5, 1), 0.5)
    position, sign = np.full((1, 2), square_moves.SPREAD - 1, "int32"), np.ones((1, 1), "float32")
    moved = _propose("Linf", x, x, position, sign, 2, 5, 0.1, all_positions=all_positions)
    moved = keras.ops.convert_to_numpy(moved) != 0.5
    corner = 3 if all_positions else 2
    assert moved[0, corner : corner + 2, corner : corner + 2].all()
    assert moved.sum() == 4


@pytest.mark.once
@pytest.mark.parametrize("shape", [(40, 5, 1), (9, 2, 3), (40, 1, 1), (5, 40, 1), (32, 20, 3), (1, 1, 1)])
def test_the_first_perturbation_has_norm_one_on_images_of_any_shape(shape, rng):
    assert np.linalg.norm(square_moves.starting_pattern("L2", rng, shape)) == pytest.approx(1.0, abs=1e-6)
    assert np.abs(square_moves.starting_pattern("L1", rng, shape)).max() > 0


@pytest.mark.parametrize(("norm", "epsilon"), [("L2", 0.5), ("L1", 2.0)])
def test_square_attacks_images_much_higher_than_wide(norm, epsilon):
    model, _, _ = linear_model(3, (40, 5, 1), seed=0)
    x = np.random.default_rng(0).uniform(0, 1, (2, 40, 5, 1)).astype("float32")
    y = attacks.Predictor.of(model).predict(x).argmax(1)
    moved = Square(norm, epsilon, queries=5)(model, x, y) - x
    lengths = keras.ops.convert_to_numpy(norms.get(norm).length(keras.ops.convert_to_tensor(moved)))
    assert (lengths > 0).all()
    assert (lengths <= epsilon * (1 + ROUNDING)).all()


@pytest.mark.once
def test_square_refuses_channels_before_rows_and_columns():
    model, _, _ = linear_model(3, (3, 8, 8), seed=0)
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match=r"channels.*Received: .*'channels_first'.*Permute"):
            Square("Linf", 0.1, queries=2)(model, np.full((2, 3, 8, 8), 0.5), np.zeros(2, int))
    finally:
        keras.config.set_image_data_format("channels_last")
