"""Robust training through plain `fit`: the batch is perturbed, the loss composed, the weights offset."""

from collections.abc import Callable, Sequence

import keras

from keras_robust import backend
from keras_robust.checks import Tensor
from keras_robust.training.perturbations import Perturbation

Loss = Callable[..., Tensor]


class RobustTrainer(backend.TrainStep, keras.Model):
    """Trains a model on perturbed batches; the model itself is what one saves afterwards.

    Perturbations act in training only: `evaluate`, `predict` and the validation of `fit` see clean images and
    the plain compiled loss. The model's own GaussianNoise layers are independent of this and act wherever
    `training=True`.

    Args:
        model: Keras model that maps pixels in [0, 1] to logits, shape `(batch, classes)`; trained in place.
        perturbations: Applied in order to each batch: `(model, x, y, seed) -> x`.
        objective: Replaces the compiled loss in training: `(model, x, y, y_pred, x_clean) -> scalar`, where `x`
            is the perturbed batch, `y_pred` the model's output on it and `x_clean` the batch before
            perturbation.
        terms: Added to the loss in training; same signature.
        weight_perturbation: Offsets put on the trainable variables for the step: `(model, x, y) -> list or
            None`.
        seed: Seed of the perturbations.

    Raises:
        ValueError: If `model` is not a Keras model, or a part is not callable.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        perturbations: Sequence[Perturbation] = (),
        objective: Loss | None = None,
        terms: Sequence[Loss] = (),
        weight_perturbation: Callable | None = None,
        seed: int = 0,
    ):
        super().__init__(name=f"robust_{model.name}" if isinstance(model, keras.Model) else None)
        if not isinstance(model, keras.Model):
            raise ValueError(
                "`model` must be a keras.Model that returns logits. "
                f"Received: model of type {type(model).__name__}."
            )
        for part in (*perturbations, *terms, *(p for p in (objective, weight_perturbation) if p is not None)):
            if not callable(part):
                raise ValueError(
                    f"`perturbations`, `objective`, `terms` and `weight_perturbation` must be callable. "
                    f"Received: {part!r}. Pass an object such as GaussianNoiseInput(sigma=0.1)."
                )
        self.model = model
        self.perturbations = tuple(perturbations)
        self.objective = objective
        self.terms = tuple(terms)
        self.weight_perturbation = weight_perturbation
        self.seed_generator = keras.random.SeedGenerator(seed)
        parts = (*self.perturbations, *self.terms, objective, weight_perturbation)
        # Keras tracks the variables of this list, so that compiled steps see what callbacks assign to them.
        self.part_variables = [
            variable for part in parts if part is not None for variable in getattr(part, "variables", ())
        ]
        self._clean = _Slot()
        self.built = model.built

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns the model's logits."""
        return self.model(inputs, training=training)

    def prepare_batch(self, x: Tensor, y: Tensor, sample_weight: Tensor | None = None) -> tuple:
        """Perturbs one batch; called by `TrainStep` inside the compiled step."""
        self._clean.value = x
        for perturbation in self.perturbations:
            x = perturbation(self.model, x, y, self.seed_generator)
        return x, y, sample_weight

    def weight_offsets(self, x: Tensor, y: Tensor) -> list | None:
        """Returns the offsets of the trainable variables for this step, or None."""
        return None if self.weight_perturbation is None else self.weight_perturbation(self.model, x, y)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True) -> Tensor:
        """Returns the compiled loss or the objective, plus the terms; Keras's documented extension point."""
        if not training or (self.objective is None and not self.terms):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        x_clean = self._clean.value
        if self.objective is None:
            loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        else:
            loss = sum(self.losses, start=self.objective(self.model, x, y, y_pred, x_clean))
        for term in self.terms:
            loss = loss + term(self.model, x, y, y_pred, x_clean)
        return loss


class _Slot:
    """Holds the clean batch between the two halves of one step, out of Keras's sight."""

    value: Tensor = None
