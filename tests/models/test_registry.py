import keras
import pytest

from keras_robust import models
from keras_robust.models import registry


@pytest.mark.once
def test_list_models_names_the_architectures_of_the_papers():
    assert {"kap_cnn", "kap_ensemble_cnn", "resnet18", "wm_cnn"} <= set(models.list_models())


@pytest.mark.once
def test_model_options_gives_the_defaults():
    options = models.model_options("wm_cnn")
    assert options["layer"] == "smoothing"
    assert options["dense_units"] == 64
    assert "num_classes" not in options


@pytest.mark.once
def test_registered_builder_is_listed_and_built(monkeypatch):
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))

    @models.register_model("linear")
    def linear(num_classes, input_shape, *, use_bias=True):
        inputs = keras.Input(input_shape)
        outputs = keras.layers.Dense(num_classes, use_bias=use_bias)(keras.layers.Flatten()(inputs))
        return keras.Model(inputs, outputs)

    assert "linear" in models.list_models()
    assert models.build("linear", 3, (4, 4, 1), use_bias=False).count_params() == 48
    with pytest.raises(ValueError, match="'linear' is registered already"):
        models.register_model("linear")(linear)


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("resnet_18", 10, (32, 32, 3)), {}, "one of kap_cnn, .*Did you mean 'resnet18'?"),
        (("resnet18", 10, (32, 32, 3)), {"pool": "kap"}, "takes the options stem, .*Received: pool='kap'"),
        (("kap_cnn", 10, (32, 32, 3)), {"sigmas": 0.1}, "Did you mean 'sigma'?"),
        (("kap_cnn", 1, (32, 32, 3)), {}, "`num_classes` must be an integer of at least 2"),
        (("kap_cnn", 10, (None, 32, 32, 3)), {}, "without the batch"),
        (("kap_cnn", 10, (32, None, 3)), {}, "`input_shape` must be an integer of at least 1"),
        (("kap_cnn", 10, (32, 32, 3)), {"pooling": "average"}, "`pooling` must be one of None, 'kap', 'kmp'"),
        (("kap_cnn", 10, (32, 32, 3)), {"pooling": "kmp", "strides": 2}, "Use pooling='kap'"),
        (("kap_cnn", 10, (32, 32, 3)), {"depth": 4}, "`depth` must be one of 1, 2, 3"),
        (("kap_cnn", 10, (32, 32, 3)), {"kap_layers": [0]}, "`kap_layers` must be a number of convolutions"),
        (("kap_cnn", 10, (32, 32, 3)), {"sigma": -1.0}, "`sigma` must be a standard deviation"),
        (("kap_ensemble_cnn", 10, (3, 3, 3)), {}, "at least 4 x 4"),
        (("wm_cnn", 10, (28, 28, 1)), {"kernel_size": 4}, "`kernel_size` must be odd"),
        (("wm_cnn", 10, (28, 28, 1)), {"filters": [32]}, "`filters` must hold the channels of three layers"),
        (("wm_cnn", 10, (6, 6, 1)), {}, "at least 7 x 7"),
        (("resnet18", 10, (32, 32, 3)), {"stem": "tiny"}, "`stem` must be one of 'cifar', 'imagenet'"),
        (("resnet18", 10, (32, 32, 3)), {"depths": [2, 2, 2]}, "`depths` must hold the blocks of four stages"),
        (
            ("resnet18", 10, (32, 32, 3)),
            {"kap_layers": 21},
            "`kap_layers` must be a number of convolutions up to 20",
        ),
        (("resnet18", 10, (32, 32, 3)), {"planes": [64]}, "`planes` must hold the channels of four stages"),
    ],
)
def test_wrong_name_option_or_value_is_an_error_that_names_the_fix(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        models.build(*arguments, **options)
