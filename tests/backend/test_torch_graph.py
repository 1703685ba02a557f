import keras
import numpy as np
import pytest
from keras import ops

from keras_robust import backend, losses
from keras_robust.layers.gaussian_noise import noise_at_inference
from keras_robust.models import insert_noise
from keras_robust.prediction import Predictor

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="graphs are PyTorch's")


@pytest.fixture
def net():
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Flatten(),
        keras.layers.Dense(3),
    ]
    return keras.Sequential([keras.Input((6, 6, 1)), *layers])


def gradient(logits, x, y):
    return backend.value_and_grad(lambda images: ops.sum(losses.cross_entropy(logits(images), y)), x)


def numbers(nest):
    return [ops.convert_to_numpy(each) for each in keras.tree.flatten(nest)]


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(5, 6, 6, 1)).astype("float32")
    return ops.convert_to_tensor(x), ops.convert_to_tensor(np.array([0, 1, 2, 0, 1]))


@pytest.fixture
def recorded(monkeypatch):
    """Outcome of each attempt to record."""
    from keras_robust.backend import torch_graph

    outcomes = []
    original = torch_graph._recorded
    monkeypatch.setattr(torch_graph, "_recorded", lambda *args: outcomes.append(original(*args)) or outcomes[-1])
    return outcomes


def test_recorded_gradient_is_the_eager_one(net, batch, recorded):
    run = Predictor.of(net).compiled("gradient", gradient)
    eager = numbers(run(*batch))
    run(*batch)
    graph = numbers(run(*batch))
    assert [outcome is not None for outcome in recorded] == [True]
    for a, b in zip(eager, graph, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_recorded_graph_follows_the_weights(net, batch, recorded):
    run = Predictor.of(net).compiled("gradient", gradient)
    for _ in range(4):
        before = numbers(run(*batch))
    net.layers[0].kernel.assign(2 * net.layers[0].kernel)
    net.layers[1].moving_mean.assign(net.layers[1].moving_mean + 1)
    after = numbers(run(*batch))
    assert len(recorded) == 1
    assert abs(after[0] - before[0]) > 1e-3
    expected = numbers(gradient(net, *batch))
    for a, b in zip(after, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_recorded_graph_follows_training(net, batch, recorded):
    run = Predictor.of(net).compiled("gradient", gradient)
    for _ in range(4):
        run(*batch)
    net.compile(keras.optimizers.Adam(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    net.train_on_batch(*map(ops.convert_to_numpy, batch))
    after, expected = numbers(run(*batch)), numbers(gradient(net, *batch))
    assert len(recorded) == 1
    for a, b in zip(after, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_freezing_a_layer_leaves_the_logits_what_they_are(rng):
    # The variables keep their order here: the end of one list is only the beginning of the other.
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(6)])
    x = rng.normal(size=(3, 6)).astype("float32")
    for _ in range(4):
        before = Predictor.of(model).predict(x)
    for frozen in (0, 1):
        model.layers[frozen].trainable = False
        for _ in range(4):
            np.testing.assert_allclose(Predictor.of(model).predict(x), before, rtol=1e-5, atol=1e-6)


def test_nests_of_the_same_tensors_are_told_apart(recorded):
    run = backend.jit(lambda first, rest: sum(first[0]) - sum(first[1]) + sum(rest[0]) * sum(rest[1]))
    one, two, three = (ops.convert_to_tensor(value) for value in (1.0, 2.0, 3.0))
    nests = {((one, two), (three,)): (0.0, 9.0), ((one,), (two, three)): (-4.0, 5.0)}
    for _ in range(4):
        for first, (difference, _) in nests.items():
            for rest, (_, product) in nests.items():
                assert float(run(first, rest)) == difference + product
    assert len(recorded) == 4


def test_function_that_looks_at_values_stays_eager(net, batch, recorded):
    def doubled(logits, x):
        return ops.while_loop(lambda each: ops.max(each) < 1.0, lambda each: (2 * each,), (ops.abs(logits(x)),))[0]

    run = Predictor.of(net).compiled("loop", doubled)
    for scale in (1.0, 0.5, 0.1, 0.01, 0.001):
        found = numbers(run(scale * batch[0]))[0]
        assert found.max() >= 1.0
    assert recorded == [None]


def test_part_of_a_function_that_stays_eager_is_recorded(net, batch, recorded):
    def whole(logits, x, y):
        value, slope = logits.part("part", gradient)(x, y)
        return slope if float(ops.convert_to_numpy(value)) > 0 else -slope

    run = Predictor.of(net).compiled("whole", whole)
    eager = numbers(run(*batch))[0]
    for _ in range(4):
        found = numbers(run(*batch))[0]
    assert sorted(outcome is not None for outcome in recorded) == [False, True]
    np.testing.assert_allclose(found, eager, rtol=1e-6, atol=1e-7)


def test_random_layers_draw_anew_with_each_tick(net, batch):
    noisy = insert_noise(net, 0.5)
    with noise_at_inference(noisy, inputs=True, activations=True):
        run = Predictor.of(noisy).compiled("tick", lambda logits, x, tick: logits(x, tick))
        found = [numbers(run(batch[0], ops.convert_to_tensor(tick)))[0] for tick in (0, 1, 2, 3, 0)]
    np.testing.assert_array_equal(found[0], found[4])
    assert len({each.tobytes() for each in found}) == 4


def test_two_arguments_that_were_one_tensor_when_recorded_stay_two():
    difference = backend.jit(lambda variables, a, b: a - b)
    one, other = ops.ones((3,)), ops.zeros((3,))
    for _ in range(4):
        assert not ops.any(difference([], one, one))
    np.testing.assert_array_equal(ops.convert_to_numpy(difference([], one, other)), np.ones(3))


def test_recorded_loss_hands_its_gradient_on(recorded):
    def loss(inputs, scale):
        first, second = inputs
        return scale * ops.sum(first * first * second), [first + second]

    recorded_loss = backend.compiled_loss(loss)
    for step in range(5):  # recorded at the third
        first = ops.convert_to_tensor(np.array([1.0 + step, -2.0], "float32")).requires_grad_()
        second = ops.convert_to_tensor(np.array([3.0, 0.5 * step], "float32")).requires_grad_()
        value, (added,) = recorded_loss([first, second], ops.convert_to_tensor(0.5))
        (3.0 * value).backward()
        a, b = numbers([first.detach(), second.detach()])
        np.testing.assert_allclose(numbers(value.detach())[0], 0.5 * (a * a * b).sum(), rtol=1e-6)
        np.testing.assert_allclose(numbers(first.grad)[0], 3.0 * a * b, rtol=1e-6)
        np.testing.assert_allclose(numbers(second.grad)[0], 1.5 * a * a, rtol=1e-6)
        np.testing.assert_allclose(numbers(added.detach())[0], a + b, rtol=1e-6)
    assert [outcome is not None for outcome in recorded] == [True]


def check_logits(model, x):
    """The recorded logits, from the third call on, are the model's own."""
    expected = ops.convert_to_numpy(model(x, training=False))
    for _ in range(4):
        np.testing.assert_allclose(Predictor.of(model).predict(x), expected, rtol=1e-5, atol=1e-6)


def test_constants_that_are_printed_alike_are_told_apart(rng):
    inputs = keras.Input((4,))
    scaled = [keras.layers.Rescaling(1 / number)(inputs) for number in (255, 256)]
    model = keras.Model(inputs, keras.layers.Subtract()(scaled) * 1e5)
    check_logits(model, rng.uniform(size=(5, 4)).astype("float32"))


def test_freezing_one_layer_and_freeing_another_leaves_the_logits_what_they_are(rng):
    x = rng.uniform(size=(5, 4)).astype("float32")
    hidden = [keras.layers.Dense(4, activation="tanh") for _ in range(2)]
    model = keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(3)])
    for frozen in (0, 1):
        for index, layer in enumerate(hidden):
            layer.trainable = index != frozen
        check_logits(model, x)


def test_layers_that_are_added_or_taken_out_count(rng):
    x = rng.uniform(size=(5, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    check_logits(model, x)
    for factor in (-1.0, 2.0):  # the second may come to lie where the first was
        model.add(keras.layers.Rescaling(factor))
        check_logits(model, x)
        model.pop()
        check_logits(model, x)
