import re

import keras
import numpy as np
import pytest

from keras_robust import models
from keras_robust.attacks import Predictor
from keras_robust.layers import KAP

ROUNDING = 1e-4  # sums of a few thousand products in float32, in another order

NETS = {
    "kap_cnn": ("kap_cnn", {"pooling": "kap", "depth": 2, "sigma": 0.1}),
    "kap_cnn_strides": ("kap_cnn", {"pooling": "kap", "depth": 2, "strides": 2}),
    "cnn": ("kap_cnn", {}),
    "smoothing": ("wm_cnn", {"layer": "smoothing", "batch_normalization": True}),
    "unsharp": ("wm_cnn", {"layer": "unsharp"}),
    "conv": ("wm_cnn", {"layer": "conv"}),
    "resnet": ("resnet8", {}),
    "preact_resnet": ("preact_resnet18", {"pooling": "kap"}),
}


@pytest.mark.once
@pytest.mark.parametrize("name", NETS)
def test_the_native_copy_gives_the_same_logits(name, rng):
    builder, arguments = NETS[name]
    model = models.build(builder, 10, (12, 12, 3), seed=0, **arguments)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(rng.normal(0, 0.1, layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(0.5, 2, layer.moving_variance.shape))
    x = rng.uniform(0, 1, (4, 12, 12, 3)).astype("float32")
    torch = pytest.importorskip("torch")
    from keras_robust.backend.torch_copy import native_torch_copy

    with torch.no_grad():
        copied = native_torch_copy(model)(torch.tensor(x).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(copied, Predictor.of(model).predict(x), atol=ROUNDING)


@pytest.mark.once
@pytest.mark.parametrize(
    ("layer", "option"),
    [
        (keras.layers.Conv2D(4, 3, dilation_rate=2), "dilation_rate=(2, 2)"),
        (keras.layers.ReLU(max_value=6), "max_value=6"),
        (keras.layers.ReLU(negative_slope=0.3), "negative_slope=0.3"),
        (keras.layers.ReLU(threshold=0.1), "threshold=0.1"),
        (keras.layers.MaxPooling2D(2, padding="same"), "padding='same'"),
        (keras.layers.Dense(4, use_bias=False), "use_bias=False"),
        (keras.layers.BatchNormalization(scale=False), "scale=False"),
        (keras.layers.BatchNormalization(center=False), "center=False"),
        (keras.layers.GlobalAveragePooling2D(keepdims=True), "keepdims=True"),
        (KAP(3), "groups=2"),
    ],
)
def test_an_option_without_native_copy_is_an_error(layer, option):
    pytest.importorskip("torch")
    from keras_robust.backend.torch_copy import native_torch_copy

    groups = 2 if isinstance(layer, KAP) else 1
    layers = [keras.layers.Conv2D(4, 2, groups=groups), layer, keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((8, 8, 2)), *layers])
    with pytest.raises(ValueError, match=re.escape(f"with {option}. Use")):
        native_torch_copy(model)


@pytest.mark.once
def test_a_copy_that_gives_other_logits_is_an_error():
    pytest.importorskip("torch")
    from keras_robust.backend.torch_copy import native_torch_copy

    class Twice(keras.layers.Dense):
        def call(self, inputs, training=None):
            return 2 * super().call(inputs)

    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), Twice(3)])
    with pytest.raises(ValueError, match=r"must give the model's logits.*as_torch_module"):
        native_torch_copy(model)


@pytest.mark.once
def test_a_layer_without_native_copy_is_an_error():
    pytest.importorskip("torch")
    from keras_robust.backend.torch_copy import native_torch_copy

    model = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Conv2DTranspose(2, 3)])
    with pytest.raises(ValueError, match="as_torch_module"):
        native_torch_copy(model)
