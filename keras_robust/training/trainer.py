"""Robust training through plain `fit`: the batch is perturbed, the loss composed, the weights offset."""

import inspect
from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_robust import backend
from keras_robust.checks import Tensor, check_classes, check_images, check_logits
from keras_robust.prediction import trace_key
from keras_robust.training.first_images import first_images, is_array
from keras_robust.training.logits import at_least_float32
from keras_robust.training.objectives import Objective
from keras_robust.training.perturbations import Perturbation
from keras_robust.training.weak_subnets import WeakSubnets

Loss = Callable[..., Tensor]
_CROSS_ENTROPIES = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.CategoricalCrossentropy,
    keras.losses.CategoricalFocalCrossentropy,
)
_SAVE_THE_MODEL = "What one saves is the model that it trains, `trainer.model.save(path)`."


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
        terms: Added to the loss in training; same signature. Where a term has a method `prepare(model, x, y)`, it
            is called with the perturbed batch before the step; it may assign the variables of the term.
        weight_perturbation: Offsets put on the model's trainable variables for the step: `(model, x, y, loss) ->
            list or None`, where `loss` is a pure function of the list of their values: the objective (without
            `terms`) on this batch, in training mode.
        seed: Seed of the perturbations.

    An objective may bring a perturbation of its own (`Trades` does), which then acts first, on the clean batch.
    `sample_weight` and `class_weight` of `fit` weigh the compiled loss; terms are added to it unweighted.

    Raises:
        ValueError: If `model` is not a Keras model, a part is not callable, or two parts make adversarial
            examples; in `fit`, if weights of samples or classes meet an objective or a weight perturbation, pixels
            are integers where there is an objective or a perturbation, or outside [0, 1] in the first images that
            are to be perturbed (a Python generator is not looked at), the model returns probabilities on them or
            several outputs, or the compiled loss takes probabilities, where an attack or an objective of this
            package needs logits, labels in an array are no classes of the model where there is an objective, a
            weight perturbation meets averaged or constrained weights, or a `ModelCheckpoint` is to save more than
            weights.
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
        if not isinstance(model, keras.Model):
            raise ValueError(
                "`model` must be a keras.Model that returns logits. "
                f"Received: model of type {type(model).__name__}."
            )
        # The model's own policy: the global one might round its inputs, or leave out the scaling of losses.
        super().__init__(name=f"robust_{model.name}", dtype=model.dtype_policy, autocast=False)
        for part in (*perturbations, *terms, *(p for p in (objective, weight_perturbation) if p is not None)):
            if not callable(part):
                raise ValueError(
                    f"`perturbations`, `objective`, `terms` and `weight_perturbation` must be callable. "
                    f"Received: {part!r}. Pass an object such as GaussianNoiseInput(sigma=0.1)."
                )
        self.model = model
        own = getattr(objective, "perturbation", None)
        self.perturbations = (*(() if own is None else (own,)), *perturbations)
        adversarial = [each for each in self.perturbations if getattr(each, "adversarial", False)]
        if len(adversarial) > 1:
            raise ValueError(
                "Adversarial examples must be made in one place: a second search would start from the examples of "
                f"the first and leave its ball. Received: {', '.join(map(repr, adversarial))}. Keep one of them; "
                "an objective such as Trades makes its own."
            )
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
        self._traced: dict[str, tuple] = {}
        self.built = model.built

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns the model's logits, in float32 at least: losses are computed in no less."""
        return keras.tree.map_structure(at_least_float32, self.model(inputs, training=training))

    def prepare_batch(self, x: Tensor, y: Tensor, sample_weight: Tensor | None = None) -> tuple:
        """Perturbs one batch; called by `TrainStep` inside the compiled step."""
        x, y = keras.tree.map_structure(ops.convert_to_tensor, (x, y))  # arrays in `train_on_batch` on PyTorch
        if sample_weight is not None and not (self.objective is self.weight_perturbation is None):
            raise ValueError(
                "`sample_weight` and `class_weight` weigh the compiled loss alone; an objective and a weight "
                f"perturbation have losses of their own. Received: weights, objective={self.objective!r}, "
                f"weight_perturbation={self.weight_perturbation!r}. Leave out the weights, or those parts."
            )
        self._refuse_integers(x)
        if keras.backend.standardize_dtype(x.dtype) == "float64":
            x = ops.cast(x, keras.config.floatx())
        self._clean.value = x
        for perturbation in self.perturbations:
            x = perturbation(self.model, x, y, self.seed_generator)
        for term in self.terms:
            if hasattr(term, "prepare"):
                term.prepare(self.model, x, y)
        return x, y, sample_weight

    def fit(self, x=None, *args, **options):
        """Checks the first images, and labels in arrays, before Keras's own `fit`: a compiled step cannot."""
        options = dict(inspect.signature(super().fit).bind(x, *args, **options).arguments)
        x = options.pop("x")
        logits = self._needs_logits()
        if self.perturbations or logits:
            images = first_images(x, options.get("batch_size") or 32)
            if images is not None and self.perturbations:
                self._refuse_integers(images)
                check_images(images)
            if logits:
                self._refuse_probabilities(x[0][0] if hasattr(x, "follow_epochs") else images)
                self._refuse_a_loss_of_probabilities()
        y = options.get("y")
        if self.objective is not None and is_array(y):
            check_classes(ops.convert_to_numpy(y), self._classes())
        callbacks = keras.tree.flatten(options.get("callbacks") or [])
        for callback in callbacks:
            if isinstance(callback, keras.callbacks.ModelCheckpoint) and not callback.save_weights_only:
                raise ValueError(
                    f"`ModelCheckpoint` of a RobustTrainer must save weights alone. {_SAVE_THE_MODEL} Received: "
                    f"{callback.filepath!r}. Use ModelCheckpoint('name.weights.h5', save_weights_only=True): a "
                    "trainer of the same parts reads it by `load_weights`."
                )
        if hasattr(x, "follow_epochs"):
            # Such batches are shuffled; those that are replayed must follow each other.
            options.update(callbacks=[*callbacks, x.follow_epochs()], shuffle=False)
        return super().fit(x, **options)

    def get_config(self):
        """Raises `NotImplementedError`, as Keras's own does: one saves or clones the model that is trained."""
        raise NotImplementedError(
            f"A RobustTrainer is neither saved nor cloned: its parts are objects. {_SAVE_THE_MODEL} Received: "
            f"'{self.name}'."
        )

    def _needs_logits(self) -> bool:
        """Tells whether a part takes the model's outputs for logits."""
        makes = any(getattr(each, "adversarial", False) for each in self.perturbations)
        return makes or any(isinstance(each, Objective | WeakSubnets) for each in (self.objective, *self.terms))

    def _refuse_probabilities(self, images: Tensor | None) -> None:
        if images is not None and self.model.built:
            with keras.StatelessScope():  # random seeds stay where they are
                outputs = self.call(ops.convert_to_tensor(images[:2]), training=False)
            if not ops.is_tensor(outputs):
                raise ValueError(
                    "An attack and an objective need a model of one output, its logits. Received: "
                    f"{len(keras.tree.flatten(outputs))} outputs of '{self.model.name}'. Train a model of the one "
                    "that is to be robust, keras.Model(model.inputs, model.outputs[0])."
                )
            check_logits(outputs)

    def _refuse_a_loss_of_probabilities(self) -> None:
        loss = getattr(self, "loss", None)
        name = loss if isinstance(loss, str) else getattr(loss, "__name__", "")
        of_probabilities = name in ("sparse_categorical_crossentropy", "categorical_crossentropy") or (
            isinstance(loss, _CROSS_ENTROPIES) and not loss.get_config()["from_logits"]
        )
        if self.objective is None and of_probabilities:
            raise ValueError(
                "The compiled loss must take logits, as attacks do. Received: "
                f"loss={name or type(loss).__name__}, which takes probabilities. Compile with "
                "keras.losses.SparseCategoricalCrossentropy(from_logits=True)."
            )

    def _classes(self) -> int | None:
        shape = getattr(self.model, "output_shape", None)  # not known before the first call of some models
        return shape[-1] if isinstance(shape, tuple) else None

    def _refuse_integers(self, x: Tensor) -> None:
        dtype = keras.backend.standardize_dtype(x.dtype)
        if (self.perturbations or self.objective is not None) and "float" not in dtype:
            raise ValueError(
                "Robust training needs pixels in floating point, in [0, 1]: perturbations are as small as a "
                f"fraction of 1. Received: dtype={dtype}. Use x.astype('float32') / 255."
            )

    def weight_offsets(self, x: Tensor, y: Tensor) -> list | None:
        """Returns the offsets of the trainable variables for this step, or None."""
        if self.weight_perturbation is None:
            return None
        weights = self.model.trainable_variables
        self._refuse_what_reads_shifted_weights(weights)
        own = {id(variable) for variable in weights}
        others = [v for v in (*self.trainable_variables, *self.non_trainable_variables) if id(v) not in own]
        lent = [(variable, ops.stop_gradient(variable.value)) for variable in others]

        def loss(values):
            # The scope throws away what the pass does to running averages and random seeds.
            with keras.StatelessScope(state_mapping=[*zip(weights, values, strict=True), *lent]):
                return self._main_loss(x, y, self.call(x, training=True))

        offsets = self.weight_perturbation(self.model, x, y, loss)
        if offsets is None:
            return None
        offset_of = {id(variable): offset for variable, offset in zip(weights, offsets, strict=True)}
        return [
            offset_of[id(variable)] if id(variable) in own else ops.zeros_like(variable.value)
            for variable in self.trainable_variables
        ]

    def _refuse_what_reads_shifted_weights(self, weights: Sequence[keras.Variable]) -> None:
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        averaged = "`use_ema` of the optimizer" if getattr(optimizer, "use_ema", False) else None
        bound = next((f"a constraint on {each.path}" for each in weights if each.constraint is not None), None)
        if averaged or bound:
            raise ValueError(
                "A weight perturbation is on while the optimizer steps, which would average, or constrain, "
                f"weights that are offset. Received: {averaged or bound}, "
                f"weight_perturbation={self.weight_perturbation!r}. Leave out one of the two."
            )

    def make_train_function(self, force=False):
        """Compiles the training step, anew where noise or a subnet was switched on or off since the last time."""
        return super().make_train_function(force or self._switched("train"))

    def make_test_function(self, force=False):
        """Compiles the evaluation, anew where noise or a subnet was switched on or off since the last time."""
        return super().make_test_function(force or self._switched("test"))

    def make_predict_function(self, force=False):
        """Compiles the prediction, anew where noise or a subnet was switched on or off since the last time."""
        return super().make_predict_function(force or self._switched("predict"))

    def _switched(self, name: str) -> bool:
        before, now = self._traced.get(name), trace_key(self.model)
        self._traced[name] = now
        return before != now

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True) -> Tensor:
        """Returns the compiled loss or the objective, plus the terms; Keras's documented extension point."""
        if not training or (self.objective is None and not self.terms):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        loss = self._main_loss(x, y, y_pred, sample_weight)
        for term in self.terms:
            # Keras's losses are of `floatx`, whatever the precision of the model.
            loss = loss + ops.cast(term(self.model, x, y, y_pred, self._clean.value), loss.dtype)
        return loss

    def _main_loss(self, x, y, y_pred, sample_weight=None):
        """The compiled loss or the objective, without the terms."""
        if self.objective is None:
            return super().compute_loss(x, y, y_pred, sample_weight, training=True)
        loss = self.objective(self.model, x, y, y_pred, self._clean.value)
        return sum((ops.cast(each, loss.dtype) for each in self.losses), start=loss)


class _Slot:
    """Holds the clean batch between the two halves of one step, out of Keras's sight."""

    value: Tensor = None
