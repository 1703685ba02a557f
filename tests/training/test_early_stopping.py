"""The callback measures what PGD finds, keeps the best epoch's weights and survives a checkpoint."""

import numpy as np
import pytest

from keras_robust.attacks import PGD
from keras_robust.training import Adversarial, RobustEarlyStopping, RobustTrainer
from tests.training import nets

ATTACK = PGD(epsilon=0.03, steps=5, random_start=False)


def make():
    model, (x, y) = nets.linear(), nets.vectors()
    callback = RobustEarlyStopping(ATTACK, x, y)
    callback.set_model(nets.compiled(RobustTrainer(model)))
    return model, x, y, callback


def robust_accuracy(weights, x, y):
    """Accuracy of a linear model under its closed-form worst case."""
    worst = nets.worst_linear(weights, x, y, ATTACK.epsilon)
    return np.mean((worst @ weights[0] + weights[1]).argmax(-1) == y)


def clean_accuracy(weights, x, y):
    return np.mean((x @ weights[0] + weights[1]).argmax(-1) == y)


def centre(model, x):
    """Moves the boundary of a linear model into the midst of the images, where an attack can turn some."""
    kernel, _ = model.get_weights()
    model.set_weights([kernel, -(x @ kernel).mean(axis=0)])


def test_the_figure_in_the_logs_is_the_robust_accuracy_of_the_model():
    model, x, y, callback = make()
    centre(model, x)
    logs = {"loss": 1.0}
    callback.on_epoch_end(0, logs)
    robust = robust_accuracy(model.get_weights(), x, y)
    assert logs["val_robust_accuracy"] == pytest.approx(robust)
    assert 0 < robust < clean_accuracy(model.get_weights(), x, y)  # otherwise the test could not tell


def run_epochs(model, callback, epochs):
    rng = np.random.default_rng(3)
    candidates = [[rng.standard_normal(w.shape).astype("float32") for w in model.get_weights()] for _ in range(6)]
    for epoch in epochs:
        model.set_weights(candidates[epoch])
        callback.on_epoch_end(epoch, {})
    return candidates


def test_without_an_attack_the_figure_is_the_clean_accuracy():
    model, x, y, _ = make()
    centre(model, x)
    callback = RobustEarlyStopping(None, x, y)
    callback.set_model(nets.compiled(RobustTrainer(model)))
    callback.on_epoch_end(0, logs := {})
    clean = clean_accuracy(model.get_weights(), x, y)
    assert logs == {"val_clean_accuracy": pytest.approx(clean)}
    assert robust_accuracy(model.get_weights(), x, y) < clean < 1  # otherwise the test could not tell


def test_the_most_robust_weights_come_back_at_the_end():
    model, x, y, callback = make()
    candidates = run_epochs(model, callback, range(6))
    accuracies = [robust_accuracy(weights, x, y) for weights in candidates]
    best = int(np.argmax(accuracies))
    assert best not in (0, 5)  # otherwise the test could not tell
    callback.on_train_end()
    assert callback.best_epoch == best + 1
    assert callback.best_accuracy == pytest.approx(accuracies[best])
    for found, expected in zip(model.get_weights(), candidates[best], strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("broken_off", [1, 3, 5])
def test_its_state_can_be_saved_and_restored_at_any_epoch(broken_off):
    model, _, _, unbroken = make()
    run_epochs(model, unbroken, range(6))
    model, _, _, first = make()
    run_epochs(model, first, range(broken_off))
    model, _, _, second = make()
    second.restore(first.state())
    run_epochs(model, second, range(broken_off, 6))
    assert second.best_epoch == unbroken.best_epoch
    for found, expected in zip(second.best_weights, unbroken.best_weights, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_in_fit_the_model_ends_with_the_weights_of_the_best_epoch():
    model, (x, y) = nets.convolutional(), nets.images()
    callback = RobustEarlyStopping(ATTACK, x, y, batch_size=16)
    trainer = nets.compiled(RobustTrainer(model, perturbations=[Adversarial(epsilon=0.1, steps=2)]), 0.3)
    history = trainer.fit(x, y, batch_size=16, epochs=4, verbose=0, shuffle=False, callbacks=[callback]).history
    robust = history["val_robust_accuracy"]
    assert callback.best_accuracy == max(robust)
    assert callback.best_epoch == 1 + robust.index(max(robust))
    for found, expected in zip(model.get_weights(), callback.best_weights, strict=True):
        np.testing.assert_array_equal(found, expected)
    again = {}
    callback.on_epoch_end(9, again)
    assert again["val_robust_accuracy"] == max(robust)


def test_images_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`x`"):
        RobustEarlyStopping(ATTACK, np.full((2, 6), 255.0), np.zeros(2, int))


def test_with_another_model_it_begins_anew():
    model, _, _, callback = make()
    run_epochs(model, callback, range(6))
    best = callback.best_epoch
    callback.set_model(callback.model)
    assert callback.best_epoch == best
    other = nets.linear(seed=1)
    before = [weight.copy() for weight in other.get_weights()]
    callback.set_model(nets.compiled(RobustTrainer(other)))
    callback.on_epoch_end(0, {})
    callback.on_train_end()
    assert callback.best_epoch == 1
    for found, expected in zip(other.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
