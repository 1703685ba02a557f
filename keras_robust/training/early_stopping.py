"""Early stopping as adversarial training means it: keep the weights that were best on held-out images."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_robust.attacks.base import Attack
from keras_robust.checks import Tensor, check_images, check_labels, check_positive_integer
from keras_robust.prediction import Predictor
from keras_robust.training.trainer import RobustTrainer


class RobustEarlyStopping(keras.callbacks.Callback):
    """Measures robust accuracy on held-out images after each epoch, and hands back the best weights at the end.

    Training goes on to its last epoch, as in the paper: robust accuracy peaks after a fall of the learning rate
    and declines while the training loss still falls. The figure joins the logs as `val_robust_accuracy`; an image
    counts where the clean and the attacked image are both classified correctly. Use images that are neither
    trained on nor tested on. Without an attack clean accuracy decides, `val_clean_accuracy` in the logs. Another
    `fit` of the same model goes on from the best so far; with another model it begins anew.

    Args:
        attack: Attack of `keras_robust.attacks`, such as `PGD(epsilon=8 / 255, steps=20)`; None for no attack.
        x: Held-out images, shape `(images, height, width, channels)`, in [0, 1].
        y: Integer labels, shape `(images,)`.
        batch_size: Images a pass.
        seed: Seed of the attack, the same in each epoch.

    Raises:
        ValueError: If the images or labels have the wrong shape, type or range.

    Reference:
        Rice et al., 2020, https://arxiv.org/abs/2002.11569 (section 3.3)
    """

    def __init__(self, attack: Attack | None, x: Tensor, y: Tensor, *, batch_size: int = 250, seed: int = 0):
        super().__init__()
        check_positive_integer("batch_size", batch_size)
        self.attack = attack
        self.x = check_images(x)
        self.y = check_labels(y, len(self.x))
        self.batch_size = min(batch_size, len(self.x))
        self.seed = seed
        self.best_accuracy = -1.0
        self.best_epoch = 0
        self.best_weights: list[np.ndarray] = []
        self._followed: Callable[[], keras.Model | None] | None = None

    def set_model(self, model: keras.Model) -> None:
        """Begins anew where another model is trained."""
        super().set_model(model)
        trained = _trained_model(model)
        if self._followed is not None and self._followed() is not trained:
            self.best_accuracy, self.best_epoch, self.best_weights = -1.0, 0, []
        self._followed = weakref.ref(trained)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures, and keeps the weights where they are the best so far."""
        model = _trained_model(self.model)  # on JAX, reading it brings the variables up to date
        accuracy = self._accuracy(model)
        if logs is not None:
            logs["val_clean_accuracy" if self.attack is None else "val_robust_accuracy"] = accuracy
        if accuracy > self.best_accuracy:
            self.best_accuracy, self.best_epoch = accuracy, epoch + 1
            # Copies: on PyTorch the arrays share memory with the weights.
            self.best_weights = [np.array(value) for value in model.get_weights()]

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Puts the best weights back."""
        self.put_back(_trained_model(self.model))

    def put_back(self, model: keras.Model) -> None:
        """Gives a model the best weights, if any epoch was measured."""
        if self.best_weights:
            model.set_weights(self.best_weights)

    def state(self) -> dict[str, np.ndarray]:
        """Returns what a checkpoint must hold, for `restore`."""
        weights = {f"weight_{index:05d}": value for index, value in enumerate(self.best_weights)}
        return {
            "best_accuracy": np.array(self.best_accuracy),
            "best_epoch": np.array(self.best_epoch),
            **weights,
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on from what `state` returned."""
        self.best_accuracy = float(state["best_accuracy"])
        self.best_epoch = int(state["best_epoch"])
        self.best_weights = [state[name] for name in sorted(state) if name.startswith("weight_")]

    def _accuracy(self, model):
        predictor = Predictor.of(model)
        images = [self.x]
        if self.attack is not None:
            images.append(self.attack(model, self.x, self.y, seed=self.seed, batch_size=self.batch_size))
        right = [predictor.predict(each, self.batch_size).argmax(-1) == self.y for each in images]
        return float(np.mean(np.all(right, axis=0)))


def _trained_model(trainer: keras.Model) -> keras.Model:
    return trainer.model if isinstance(trainer, RobustTrainer) else trainer
