import keras
import numpy as np
import pytest

from keras_robust.attacks import FGSM, PGD, Predictor
from keras_robust.attacks.transfer import TransferResult, measure_transfer, transfer
from tests.attacks.contract import contract_data, contract_model


@pytest.fixture(scope="module")
def models():
    source, target = contract_model(), contract_model()
    noise = np.random.default_rng(0)
    for variable in target.trainable_variables:
        variable.assign(variable + noise.normal(0, 0.05, variable.shape).astype("float32"))
    return source, target


def test_transfer_to_the_source_itself_is_the_white_box_attack(models):
    source, _ = models
    x, y = contract_data(source)
    result = transfer(source, source, PGD("Linf", 0.04), x, y)
    robust = (Predictor.of(source).predict(PGD("Linf", 0.04)(source, x, y)).argmax(1) == y).mean()
    assert result == TransferResult(12, 1.0, 1.0, robust, robust)


def test_transfer_measures_the_target_on_the_images_of_the_source(models):
    source, target = models
    x, y = contract_data(source)
    result = transfer(source, target, FGSM("Linf", 0.04), x, y)
    predicted = Predictor.of(target).predict(FGSM("Linf", 0.04)(source, x, y)).argmax(1)
    assert result.target_adversarial == (predicted == y).mean()
    assert result.target_clean == (Predictor.of(target).predict(x).argmax(1) == y).mean()
    assert result.source_adversarial < result.source_clean


def test_a_target_of_probabilities_is_refused_before_the_attack(models):
    source, target = models
    x, y = contract_data(source)
    soft = keras.Sequential([target, keras.layers.Softmax()])
    with pytest.raises(ValueError, match="must return logits"):
        transfer(source, soft, None, x, y)


def test_images_of_another_count_are_refused(models):
    x, y = contract_data(models[0])
    with pytest.raises(ValueError, match="`x_adv` must have the shape of `x`"):
        measure_transfer(*models, x, x[:3], y)
