import resource

import keras
import numpy as np
import pytest
from keras import ops

from keras_robust import backend
from keras_robust.layers import WeightMap, map_product
from tests.layers.precision import float64

# Sums of at most some hundred numbers of order 1 in float64.
ROUNDING = 1e-11
CASES = {
    "smoothing": {},
    "smoothing_even_kernel": {"kernel_size": 2},
    "smoothing_kernel_5_padded_by_1": {"kernel_size": 5, "padding": 1},
    "smoothing_kernel_9_padded_by_3": {"kernel_size": 9, "padding": 3},
    "smoothing_same": {"padding": "same"},
    "smoothing_strided": {"strides": 2},
    "smoothing_same_strided": {"padding": "same", "strides": 2, "kernel_size": 5},
    "smoothing_normalized_without_bias": {"normalize": True, "use_bias": False},
    "unsharp": {"mode": "unsharp"},
    "unsharp_kernel_5": {"mode": "unsharp", "kernel_size": 5, "padding": 2},
    "unsharp_strided": {"mode": "unsharp", "strides": 2},
    "unsharp_normalized": {"mode": "unsharp", "normalize": True},
}


def brute_force(x, kernel, bias, *, kernel_size=3, strides=1, mode="smoothing", padding=None, normalize=False):
    """Equations 1 to 4 of the paper, term by term: a map for each pair of channels, then the box of ones."""
    if padding is None:
        padding = "same" if mode == "unsharp" else "valid"
    before = after = padding
    if padding == "same":
        before, after = (kernel_size - 1) // 2, kernel_size // 2
    elif padding == "valid":
        before = after = 0
    maps = x[..., None] * kernel[None]  # (batch, height, width, channels, filters)
    padded = np.pad(maps, [(0, 0), (before, after), (before, after), (0, 0), (0, 0)])
    height = (padded.shape[1] - kernel_size) // strides + 1
    width = (padded.shape[2] - kernel_size) // strides + 1
    outputs = np.zeros((len(x), height, width, kernel.shape[-1]))
    for r in range(height):
        for c in range(width):
            top, left = r * strides, c * strides
            window = padded[:, top : top + kernel_size, left : left + kernel_size].sum((1, 2))
            filtered = window / kernel_size**2 if normalize else window
            if mode == "unsharp":
                filtered = 2 * maps[:, top, left] - filtered
            outputs[:, r, c] = filtered.sum(1)
    return outputs if bias is None else outputs + bias


@pytest.mark.parametrize("name", CASES)
def test_weight_map_and_its_gradients_equal_brute_force(name, rng):
    options = CASES[name]
    reference = {key: value for key, value in options.items() if key != "use_bias"}
    with float64():
        layer = WeightMap(3, **options, dtype="float64")
        x = rng.normal(size=(2, 6, 5, 2))
        layer.build(x.shape)
        for variable in layer.trainable_variables:
            variable.assign(rng.normal(size=variable.shape))
        kernel = ops.convert_to_numpy(layer.kernel.value)
        bias = None if layer.bias is None else ops.convert_to_numpy(layer.bias.value)
        expected = brute_force(x, kernel, bias, **reference)

        # The layer is linear in the input and in the maps: the gradient of a weighted sum of its outputs is that
        # sum at each unit vector.
        weights = rng.normal(size=expected.shape)

        def total(tensors):
            outputs, _ = layer.stateless_call(tensors[1:], [], tensors[0])
            return ops.sum(outputs * ops.convert_to_tensor(weights)), outputs

        tensors = [ops.convert_to_tensor(x), *(v.value for v in layer.trainable_variables)]
        (_, outputs), gradients = backend.jit(lambda nest: backend.value_and_grad(total, nest, True))(tensors)
        np.testing.assert_allclose(ops.convert_to_numpy(outputs), expected, atol=ROUNDING)
        gradients = [ops.convert_to_numpy(gradient) for gradient in gradients]
        by_input, by_kernel = np.zeros_like(x), np.zeros_like(kernel)
        for place in np.ndindex(x.shape[1:]):
            unit = np.zeros_like(x)
            unit[(slice(None), *place)] = 1.0
            by_input[(slice(None), *place)] = (brute_force(unit, kernel, None, **reference) * weights).sum(
                (1, 2, 3)
            )
        for place in np.ndindex(kernel.shape):
            unit = np.zeros_like(kernel)
            unit[place] = 1.0
            by_kernel[place] = (brute_force(x, unit, None, **reference) * weights).sum()
        np.testing.assert_allclose(gradients[0], by_input, atol=ROUNDING)
        np.testing.assert_allclose(gradients[1], by_kernel, atol=ROUNDING)
        if bias is not None:
            np.testing.assert_allclose(gradients[2], weights.sum(0), atol=ROUNDING)


def test_window_of_any_width_is_summed(rng):
    with float64():
        for kernel_size in range(1, 11):
            layer = WeightMap(2, kernel_size, use_bias=False, dtype="float64")
            x = rng.normal(size=(1, 11, 12, 1))
            layer.build(x.shape)
            kernel = ops.convert_to_numpy(layer.kernel.value)
            expected = brute_force(x, kernel, None, kernel_size=kernel_size)
            outputs = backend.jit(lambda images, layer=layer: layer(images))(ops.convert_to_tensor(x))
            np.testing.assert_allclose(ops.convert_to_numpy(outputs), expected, atol=ROUNDING)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("name", ["smoothing", "smoothing_same_strided", "unsharp", "unsharp_strided"])
def test_batch_in_parts_gives_the_outputs_and_gradients_of_the_whole(name, data_format, rng, monkeypatch):
    with float64():
        layer = WeightMap(3, **CASES[name], data_format=data_format, dtype="float64")
        shape = (12, 7, 6, 2) if data_format == "channels_last" else (12, 2, 7, 6)
        layer.build(shape)
        outputs = layer.compute_output_shape(shape)
        weights = ops.convert_to_tensor(rng.normal(size=outputs))
        tensors = [ops.convert_to_tensor(rng.normal(size=shape)), *(v.value for v in layer.trainable_variables)]

        def total(nest):
            outputs, _ = layer.stateless_call(nest[1:], [], nest[0])
            return ops.sum(outputs * weights), outputs

        found = []
        for least_images in (16, 3):  # one part, four parts
            monkeypatch.setattr(map_product, "LEAST_IMAGES", least_images)
            monkeypatch.setattr(map_product, "PART", 1)
            assert map_product.part_count(shape) == (1 if least_images == 16 else 4)
            found.append(backend.jit(lambda nest: backend.value_and_grad(total, nest, True))(tensors))
        for whole, parts in zip(*(keras.tree.flatten(each) for each in found), strict=True):
            np.testing.assert_allclose(ops.convert_to_numpy(parts), ops.convert_to_numpy(whole), atol=ROUNDING)
        if backend.COMPILES:
            eager = layer(tensors[0])
            np.testing.assert_allclose(
                ops.convert_to_numpy(eager), ops.convert_to_numpy(found[0][0][1]), atol=ROUNDING
            )


def test_large_batch_falls_into_equal_parts_of_16_images_or_more(monkeypatch):
    monkeypatch.setattr(backend, "device_name", lambda: "cpu")
    count = map_product.part_count
    assert [count((batch, 28, 28, 32)) for batch in (16, 128, 2048)] == [1, 8, 128]
    assert [count((None, 28, 28, 32)), count((128, 8, 8, 4)), count((127, 28, 28, 32))] == [1, 1, 1]
    assert count((250, 28, 28, 32)) == 10
    monkeypatch.setattr(backend, "device_name", lambda: "NVIDIA H200")
    assert [count((batch, 28, 28, 32)) for batch in (128, 2048)] == [1, 4]


@pytest.mark.skipif(not backend.COMPILES, reason="parts are for compilers")
def test_half_precision_batch_in_parts_sums_gradients_in_single_precision(rng, monkeypatch):
    monkeypatch.setattr(map_product, "PART", 1)
    x = ops.convert_to_tensor(np.ones((4096, 4, 4, 1), "float16"))
    layer = WeightMap(1, use_bias=False, dtype="float16")
    layer.build(x.shape)

    def total(nest):
        return ops.sum(layer.stateless_call(nest, [], x)[0])

    assert map_product.part_count(x.shape) == 256
    (gradient,) = backend.jit(lambda nest: backend.value_and_grad(total, nest)[1])([layer.kernel.value])
    # One pixel of each image, in the corner's only window. Sums of ones stop growing at 2048 in half precision.
    assert float(ops.convert_to_numpy(gradient)[0, 0, 0, 0]) == 4096


def test_initial_weights_are_uniform_within_one_over_the_root_of_the_inputs():
    layer = WeightMap(16, 3, seed=0)
    layer.build((None, 20, 20, 4))
    bound = 1 / np.sqrt(4 * 9)
    for variable in layer.trainable_variables:
        values = ops.convert_to_numpy(variable.value)
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.99 * bound
        assert abs(values.std() - bound / np.sqrt(3)) < 0.02 * bound  # 5000 or more draws


def test_image_of_another_size_is_an_error():
    layer = WeightMap(4)
    layer(np.zeros((1, 8, 8, 2), "float32"))
    with pytest.raises(ValueError, match=r"belong to one image size.*\(8, 8, 2\).*\(9, 8, 2\)"):
        layer(np.zeros((1, 9, 8, 2), "float32"))
    with pytest.raises(ValueError, match=r"belong to one image size.*\(8, 8, 2\).*\(8, 9, 2\)"):
        layer(keras.Input((8, 9, 2)))


def test_unsharp_with_an_output_of_another_size_is_an_error():
    for padding in ("valid", 0, 2):
        with pytest.raises(ValueError, match="Use padding='same'"):
            WeightMap(4, 3, mode="unsharp", padding=padding)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": 0}, "`filters` must be an integer of at least 1"),
        ({"filters": 4, "mode": "sharp"}, "`mode` must be one of 'smoothing', 'unsharp'"),
        ({"filters": 4, "padding": "full"}, "`padding` must be one of None, 'valid', 'same'"),
        ({"filters": 4, "padding": -1}, "`padding` must be an integer of at least 0"),
        ({"filters": 4, "strides": 0}, "`strides` must be an integer of at least 1"),
    ],
)
def test_wrong_arguments_of_weight_map_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        WeightMap(**arguments)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((None, None, 8, 2), "height, width and channels must be known"),
        ((None, 8, 2), "needs images, shape"),
        ((None, 2, 8, 2), "must fit into the padded map"),
    ],
)
def test_images_that_cannot_have_a_map_are_errors(shape, message):
    with pytest.raises(ValueError, match=message):
        WeightMap(4).build(shape)


def test_weight_map_never_builds_a_map_for_each_pair_of_channels():
    images, size, channels = 64, 24, 256
    x = ops.ones((images, size, size, channels))
    layer = WeightMap(channels, use_bias=False)
    layer.build(x.shape)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ops.convert_to_numpy(layer(x))
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)  # Linux counts in KiB
    # 9.7 GB for every pair; summed over the inputs first, a few copies of the 0.15 GB of weights.
    assert grown < 0.2 * 4 * images * size**2 * channels**2
