import math

import keras
import numpy as np
import pytest

from keras_robust import models
from keras_robust.layers import KAP, KMP, GaussianNoise, WeightMap, noise_at_inference

# One pass through three layers in float32, in batches of different sizes.
FLOAT32_ROUNDING = 1e-5
ORDER = {
    "Conv2D": "conv",
    "KAP": "pool",
    "KMP": "pool",
    "GaussianNoise": "noise",
    "BatchNormalization": "bn",
    "ReLU": "relu",
}


def trainable_parameters(model):
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def kinds(model):
    """What follows what; a convolution with an averaged kernel is a convolution and its pooling."""
    found = []
    for layer in model.layers:
        if type(layer).__name__ in ORDER:
            found.append(ORDER[type(layer).__name__])
        if getattr(layer, "averaging", None) is not None:
            found.append("pool")
    return found


def averaged(model):
    """Convolutions with an averaged kernel."""
    return [layer for layer in model.layers if getattr(layer, "averaging", None) is not None]


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"layer": "conv"}, 261_070),
        ({"layer": "conv", "batch_normalization": True}, 261_218),
        ({"layer": "conv", "input_scale": True}, 261_854),
        ({"layer": "conv", "filters": (200, 500, 8)}, 1_187_030),
        ({"layer": "conv", "kernel_size": 9}, 360_862),
        ({"layer": "smoothing"}, 1_157_226),
        ({"layer": "smoothing", "batch_normalization": True}, 1_157_370),
        ({"layer": "smoothing", "kernel_size": 9}, 1_157_226),
        ({"layer": "unsharp"}, 1_487_178),
    ],
)
def test_wm_cnn_has_the_parameters_of_the_paper(options, parameters):
    assert trainable_parameters(models.build("wm_cnn", 10, (28, 28, 1), **options)) == parameters


@pytest.mark.once
@pytest.mark.parametrize(
    ("depth", "multiplier", "parameters"),
    # Convolutions with bias, two numbers a channel of batch normalisation, and the dense layer.
    [(1, 1, 1_792 + 128 + 650), (3, 1, 1_792 + 83_088 + 332_032 + 928 + 2_570), (1, 2, 7_168 + 512 + 2_570)],
)
def test_kap_cnn_has_the_widths_of_the_paper(depth, multiplier, parameters):
    model = models.build("kap_cnn", 10, (32, 32, 3), depth=depth, width_multiplier=multiplier, pooling="kap")
    assert trainable_parameters(model) == parameters


@pytest.mark.once
@pytest.mark.parametrize("pooling", ["kap", "kmp"])
def test_kap_cnn_runs_convolution_pooling_noise_normalisation_relu(pooling):
    model = models.build("kap_cnn", 10, (32, 32, 3), pooling=pooling, sigma=0.1)
    assert kinds(model) == ["noise", *(["conv", "pool", "noise", "bn", "relu"] * 3)]
    noises = [layer for layer in model.layers if isinstance(layer, GaussianNoise)]
    assert [layer.role for layer in noises] == ["input"] + ["activation"] * 3
    assert all(float(layer.sigma.value) == pytest.approx(0.1) for layer in noises)


@pytest.mark.once
def test_kap_cnn_without_pooling_and_noise_has_neither():
    model = models.build("kap_cnn", 10, (32, 32, 3))
    assert kinds(model) == ["conv", "bn", "relu"] * 3


@pytest.mark.once
def test_noise_layers_of_sigma_0_are_kept_on_request():
    model = models.build("kap_cnn", 10, (32, 32, 3), depth=1, with_noise_layers=True)
    assert kinds(model) == ["noise", "conv", "noise", "bn", "relu"]


@pytest.mark.once
@pytest.mark.parametrize(
    ("kap_layers", "pooled"), [(1, [1]), (2, [1, 2]), ([2, 3], [2, 3]), (0, []), (None, [1, 2, 3])]
)
def test_kap_layers_chooses_the_pooled_convolutions(kap_layers, pooled):
    model = models.build("kap_cnn", 10, (32, 32, 3), pooling="kap", kap_layers=kap_layers)
    assert [layer.name for layer in averaged(model)] == [f"conv{position}" for position in pooled]
    names = [layer.name for layer in model._flatten_layers() if isinstance(layer, KAP)]
    assert names == [f"conv{position}_kap" for position in pooled]


@pytest.mark.once
def test_strided_kap_leaves_a_quarter_of_the_channels_to_the_next_convolution():
    model = models.build("kap_cnn", 10, (32, 32, 3), pooling="kap", pool_size=2, strides=2)
    assert [model.get_layer(f"conv{n}").kernel.shape[2] for n in (1, 2, 3)] == [3, 16, 36]


@pytest.mark.once
@pytest.mark.parametrize("padding", ["centered", "valid"])
@pytest.mark.parametrize("multiplier", [1, 2, 3])
def test_kap_ensemble_cnn_keeps_the_number_of_ensembles(multiplier, padding):
    model = models.build("kap_ensemble_cnn", 10, (32, 32, 3), width_multiplier=multiplier, padding=padding)
    convolutions = averaged(model)
    assert [layer.output.shape[-1] for layer in convolutions] == [64, 144, 225]
    widths = [64 * multiplier**2, 144 * multiplier**2, 225 * multiplier**2]
    assert [layer.kernel.shape[-1] for layer in convolutions] == widths
    assert [layer.output.shape[1] for layer in convolutions] == [32, 16, 16]
    assert model.get_layer("global_pool").input.shape[1:3] == (8, 8)


@pytest.mark.once
def test_kap_ensemble_cnn_takes_max_pooling_of_kernels_without_strides():
    model = models.build("kap_ensemble_cnn", 10, (32, 32, 3), pooling="kmp", width_multiplier=2)
    pools = [layer for layer in model.layers if isinstance(layer, KMP)]
    assert [pool.output.shape[-1] for pool in pools] == [256, 576, 900]


@pytest.mark.once
@pytest.mark.parametrize(
    ("layer", "kernel_size", "sizes"),
    [("smoothing", 3, [26, 24, 22]), ("smoothing", 9, [26, 24, 22]), ("unsharp", 3, [28, 28, 28])],
)
def test_weight_maps_shrink_the_image_as_the_paper_counts(layer, kernel_size, sizes):
    model = models.build("wm_cnn", 10, (28, 28, 1), layer=layer, kernel_size=kernel_size)
    maps = [layer for layer in model.layers if isinstance(layer, WeightMap)]
    assert [layer.output.shape[1] for layer in maps] == sizes


def test_weights_of_another_image_size_are_an_error(tmp_path):
    models.build("wm_cnn", 10, (8, 8, 1)).save_weights(tmp_path / "small.weights.h5")
    model = models.build("wm_cnn", 10, (9, 8, 1))
    with pytest.raises(ValueError, match=r"one image size.*\(9, 8, 1, 32\).*a file with \(8, 8, 1, 32\)"):
        model.load_weights(tmp_path / "small.weights.h5")


@pytest.mark.once
def test_padding_of_a_strided_convolution_is_symmetric():
    model = models.build("kap_cnn", 10, (32, 32, 3), depth=1)
    assert model.get_layer("conv1_pad").padding == ((1, 1), (1, 1))
    assert model.get_layer("conv1").padding == "valid"


@pytest.mark.once
def test_initial_weights_and_batch_normalisation_are_those_of_pytorch():
    model = models.build("kap_cnn", 10, (32, 32, 3), seed=0)
    for name, fan_in in (("conv2", 64 * 9), ("conv3", 144 * 9), ("logits", 256)):
        layer = model.get_layer(name)
        kernel, bias = layer.get_weights()
        bound = fan_in**-0.5
        assert 0.99 * bound < np.abs(kernel).max() <= bound
        assert np.abs(bias).max() <= bound
        assert bias.std() > 0
        assert kernel.std() == pytest.approx(bound / 3**0.5, rel=0.05)  # 2560 or more draws
    bn = model.get_layer("conv1_bn")
    assert (bn.epsilon, bn.momentum) == (1e-5, 0.9)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("kap_cnn", {"pooling": "kap", "sigma": 0.1}),
        ("kap_cnn", {"pooling": "kmp", "depth": 2}),
        ("kap_ensemble_cnn", {"width_multiplier": 2}),
        ("wm_cnn", {"layer": "conv", "kernel_size": 5}),
        ("wm_cnn", {"input_scale": True, "batch_normalization": True}),
        ("wm_cnn", {"layer": "unsharp"}),
    ],
    ids=str,
)
def test_small_model_returns_float32_logits_and_survives_saving(name, options, tmp_path, rng):
    x = rng.uniform(size=(5, 8, 8, 1)).astype("float32")
    model = models.build(name, 10, (8, 8, 1), seed=1, **options)
    logits = model.predict(x, batch_size=2, verbose=0)
    assert logits.shape == (5, 10)
    assert logits.dtype == np.float32
    assert logits.std() > 0
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(x, verbose=0), logits, atol=FLOAT32_ROUNDING)


def test_one_seed_gives_the_same_weights_and_another_seed_others():
    first, second, other = (models.build("kap_cnn", 10, (8, 8, 1), depth=2, sigma=0.1, seed=s) for s in (5, 5, 6))
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [model.get_layer("conv1").get_weights()[0] for model in (first, other)]
    assert not np.array_equal(*kernels)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_logits_are_float32_under_mixed_precision(policy, rng):
    keras.config.set_dtype_policy(policy)
    try:
        model = models.build("kap_cnn", 10, (8, 8, 1), pooling="kap", sigma=0.1, depth=2)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("conv1").compute_dtype == policy.removeprefix("mixed_")
    logits = model.predict(rng.uniform(size=(2, 8, 8, 1)).astype("float32"), verbose=0)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()


def test_builders_keep_the_channels_last_whatever_the_configuration_says():
    keras.config.set_image_data_format("channels_first")
    try:
        model = models.build("kap_cnn", 10, (8, 8, 3), pooling="kap", depth=2)
    finally:
        keras.config.set_image_data_format("channels_last")
    assert model.input_shape == (None, 8, 8, 3)
    assert model.get_layer("conv1").output.shape == (None, 4, 4, 64)


def test_noise_of_a_kap_cnn_switches_by_role(rng):
    model = models.build("kap_cnn", 10, (8, 8, 1), pooling="kap", sigma=0.2, depth=1, seed=0)
    x = rng.uniform(size=(4, 8, 8, 1)).astype("float32")
    clean = model.predict(x, verbose=0)
    outputs = []
    for inputs, activations in ((True, False), (False, True)):
        with noise_at_inference(model, inputs=inputs, activations=activations):
            outputs.append(model.predict(x, verbose=0))
    np.testing.assert_array_equal(model.predict(x, verbose=0), clean)
    assert all(np.abs(noisy - clean).max() > 1e-3 for noisy in outputs)
