import functools

import keras
import numpy as np
import pytest
from keras import layers

from keras_robust import models
from keras_robust.layers import KAP, KMP, Conv2D, Dense, GaussianNoise, WeightMap, noise_at_inference
from keras_robust.models.policy import dtype_policy
from keras_robust.models.rebuild import at_any_size

pytestmark = pytest.mark.usefixtures("numpy_weights")
# Some layers in float32, summed in another order, on outputs of order 1.
FLOAT32_ROUNDING = 2e-5


def small_cnn():
    """Convolutions with fused, separate and no activation, padding, a branch, a grouped convolution."""
    inputs = keras.Input((12, 12, 3), name="images")
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="first")(inputs)
    x = layers.ZeroPadding2D(1, name="second_pad")(x)
    x = layers.Conv2D(16, 3, strides=2, use_bias=False, name="second")(x)
    x = layers.BatchNormalization(name="bn")(x)
    shortcut = x
    x = layers.ReLU(name="relu")(x)
    x = layers.Conv2D(16, 3, padding="same", groups=2, activation="tanh", name="grouped")(x)
    x = layers.Conv2D(16, 1, name="pointwise")(x)
    x = layers.Add(name="add")([x, shortcut])
    x = layers.Conv2D(16, 3, padding="same", name="last")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name="small_cnn")


def mobilenet():
    return keras.applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, weights=None, classes=10, classifier_activation=None
    )


def vision_transformer():
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(24, 4, strides=4, name="patches")(inputs)
    x = layers.Reshape((16, 24))(x)
    x = x + layers.Dense(24, use_bias=False, name="positions")(keras.ops.ones_like(x))
    for block in range(2):
        y = layers.LayerNormalization(name=f"block{block}_norm1")(x)
        y = layers.MultiHeadAttention(2, 12, name=f"block{block}_attention")(y, y)
        x = layers.Add(name=f"block{block}_add1")([x, y])
        y = layers.LayerNormalization(name=f"block{block}_norm2")(x)
        y = layers.Dense(48, activation="gelu", name=f"block{block}_expand")(y)
        y = layers.Dense(24, name=f"block{block}_project")(y)
        x = layers.Add(name=f"block{block}_add2")([x, y])
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name="vision_transformer")


def nested():
    """A functional backbone and a sequential head within a model, one convolution used twice."""
    inputs = keras.Input((8, 8, 12))
    twice = layers.Conv2D(12, 3, padding="same", name="twice")
    backbone = keras.Model(inputs, twice(layers.ReLU()(twice(inputs))), name="backbone")
    head = keras.Sequential(
        [keras.Input((8, 8, 12)), layers.Conv2D(9, 3, name="in_head"), layers.Flatten(), layers.Dense(10)],
        name="head",
    )
    images = keras.Input((8, 8, 3))
    x = layers.Conv2D(12, 1, name="stem")(images)
    return keras.Model(images, head(backbone(x)), name="nested")


def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(10),
        ],
        name="chain",
    )


NETS = {
    "small_cnn": small_cnn,
    "vision_transformer": vision_transformer,
    "nested": nested,
    "sequential": sequential,
}


def images(model, rng, count=3):
    return rng.uniform(size=(count, *model.input_shape[1:])).astype("float32")


def shuffled(model, rng):
    """Gives every weight a value that no initialiser gives."""
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return model


def assert_same_outputs(model, other, rng, tolerance=FLOAT32_ROUNDING):
    x = images(model, rng)
    expected = model.predict(x, verbose=0)
    assert expected.std() > 0
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(other.predict(x, verbose=0), expected, atol=tolerance * scale)


def kinds(model):
    return {layer.name: type(layer) for layer in model._flatten_layers()}


@pytest.mark.parametrize("name", NETS)
def test_kap_of_one_kernel_keeps_the_outputs_and_so_the_weights_of_any_model(name, rng):
    model = shuffled(NETS[name](), rng)
    pooled = models.insert_kap(model, pool_size=1)
    assert any(isinstance(layer, KAP) for layer in pooled._flatten_layers())
    assert not {id(v) for v in model.variables} & {id(v) for v in pooled.variables}
    assert_same_outputs(model, pooled, rng)


@pytest.mark.parametrize("name", NETS)
def test_noise_of_sigma_0_keeps_the_outputs_and_so_the_weights_of_any_model(name, rng):
    model = shuffled(NETS[name](), rng)
    noisy = models.insert_noise(model, 0.0)
    noises = [layer for layer in noisy._flatten_layers() if isinstance(layer, GaussianNoise)]
    assert [noise.role for noise in noises].count("input") == 1
    assert len(noises) > 1
    assert_same_outputs(model, noisy, rng)


def test_surgery_on_a_net_of_keras_applications_keeps_every_weight(rng):
    model = shuffled(mobilenet(), rng)
    operated = models.insert_noise(models.insert_kap(model), 0.1)
    found = kinds(operated)
    assert found["expanded_conv_project"] is found["Conv_1"] is Conv2D
    assert found["expanded_conv_project_noise"] is GaussianNoise
    assert found["expanded_conv_depthwise"] is layers.DepthwiseConv2D
    expected = {variable.path: variable for variable in model.weights}
    variables = [v for v in operated.weights if "noise" not in v.path]
    assert len(variables) == len(expected)
    for variable in variables:
        np.testing.assert_array_equal(variable.numpy(), expected[variable.path].numpy(), variable.path)


def test_kap_averages_before_the_activation(rng):
    model = sequential()
    pooled = models.insert_kap(model)
    conv = model.get_layer("conv")
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="by_hand")(inputs)
    x = layers.ReLU()(KAP(3)(x))
    by_hand = keras.Model(inputs, model.layers[-1](layers.Flatten()(x)))
    by_hand.get_layer("by_hand").set_weights(conv.get_weights())
    assert_same_outputs(by_hand, pooled, rng)


def test_kap_follows_what_has_no_kernel_to_average_before_its_activation(rng):
    model = small_cnn()
    pooled = models.insert_kap(model)
    found = kinds(pooled)
    assert found["first"] is found["second"] is found["pointwise"] is Conv2D
    assert found["grouped"] is layers.Conv2D
    assert found["grouped_activation"] is layers.Activation
    assert pooled.get_layer("grouped_kap").output is pooled.get_layer("grouped_activation").input


def test_kap_goes_into_the_projections_of_a_transformer(rng):
    model = vision_transformer()

    def projection(layer):
        return layer.name.endswith(("attention", "project"))

    pooled = models.insert_kap(model, where=projection)
    found = kinds(pooled)
    assert found["block0_project"] is found["block1_project"] is Dense
    assert found["block0_attention_kap"] is KAP
    assert found["block0_expand"] is layers.Dense
    assert found["patches"] is layers.Conv2D
    assert not np.allclose(*(each.predict(images(model, rng), verbose=0) for each in (model, pooled)))
    assert_same_outputs(pooled, models.fold_kap(pooled), rng)


def test_shared_layer_stays_shared(rng):
    pooled = models.insert_kap(nested())
    backbone = pooled.get_layer("backbone")
    assert [layer.name for layer in backbone.layers].count("twice") == 1
    assert len(backbone.trainable_variables) == 2


def test_rebuilt_model_trains_and_reloads(tmp_path, rng):
    model = models.insert_noise(models.insert_kap(nested()), 0.1, seed=0)
    x = images(model, rng, 8)
    before = model.predict(x, verbose=0)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(x, np.arange(8), batch_size=4, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    after = model.predict(x, verbose=0)
    assert not np.allclose(before, after)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(x, verbose=0), after, atol=FLOAT32_ROUNDING)


def test_noise_follows_the_pooled_layers_before_their_activation_and_switches_on(rng):
    model = models.insert_kap(small_cnn(), where=["first", "grouped"])
    noisy = models.insert_noise(model, 0.3, seed=1)
    names = [layer.name for layer in noisy.layers if isinstance(layer, GaussianNoise)]
    assert names == ["input_noise", "first_noise", "grouped_kap_noise"]
    assert noisy.get_layer("first_noise").output is noisy.get_layer("first_activation").input
    x = images(model, rng)
    clean = noisy.predict(x, verbose=0)
    np.testing.assert_allclose(clean, model.predict(x, verbose=0), atol=FLOAT32_ROUNDING)
    with noise_at_inference(noisy, inputs=False, activations=True):
        assert np.abs(noisy.predict(x, verbose=0) - clean).max() > 1e-3


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_what_is_put_in_has_the_precision_of_the_model_whatever_that_of_keras_is(policy, rng):
    other = {"float32": "mixed_float16", "mixed_float16": "float32"}[policy]
    with dtype_policy(policy):
        model = shuffled(small_cnn(), rng)
    with dtype_policy(other):
        noisy = models.insert_noise(models.insert_kap(model, where=["first", "grouped"]), 0.0)
    assert noisy.dtype_policy.name == policy
    assert {layer.dtype_policy.name for layer in noisy.layers} == {policy}


def test_noise_after_a_quantized_layer_is_not_quantized(rng):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, name="first"), layers.Dense(4)])
    model.quantize("int8")
    noisy = models.insert_noise(model, 0.1, where=["first"])
    assert noisy.get_layer("first_noise").dtype_policy.name == "float32"
    x = rng.random((5, 6)).astype("float32")
    np.testing.assert_allclose(noisy.predict(x, verbose=0), model.predict(x, verbose=0), atol=FLOAT32_ROUNDING)


def test_noise_on_layers_alone_leaves_the_input_clean():
    noisy = models.insert_noise(small_cnn(), 0.1, inputs=False, where=["last"])
    noises = [layer for layer in noisy.layers if isinstance(layer, GaussianNoise)]
    assert [(noise.name, noise.role) for noise in noises] == [("last_noise", "activation")]


FOLDED = {
    "kap_cnn": ("kap_cnn", {"pooling": "kap", "depth": 2, "sigma": 0.1}),
    "strided": ("kap_cnn", {"pooling": "kap", "depth": 2, "pool_size": 2, "strides": 2}),
    "ensemble_valid": ("kap_ensemble_cnn", {"width_multiplier": 2, "padding": "valid"}),
}


@pytest.mark.parametrize("name", FOLDED)
def test_folded_model_is_plain_and_gives_the_same_logits(name, rng):
    builder, options = FOLDED[name]
    model = shuffled(models.build(builder, 10, (12, 12, 3), seed=0, **options), rng)
    folded = models.fold_kap(model)
    assert not {Conv2D, KAP} & {type(layer) for layer in folded._flatten_layers()}
    assert [layer.name for layer in folded.layers] == [layer.name for layer in model.layers]
    assert_same_outputs(model, folded, rng)


def test_kap_layer_after_a_convolution_or_dense_layer_is_folded_and_any_other_stays(rng):
    inputs = keras.Input((8, 8, 3))
    x = KAP(3, name="folded")(layers.Conv2D(16, 3, name="conv")(inputs))
    x = KAP(3, name="after_relu")(layers.ReLU()(x))
    shared = layers.Conv2D(16, 3, name="read_twice")(x)
    x = layers.Add()([KAP(3, name="beside")(shared), shared])
    x = KAP(3, name="after_activation")(layers.Conv2D(16, 3, activation="relu", name="activated")(x))
    x = KAP(2, 2, name="folded_dense")(layers.Dense(16, name="dense")(layers.Flatten()(x)))
    model = keras.Model(inputs, x)
    folded = models.fold_kap(model)
    left = [layer.name for layer in folded.layers if isinstance(layer, KAP)]
    assert left == ["after_relu", "beside", "after_activation"]
    assert folded.get_layer("dense").units == 4
    assert_same_outputs(model, folded, rng)


def test_kap_after_a_quantized_layer_is_not_folded(rng):
    inputs = keras.Input((6,))
    x = KAP(3, name="pool")(layers.Dense(8, name="first")(inputs))
    model = keras.Model(inputs, layers.Dense(4)(x))
    model.quantize("int8")
    folded = models.fold_kap(model)
    assert isinstance(folded.get_layer("pool"), KAP)
    x = rng.random((5, 6)).astype("float32")
    np.testing.assert_allclose(folded.predict(x, verbose=0), model.predict(x, verbose=0), atol=FLOAT32_ROUNDING)


def test_kap_after_attention_and_einsum_projections_is_folded_into_them(rng):
    inputs = keras.Input((2, 9, 16))
    attended = layers.MultiHeadAttention(2, 8, attention_axes=(2,), name="attention")(inputs, inputs)
    x = KAP(3, name="folded")(attended)
    x = KAP(3, name="folded_too")(
        layers.EinsumDense("bwtc,cd->bwtd", (2, 9, 25), bias_axes="d", name="projection")(x)
    )
    mixed = layers.EinsumDense("bwtc,ts->bwsc", (2, 9, 25), name="tokens_mixed")(x)
    x = KAP(3, name="other_axis")(mixed)
    active = layers.EinsumDense("bwtc,cd->bwtd", (2, 9, 25), activation="gelu", name="active")(x)
    model = keras.Model(inputs, KAP(3, name="after_activation")(active))
    for layer in model.layers:
        layer.set_weights([rng.normal(size=w.shape) * 0.3 for w in layer.get_weights()])
    folded = models.fold_kap(model)
    assert [layer.name for layer in folded.layers if isinstance(layer, KAP)] == ["other_axis", "after_activation"]
    assert_same_outputs(model, folded, rng)
    pooled = models.insert_kap(folded, where=["projection"])
    assert next(layer.name for layer in pooled.layers if isinstance(layer, KAP)) == "projection_kap"
    assert_same_outputs(pooled, models.fold_kap(pooled), rng)


def test_a_copy_for_any_size_gives_the_same_outputs_and_refuses_what_needs_a_size(rng):
    model = shuffled(models.build("resnet8", 10, (12, 12, 3), planes=(4, 6, 8), pooling="kap", seed=0), rng)
    free = at_any_size(model)
    assert free.input_shape == (None, None, None, 3)
    assert_same_outputs(model, free, rng)
    assert free.predict(rng.uniform(size=(2, 20, 16, 3)).astype("float32"), verbose=0).shape == (2, 10)
    with pytest.raises(ValueError, match=r"takes any size\. Received: 'chain'"):
        at_any_size(sequential())


@pytest.mark.parametrize("mode", ["smoothing", "unsharp"])
def test_every_second_convolution_is_replaced_by_a_weight_map(mode, rng):
    model = small_cnn()
    replaced = models.replace_convolutions(model, functools.partial(WeightMap, mode=mode), alternate=True)
    found = kinds(replaced)
    # first, second, last; the grouped and the pointwise convolution are not counted
    assert found["first"] is found["last"] is found["pointwise"] is layers.Conv2D
    assert found["second"] is WeightMap
    # The padding is the map's own, so the weights are those of the unpadded image.
    assert "second_pad" not in found
    assert replaced.get_layer("second").kernel.shape == (12, 12, 16, 16)
    assert replaced.get_layer("bn").output.shape == model.get_layer("bn").output.shape
    for name in ("first", "grouped", "last", "logits"):
        for kept, old in zip(
            replaced.get_layer(name).get_weights(), model.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(kept, old)
    assert np.isfinite(replaced.predict(images(model, rng), verbose=0)).all()


def test_activation_of_a_replaced_convolution_stays():
    replaced = models.replace_convolutions(sequential(), WeightMap)
    assert kinds(replaced)["conv"] is WeightMap
    assert replaced.get_layer("conv_activation").activation is keras.activations.relu
    assert replaced.get_layer("conv").output is replaced.get_layer("conv_activation").input


def test_all_convolutions_of_a_resnet_are_replaced_but_its_projections():
    model = models.build("resnet18", 10, (16, 16, 3), planes=(4, 4, 6, 6))
    replaced = models.replace_convolutions(model, WeightMap)
    maps = [layer.name for layer in replaced.layers if isinstance(layer, WeightMap)]
    plain = [layer.name for layer in replaced.layers if isinstance(layer, layers.Conv2D)]
    assert len(maps) == 17
    assert sorted(plain) == [f"stage{stage}_block1_shortcut" for stage in (2, 3, 4)]
    assert not any(isinstance(layer, layers.ZeroPadding2D) for layer in replaced.layers)


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def within(model, shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, model(inputs))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.insert_kap(Subclassed(name="mine")), "model 'mine' of type Subclassed"),
        (lambda: models.insert_kap(within(Subclassed(name="mine"), (4, 4, 3))), "model 'mine' of type Subclassed"),
        (lambda: models.fold_kap("resnet18"), "Received: str"),
        (lambda: models.insert_noise(keras.Sequential([layers.Conv2D(2, 3)]), 0.1), "Begin it with keras.Input"),
        (lambda: models.insert_kap(small_cnn(), where=["fist"]), "Did you mean 'first'?"),
        (lambda: models.insert_kap(small_cnn(), where=lambda layer: False), "none of the 11 layers"),
        (lambda: models.insert_kap(models.insert_kap(sequential())), "layer 'conv', which averages"),
        (lambda: models.insert_kap(small_cnn(), grid=(4, 5)), "20 places, for 16 channels"),
        (lambda: models.insert_noise(small_cnn(), -1.0), "`sigma` must be a standard deviation"),
        (
            lambda: models.replace_convolutions(sequential(), functools.partial(WeightMap, mode="unsharp")),
            "Layer 'conv' cannot be replaced: mode='unsharp'.*Use padding='same'",
        ),
        (
            lambda: models.replace_convolutions(small_cnn(), WeightMap, where=["pointwise"]),
            "square kernel above 1",
        ),
    ],
)
def test_wrong_surgery_is_an_error_that_names_the_fix(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_input_noise_of_several_inputs_is_an_error():
    inputs = [keras.Input((4, 4, 3)), keras.Input((4, 4, 3))]
    model = keras.Model(inputs, layers.Conv2D(2, 3)(layers.Add()(inputs)))
    with pytest.raises(ValueError, match=r"2 inputs. Use inputs=False"):
        models.insert_noise(model, 0.1)
    assert models.insert_noise(model, 0.1, inputs=False).count_params() > 0


def test_kernel_max_pooling_is_pooling_that_noise_follows():
    noisy = models.insert_noise(models.build("kap_cnn", 10, (8, 8, 3), pooling="kmp", depth=1), 0.1)
    assert kinds(noisy)["conv1_kmp"] is KMP
    assert kinds(noisy)["conv1_kmp_noise"] is GaussianNoise
