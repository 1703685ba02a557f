"""Digests tell apart models that compute something else, and only those."""

import keras
import numpy as np
from keras import layers

from keras_robust import models
from keras_robust.digests import digest_of_layers, digest_of_model, digest_of_weights
from keras_robust.layers import GaussianNoise, SubnetGate, noise_at_inference, subnet


def net(*, stride=1, dtype="float32", noise=0.1):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            GaussianNoise(noise, dtype=dtype),
            layers.Conv2D(4, 3, strides=stride, activation="relu", dtype=dtype),
            layers.GlobalAveragePooling2D(dtype=dtype),
            layers.Dense(3, dtype=dtype),
        ]
    )


def test_a_model_built_again_has_the_same_digest():
    first, again = net(), net()
    assert [layer.name for layer in first.layers] != [layer.name for layer in again.layers]
    assert digest_of_model(first) == digest_of_model(again)


def test_weights_count():
    model = net()
    before = digest_of_weights(model)
    model.layers[-1].bias.assign(np.ones(3))
    assert digest_of_weights(model) != before
    assert digest_of_layers(model) == digest_of_layers(net())


def test_pooling_without_weights_strides_types_and_noise_that_is_switched_on_count():
    model = net()
    pooled = models.insert_kap(model)
    assert digest_of_weights(pooled) == digest_of_weights(model)
    others = [digest_of_layers(each) for each in (model, pooled, net(stride=2), net(dtype="mixed_bfloat16"))]
    with noise_at_inference(model, inputs=False, activations=True):
        others.append(digest_of_layers(model))
    assert len(set(others)) == len(others)
    assert digest_of_layers(model) == others[0]


def test_a_layer_that_has_no_configuration_is_known_by_its_kind():
    class Own(layers.Layer):
        def __init__(self, table):
            super().__init__()
            self.table = table

        def call(self, inputs):
            return inputs

    model = keras.Sequential([keras.Input((2,)), Own(object()), layers.Dense(2)])
    assert digest_of_layers(model) == digest_of_layers(
        keras.Sequential([keras.Input((2,)), Own(object()), layers.Dense(2)])
    )


def functional(compute):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(3)(compute(inputs)))


def test_operations_between_layers_and_what_goes_where_count():
    first, second = layers.Dense(4), layers.Dense(4)
    computed = [
        lambda x: x * 1.0,
        lambda x: x * -1.0,
        lambda x: x,
        keras.ops.round,
        lambda x: keras.ops.concatenate([x, 2 * x]),
        lambda x: keras.ops.concatenate([2 * x, x]),
        lambda x: keras.ops.reshape(keras.ops.reshape(x, (-1, 2, 2)), (-1, 4)),
        lambda x: keras.ops.transpose(keras.ops.reshape(x, (-1, 4, 1)), (0, 2, 1))[:, 0],
        lambda x: first(second(first(x))),
        lambda x: second(second(first(x))),
    ]
    found = [digest_of_layers(functional(each)) for each in computed]
    assert len(set(found)) == len(found)
    assert found == [digest_of_layers(functional(each)) for each in computed]


def test_a_model_inside_another_counts():
    def nested(factor):
        return keras.Sequential([keras.Input((4,)), functional(lambda x: x * factor), layers.Dense(2)])

    assert digest_of_layers(nested(1.0)) == digest_of_layers(nested(1.0))
    assert digest_of_layers(nested(1.0)) != digest_of_layers(nested(2.0))


def test_the_options_of_a_model_of_ones_own_class_count():
    class Net(keras.Model):
        def __init__(self, scale, **options):
            super().__init__(**options)
            self.scale = scale

        def call(self, inputs):
            return self.scale * inputs

        def get_config(self):
            return {**super().get_config(), "scale": self.scale}

    assert digest_of_layers(Net(1.0)) == digest_of_layers(Net(1.0))
    assert digest_of_layers(Net(1.0)) != digest_of_layers(Net(-1.0))


def test_the_mask_of_a_subnet_counts_whenever_it_was_put_on():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), SubnetGate("block", 0, name="gate")])
    found = []
    for mask in ([1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]):
        with subnet(model, {"gate": np.array(mask, "float32")}):
            found.append(digest_of_layers(model))
    assert found[0] == found[1] != found[2]
    assert digest_of_layers(model) not in found


def test_slices_constants_and_options_that_json_does_not_know_count():
    def sloped(slope):
        return keras.Sequential([keras.Input((4,)), layers.LeakyReLU(slope), layers.Dense(3)])

    computed = [
        lambda x: x[:, :2],
        lambda x: x[:, 2:],
        lambda x: x[..., 2:],
        lambda x: x * keras.ops.convert_to_tensor([1.0, 2.0, 3.0, 4.0]),
        lambda x: x * keras.ops.convert_to_tensor([4.0, 3.0, 2.0, 1.0]),
        lambda x: keras.ops.multiply(x, np.float32(2)),
        lambda x: keras.ops.multiply(x, np.float32(3)),
    ]
    made = [lambda compute=each: functional(compute) for each in computed]
    made += [lambda slope=each: sloped(np.float32(slope)) for each in (0.1, 0.9)]
    found = [digest_of_layers(make()) for make in made]
    assert len(set(found)) == len(found)
    assert found == [digest_of_layers(make()) for make in made]
