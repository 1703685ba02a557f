import keras
import numpy as np
import pytest
from keras import ops

from keras_robust import backend, norms

NAMES = ["Linf", "L2", "L1"]
SHAPE = (5, 4, 3)
ROUNDING = 1e-5  # sums of 60 numbers of size 1 in float32
EPSILON = {"Linf": 0.1, "L2": 0.6, "L1": 2.0}


def length(name, delta):
    delta = np.abs(delta.reshape(len(delta), -1).astype("float64"))
    return {"Linf": delta.max(1), "L2": np.sqrt((delta**2).sum(1)), "L1": delta.sum(1)}[name]


def batch(rng, count=16):
    x = np.clip(rng.uniform(-0.2, 1.2, (count, *SHAPE)), 0, 1).astype("float32")
    return x, (x + rng.normal(0, 0.5, x.shape)).astype("float32")


def project(name, x_adv, x, epsilon):
    run = backend.jit(lambda a, b, e: norms.get(name).project(a, b, e))
    return ops.convert_to_numpy(run(*(ops.convert_to_tensor(np.float32(each)) for each in (x_adv, x, epsilon))))


def l1_projection_by_sorting(x_adv, x, epsilon):
    """Exact: the dual is piecewise linear in the threshold t, with knots at |delta| - room and |delta|."""
    result = np.empty(x.shape)
    for row, (a, b) in enumerate(zip(x_adv.astype("float64"), x.astype("float64"), strict=True)):
        delta = a - b
        size, room = np.abs(delta), np.where(delta > 0, 1 - b, b)

        def shrink(t, size=size, room=room):
            return np.minimum(np.maximum(size - t, 0), room)

        knots = np.sort(np.concatenate([[0.0], size.ravel(), (size - room).ravel()]))
        knots = knots[knots >= 0]
        lengths = np.array([shrink(t).sum() for t in knots])
        # np.interp needs rising abscissae.
        threshold = 0.0 if lengths[0] <= epsilon else np.interp(epsilon, lengths[::-1], knots[::-1])
        result[row] = b + np.sign(delta) * shrink(threshold)
    return result


@pytest.mark.parametrize("name", NAMES)
def test_length_equals_numpy(name, rng):
    delta = rng.normal(size=(7, *SHAPE)).astype("float32")
    found = ops.convert_to_numpy(norms.get(name).length(ops.convert_to_tensor(delta)))
    np.testing.assert_allclose(found, length(name, delta), rtol=ROUNDING)


@pytest.mark.parametrize("name", NAMES)
def test_a_projection_lies_in_the_ball_and_the_box(name, rng):
    x, x_adv = batch(rng)
    found = project(name, x_adv, x, EPSILON[name])
    assert found.min() >= 0
    assert found.max() <= 1
    assert (length(name, found - x) <= EPSILON[name] * (1 + ROUNDING) + 1e-6).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_projection_leaves_a_point_inside_where_it_is(name, rng):
    x, _ = batch(rng)
    inside = np.clip(x + rng.uniform(-1, 1, x.shape) * 0.005, 0, 1).astype("float32")
    np.testing.assert_allclose(project(name, inside, x, EPSILON[name]), inside, atol=1e-6)


def test_the_linf_projection_is_the_closest_point_pixel_by_pixel(rng):
    x, x_adv = batch(rng)
    expected = np.clip(x_adv, np.maximum(x - 0.1, 0), np.minimum(x + 0.1, 1))
    np.testing.assert_allclose(project("Linf", x_adv, x, 0.1), expected, atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 2.0, 8.0, 100.0])
def test_the_l1_projection_equals_the_exact_one_by_sorting(epsilon, rng):
    x, x_adv = batch(rng)
    expected = l1_projection_by_sorting(x_adv, x, epsilon)
    np.testing.assert_allclose(project("L1", x_adv, x, epsilon), expected, atol=ROUNDING)


def test_the_l1_projection_is_no_farther_than_any_point_of_ball_and_box(rng):
    x, x_adv = batch(rng, 4)
    found = project("L1", x_adv, x, 2.0)
    distance = np.linalg.norm((found - x_adv).reshape(4, -1), axis=1)
    for _ in range(300):  # feasible points near the projection and far from it
        other = found + rng.normal(0, rng.choice([0.01, 0.1]), x.shape)
        other = l1_projection_by_sorting(other, x, 2.0)
        assert (np.linalg.norm((other - x_adv).reshape(4, -1), axis=1) >= distance - ROUNDING).all()


def test_the_l2_projection_shrinks_to_the_ball_and_then_clips(rng):
    x, x_adv = batch(rng)
    delta = (x_adv - x).astype("float64")
    factor = np.minimum(1, 0.6 / length("L2", delta))[:, None, None, None]
    np.testing.assert_allclose(project("L2", x_adv, x, 0.6), np.clip(x + factor * delta, 0, 1), atol=1e-6)


@pytest.mark.parametrize("name", ["Linf", "L2"])
def test_a_projection_takes_one_radius_for_each_image(name, rng):
    x, x_adv = batch(rng, 3)
    radii = np.array([0.05, 0.1, 0.2])
    together = project(name, x_adv, x, radii)
    for row, radius in enumerate(radii):
        np.testing.assert_allclose(together[row], project(name, x_adv[[row]], x[[row]], radius)[0], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_steepest_direction_gains_the_dual_norm_of_the_gradient(name, rng):
    gradient = rng.normal(size=(6, *SHAPE)).astype("float32")
    direction = ops.convert_to_numpy(norms.get(name).steepest(ops.convert_to_tensor(gradient)))
    dual = {"Linf": "L1", "L2": "L2", "L1": "Linf"}[name]
    np.testing.assert_allclose((direction * gradient).sum((1, 2, 3)), length(dual, gradient), rtol=ROUNDING)
    np.testing.assert_allclose(length(name, direction), 1, rtol=ROUNDING)


@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_gradient_gives_as_long_a_step_as_a_large_one(name, rng):
    gradient = rng.normal(size=(6, *SHAPE)).astype("float32")
    x = ops.zeros(gradient.shape) + 0.5
    large, tiny = (
        ops.convert_to_numpy(norms.get(name).step(x, ops.convert_to_tensor(gradient * factor), 0.1))
        for factor in (np.float32(1), np.float32(1e-25))
    )
    np.testing.assert_allclose(tiny, large, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_zero_gradient_moves_nothing(name, rng):
    x, _ = batch(rng, 3)
    step = backend.jit(lambda x, gradient: norms.get(name).step(x, gradient, 0.3))
    found = ops.convert_to_numpy(step(ops.convert_to_tensor(x), ops.zeros(x.shape)))
    np.testing.assert_array_equal(found, x)


def test_an_l1_step_spends_its_length_inside_the_box_on_the_largest_gradients(rng):
    x = np.clip(rng.uniform(-0.5, 1.5, (8, 16, 16, 2)), 0, 1).astype("float32")
    gradient = rng.normal(size=x.shape).astype("float32")
    run = backend.jit(lambda a, g: norms.L1.step(a, g, 1.5))
    delta = ops.convert_to_numpy(run(ops.convert_to_tensor(x), ops.convert_to_tensor(gradient))) - x
    assert (delta * gradient >= 0).all()
    assert (x + delta >= -1e-6).all()
    assert (x + delta <= 1 + 1e-6).all()
    np.testing.assert_allclose(length("L1", delta), 1.5, rtol=1e-4)
    share = 1.5 / 6  # the step over one hundredth of 512 features, rounded up
    order = np.argsort(-np.abs(gradient).reshape(8, -1), axis=1)
    room = np.where(gradient > 0, 1 - x, x).reshape(8, -1)
    take = np.minimum(np.take_along_axis(room, order, 1), share)
    before = np.cumsum(take, axis=1) - take
    expected = np.clip(1.5 - before, 0, take)
    np.testing.assert_allclose(np.take_along_axis(np.abs(delta).reshape(8, -1), order, 1), expected, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_draws_fill_the_unit_ball_and_depend_on_the_generator_alone(name):
    draw = norms.get(name).draw
    points = np.stack([draw(np.random.default_rng(seed), SHAPE) for seed in range(200)])
    lengths = length(name, points)
    assert points.dtype == np.float32
    assert lengths.max() <= 1 + ROUNDING
    assert abs(points.mean()) < 0.05  # no side is preferred
    if name != "Linf":  # uniform length along a random direction
        assert abs(lengths.mean() - 0.5) < 0.08
    np.testing.assert_array_equal(draw(np.random.default_rng(7), SHAPE), points[7])


@pytest.mark.parametrize("name", NAMES)
def test_samples_inside_a_compiled_step_follow_the_law_of_draws(name):
    seed = keras.random.SeedGenerator(0)
    sample = norms.get(name).sample((200, *SHAPE), lambda shape: keras.random.normal(shape, seed=seed))
    points = ops.convert_to_numpy(sample)
    lengths = length(name, points)
    assert lengths.max() <= 1 + ROUNDING
    assert abs(points.mean()) < 0.05
    if name == "Linf":  # uniform: a tenth of the numbers in each tenth of the range
        np.testing.assert_allclose(np.histogram(points, 10, (-1, 1))[0] / points.size, 0.1, atol=0.02)
    else:
        assert abs(lengths.mean() - 0.5) < 0.08


def test_an_unknown_norm_names_the_known_ones():
    with pytest.raises(ValueError, match=r"`norm` must be one of 'Linf', 'L2', 'L1'. Received: norm='L0'"):
        norms.get("L0")
