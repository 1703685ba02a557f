"""`value_and_grad`, `jit` and `TrainStep` mean the same on every backend."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_robust import backend

CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # float32


def numpy(nest):
    return keras.tree.map_structure(ops.convert_to_numpy, nest)


def tensor(values):
    return ops.convert_to_tensor(np.asarray(values, "float32"))


def test_value_and_grad_differentiates_a_tensor():
    x = tensor([1.0, -2.0, 3.0])
    value, gradient = backend.value_and_grad(lambda each: ops.sum(each**3), x)
    assert float(value) == pytest.approx(20.0)
    np.testing.assert_allclose(numpy(gradient), [3.0, 12.0, 27.0], **CLOSE)


def test_value_and_grad_differentiates_a_nest_and_keeps_its_shape():
    inputs = {"a": [tensor([1.0, 2.0]), tensor([3.0])], "b": tensor([[4.0]])}

    def function(nest):
        return ops.sum(nest["a"][0]) * ops.sum(nest["a"][1]) + ops.sum(nest["b"] ** 2)

    _, gradients = backend.value_and_grad(function, inputs)
    expected = {"a": [[3.0, 3.0], [3.0]], "b": [[8.0]]}
    assert set(gradients) == {"a", "b"}
    np.testing.assert_allclose(numpy(gradients["a"][0]), expected["a"][0], **CLOSE)
    np.testing.assert_allclose(numpy(gradients["a"][1]), expected["a"][1], **CLOSE)
    np.testing.assert_allclose(numpy(gradients["b"]), expected["b"], **CLOSE)


def test_an_input_that_the_value_ignores_has_a_zero_gradient():
    _, (_, gradient) = backend.value_and_grad(lambda pair: ops.sum(pair[0]), [tensor([1.0]), tensor([2.0, 3.0])])
    np.testing.assert_array_equal(numpy(gradient), [0.0, 0.0])


def test_value_and_grad_returns_what_comes_along():
    (value, aux), gradient = backend.value_and_grad(
        lambda x: (ops.sum(x**2), {"twice": 2 * x, "positive": x > 0}), tensor([1.0, -3.0]), has_aux=True
    )
    assert float(value) == pytest.approx(10.0)
    np.testing.assert_allclose(numpy(aux["twice"]), [2.0, -6.0], **CLOSE)
    np.testing.assert_array_equal(numpy(aux["positive"]), [True, False])
    np.testing.assert_allclose(numpy(gradient), [2.0, -6.0], **CLOSE)


def test_no_gradient_flows_through_the_results():
    def outer(x):
        value, gradient = backend.value_and_grad(lambda each: ops.sum(each**2), x)
        return ops.sum(x) + value + ops.sum(gradient)

    _, gradient = backend.value_and_grad(outer, tensor([5.0, 7.0]))
    np.testing.assert_allclose(numpy(gradient), [1.0, 1.0], **CLOSE)


def test_value_and_grad_takes_the_weights_of_a_model():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    x = np.arange(6, dtype="float32").reshape(2, 3)
    weights = [variable.value for variable in model.trainable_variables]

    def total(values):
        return ops.sum(model.stateless_call(values, [], ops.convert_to_tensor(x))[0])

    _, (gradient,) = backend.value_and_grad(total, weights)
    np.testing.assert_allclose(numpy(gradient)[:, 0], x.sum(0), **CLOSE)


def test_a_compiled_function_gives_the_same_numbers_through_loops_and_gradients(rng):
    def descend(x, steps):
        def step(index, each):
            return each - 0.1 * backend.value_and_grad(lambda z: ops.sum(z**2), each)[1]

        return {"x": ops.fori_loop(0, 5, step, x), "steps": steps + 1}

    x = rng.normal(size=(4, 3)).astype("float32")
    run = backend.jit(descend)
    for _ in range(2):
        found = numpy(run(tensor(x), ops.convert_to_tensor(2)))
        np.testing.assert_allclose(found["x"], x * 0.8**5, **CLOSE)
        assert found["steps"] == 3


def test_a_compiled_function_takes_nests_and_new_shapes():
    run = backend.jit(lambda nest: nest["a"] + nest["b"][0])
    for count in (2, 5):
        found = run({"a": ops.ones((count,)), "b": [ops.ones((count,))]})
        np.testing.assert_array_equal(numpy(found), np.full(count, 2.0))


def test_a_compiled_function_records_no_gradient():
    variable = keras.Variable(np.ones(3, "float32"))
    found = backend.jit(lambda x: x * 2)(variable.value)
    assert not getattr(found, "requires_grad", False)


def test_synchronize_returns_the_nest_and_the_device_has_a_name():
    nest = [ops.ones((2,)), {"b": ops.zeros((1,))}]
    assert len(backend.synchronize(nest)) == 2
    assert isinstance(backend.device_name(), str)
    assert backend.VERSION[0].isdigit()


class Stepped(backend.TrainStep, keras.Model):
    """Linear model that shifts its batch and, where told so, its weights during the step."""

    def __init__(self, offset=None, shift=0.0):
        super().__init__()
        self.dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        self.seen = self.add_weight(name="seen", shape=(), trainable=False, initializer="zeros")
        self.offset, self.shift = offset, shift

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x)

    def prepare_batch(self, x, y, sample_weight=None):
        self.seen.assign(self.seen + 1.0)
        return x + self.shift, y, sample_weight

    def weight_offsets(self, x, y):
        if self.offset is None:
            return None
        return [ops.full(variable.shape, self.offset) for variable in self.trainable_variables]


def fitted(steps=1, learning_rate=0.1, **options):
    """Kernel of a model after some steps of gradient descent on the mean square error of w * x against 0."""
    model = Stepped(**options)
    model.build((None, 1))
    model.compile(optimizer=keras.optimizers.SGD(learning_rate), loss="mse")
    x = np.full((4 * steps, 1), 2.0, "float32")
    model.fit(x, np.zeros((4 * steps, 1), "float32"), batch_size=4, epochs=1, shuffle=False, verbose=0)
    kernel = float(ops.convert_to_numpy(model.dense.kernel)[0, 0])
    return kernel, float(ops.convert_to_numpy(model.seen))


def test_a_train_step_without_preparation_is_that_of_keras():
    kernel, _ = fitted()
    assert kernel == pytest.approx(1 - 0.1 * 2 * 2.0 * 2.0)  # d/dw (2 w)^2 = 8 w


def test_a_train_step_trains_on_the_prepared_batch():
    kernel, _ = fitted(shift=-1.0)
    assert kernel == pytest.approx(1 - 0.1 * 2 * 1.0)  # x is 1 now


def test_variables_assigned_while_the_batch_is_prepared_keep_their_values():
    assert fitted(steps=3)[1] == 3.0


def test_weight_offsets_are_on_for_the_gradient_and_off_after_the_step():
    kernel, _ = fitted(offset=0.5)
    assert kernel == pytest.approx(1 - 0.1 * 8 * 1.5)  # the gradient is that of the shifted weight


def test_weight_offsets_leave_no_trace_where_the_step_is_zero():
    assert fitted(steps=5, learning_rate=0.0, offset=0.5)[0] == pytest.approx(1.0, abs=1e-6)


def test_compiled_memory_counts_arguments_and_results_or_is_not_known():
    x = tensor(np.ones((100, 100)))
    found = backend.compiled_memory(backend.jit(lambda each: each + 1), x)
    assert (found is not None) == (keras.backend.backend() == "jax")
    assert found is None or found >= 2 * 4 * 100**2


def test_compiled_program_is_the_same_for_the_same_arithmetic_under_other_names():
    def two_layers(first, second):
        inputs = keras.Input((4,))
        hidden = keras.layers.Dense(3, activation="relu", name=first)(inputs)
        model = keras.Model(inputs, keras.layers.Dense(2, name=second)(hidden))
        return model, [variable.value for variable in model.weights]

    def program(model, values, scale=1.0):
        call = backend.jit(lambda weights, x: scale * model.stateless_call(weights, [], x)[0])
        return backend.compiled_program(call, values, tensor(np.ones((5, 4))))

    one, other = two_layers("first", "second"), two_layers("other", "another")
    if keras.backend.backend() == "torch":
        assert program(*one) is None
    else:
        assert program(*one) == program(*other)
        assert program(*one) != program(*other, scale=2.0)


def test_a_function_takes_the_gradient_that_it_brings():
    @backend.custom_gradient
    def tripled(x):
        def gradient(*args, upstream=None):
            return 3 * (args[0] if upstream is None else upstream)

        return x + 0.0, gradient

    value, gradient = backend.value_and_grad(lambda x: ops.sum(tripled(x)), tensor([1.0, 2.0]))
    assert float(value) == 3.0
    np.testing.assert_allclose(numpy(gradient), [3.0, 3.0], **CLOSE)


def test_full_precision_multiplies_in_float32(rng):
    a, b = rng.normal(size=(64, 256)).astype("float32"), rng.normal(size=(256, 64)).astype("float32")
    with backend.full_precision():
        product = backend.jit(ops.matmul)(ops.convert_to_tensor(a), ops.convert_to_tensor(b))
    # TensorFloat-32 keeps 10 bits: an error of some 1e-2 here.
    np.testing.assert_allclose(numpy(product), a.astype("float64") @ b.astype("float64"), atol=1e-4)
