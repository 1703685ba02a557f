import keras
import numpy as np
import pytest

from keras_robust import models
from keras_robust.attacks import Predictor

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
def test_a_layer_without_native_copy_is_an_error():
    pytest.importorskip("torch")
    from keras_robust.backend.torch_copy import native_torch_copy

    model = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Conv2DTranspose(2, 3)])
    with pytest.raises(ValueError, match="as_torch_module"):
        native_torch_copy(model)
