"""Enhancing weak subnets: each step finds a subnet that does badly and teaches it what the whole network knows."""

from collections.abc import Callable, Hashable

import keras
from keras import ops

from keras_robust import backend
from keras_robust.checks import Tensor, check_choice, check_positive_integer
from keras_robust.layers import subnet
from keras_robust.losses import cross_entropy, kl
from keras_robust.prediction import trace_key
from keras_robust.stateless import stateless_call
from keras_robust.training.labels import integer_labels
from keras_robust.training.logits import at_least_float32
from keras_robust.training.subnet_search import Masks, SubnetSearch


class WeakSubnets:
    """Adds the divergence of a searched subnet's predictions from the whole network's to the training loss.

    A term for `RobustTrainer`. Before each step the search sees the accuracy of subnets on the batch as the
    perturbations left it, so that with adversarial examples of the whole network it looks for subnets that these
    break; then it proposes the subnet of the step. The subnet runs in training mode; the moving averages of batch
    normalisation stay those of the whole network.

    Direction and detachment are those of the paper's code; the paper does not say. With TRADES of factor beta
    the paper's loss is `distillation_weight=beta * weight, clean_weight=weight`.

    Differs from the paper's code: its CIFAR scripts also average the divergence over classes, which is
    `reduction="element_mean"`.

    Args:
        search: Where subnets come from: `ControllerSearch`, `RandomSearch` or `L1Search`.
        distillation_weight: Lambda, the factor of the divergence on the perturbed batch.
        clean_weight: Factor of the same divergence on the batch before perturbation; above 0 it costs another pass
            of the network and of the subnet.
        loss: `"kl"`, KL(network || subnet); `"reverse_kl"`, KL(subnet || network); `"cross_entropy"`, that of the
            subnet with the labels.
        detach_teacher: Whether the divergence trains the subnet alone.
        reduction: `"batch_mean"`, a sum over classes, or `"element_mean"`, a mean over classes too.
        views: Views of each image in a batch, 3 for `JensenShannon`. The divergence is their mean; the accuracy
            that the search sees is that of the first, the clean images, in the batch statistics of all.
        seed: Seed of the search.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Guo et al., 2022, https://arxiv.org/abs/2201.12765 (equations 2 to 4, algorithm 1)
    """

    def __init__(
        self,
        search: SubnetSearch,
        *,
        distillation_weight: float = 1.0,
        clean_weight: float = 0.0,
        loss: str = "kl",
        detach_teacher: bool = True,
        reduction: str = "batch_mean",
        views: int = 1,
        seed: int = 0,
    ):
        if not isinstance(search, SubnetSearch):
            raise ValueError(
                "`search` must be a SubnetSearch, such as ControllerSearch(SubnetSpace(model, rho=0.7)). "
                f"Received: search={search!r}."
            )
        for name, weight in (("distillation_weight", distillation_weight), ("clean_weight", clean_weight)):
            if not weight >= 0:
                raise ValueError(f"`{name}` must be a factor of at least 0. Received: {name}={weight!r}.")
        check_choice("loss", loss, ("kl", "reverse_kl", "cross_entropy"))
        check_choice("reduction", reduction, ("batch_mean", "element_mean"))
        check_positive_integer("views", views)
        self.search = search
        self.distillation_weight = distillation_weight
        self.clean_weight = clean_weight
        self.loss = loss
        self.detach_teacher = detach_teacher
        self.reduction = reduction
        self.views = views
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.variables = (*search.variables, self.seed_generator.state)
        self._chosen = _Chosen()
        self._losses: dict[Hashable, Callable] = {}

    def prepare(self, model: keras.Model, x: Tensor, y: Tensor) -> None:
        """Searches, and chooses the subnet of this step; `RobustTrainer` calls it before the step.

        Args:
            model: The model in training.
            x: Images as the perturbations left them, shape `(batch, height, width, channels)`.
            y: Integer labels, shape `(batch,)`.
        """
        labels = integer_labels(y)

        def accuracy(masks: Masks) -> Tensor:
            predicted = ops.argmax(_without_traces(model, x, masks, keep_seeds=False), axis=-1)
            right = ops.cast(ops.cast(predicted, labels.dtype) == labels, "float32")
            return ops.mean(ops.reshape(right, (self.views, -1))[0])

        self.search.learn(accuracy, self.seed_generator)
        self._chosen.masks = self.search.propose(self.seed_generator)

    def __call__(self, model: keras.Model, x: Tensor, y: Tensor, y_pred: Tensor, x_clean: Tensor) -> Tensor:
        """Returns the term of the loss for the subnet of this step.

        Args:
            model: The model in training.
            x: Images that it trains on.
            y: Integer labels, shape `(batch,)`.
            y_pred: The model's logits for `x`, shape `(batch, classes)`.
            x_clean: Images before the perturbations.

        Returns:
            A scalar.

        Raises:
            ValueError: If `prepare` has chosen no subnet.
        """
        masks = self._chosen.masks
        if masks is None:
            raise ValueError(
                "`prepare(model, x, y)` must choose a subnet before the term is computed. "
                "Received: no call of it. Pass WeakSubnets in `terms` of RobustTrainer, which calls it."
            )
        total = 0.0
        if self.distillation_weight:
            total = self.distillation_weight * self._divergence(model, x, y, y_pred, masks)
        if self.clean_weight:
            clean = _without_traces(model, x_clean, {})
            total = total + self.clean_weight * self._divergence(model, x_clean, y, clean, masks)
        return total

    def _divergence(self, model: keras.Model, x: Tensor, y: Tensor, teacher: Tensor, masks: Masks) -> Tensor:
        weights = [variable.value for variable in model.trainable_variables]
        others = [variable.value for variable in model.non_trainable_variables]
        teacher = ops.stop_gradient(teacher) if self.detach_teacher else teacher
        key = id(model), trace_key(model)
        if key not in self._losses:
            self._losses[key] = backend.compiled_loss(self._loss_of(model))
        value, updated = self._losses[key]([*weights, teacher], others, x, integer_labels(y), masks)
        _move_seeds_on(model, updated)
        return value

    def _loss_of(self, model: keras.Model) -> Callable[..., tuple[Tensor, list[Tensor]]]:
        """Returns a pure function that gives the divergence, and the other variables after the subnet's pass."""

        def loss(inputs, others, x, labels, masks):
            *weights, teacher = inputs
            logits, updated = _pass(model, weights, others, x, masks)
            if self.loss == "cross_entropy":
                return ops.mean(cross_entropy(logits, labels)), updated
            values = kl(teacher, logits) if self.loss == "kl" else kl(logits, teacher)
            return ops.mean(values) / (logits.shape[-1] if self.reduction == "element_mean" else 1), updated

        return loss


class _Chosen:
    """Holds the subnet between the two halves of one step, out of Keras's sight."""

    masks: Masks | None = None


def _without_traces(model: keras.Model, x: Tensor, masks: Masks, keep_seeds: bool = True) -> Tensor:
    """Logits of a subnet in training mode that leave moving averages alone; random layers move on."""
    trainable = [variable.value for variable in model.trainable_variables]
    others = [variable.value for variable in model.non_trainable_variables]
    logits, updated = _pass(model, trainable, others, x, masks)
    if keep_seeds:
        _move_seeds_on(model, updated)
    return logits


def _pass(
    model: keras.Model, trainable: list[Tensor], others: list[Tensor], x: Tensor, masks: Masks
) -> tuple[Tensor, list[Tensor]]:
    """Logits of a subnet in training mode, and the other variables after the pass."""
    with subnet(model, masks):
        logits, updated = stateless_call(model, trainable, others, x, True)
    return at_least_float32(logits), updated


def _move_seeds_on(model: keras.Model, updated: list[Tensor]) -> None:
    for variable, value in zip(model.non_trainable_variables, updated, strict=True):
        if variable.path.endswith("seed_generator_state"):
            variable.assign(value)
