"""A recurrent network that learns, by policy gradient, which subnets are weak."""

import math
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust.checks import Tensor, check_positive_integer
from keras_robust.layers import SubnetSpace
from keras_robust.training.subnet_search import Accuracy, Masks, SubnetSearch

_BETA_1, _BETA_2, _EPSILON = 0.5, 0.999, 1e-8  # Adam's constants in the paper's code
_CLIP = 3.0  # norm at which that code clips the controller's gradient
_TINY = 1e-20


class ControllerSearch(SubnetSearch):
    """Samples subnets from an LSTM that policy gradient trains to find those of the lowest accuracy.

    The LSTM decides block by block: first on the paths, then on the channels of each layer of the chosen paths.
    Each input of it is the mean of the learned embeddings of what was chosen last. Every `interval` steps it draws
    `samples` subnets, measures their accuracy on the batch of the step, and takes one step of Adam; the baseline
    is a moving average of the accuracies that lasts for the whole training. It then draws the subnets of the next
    `interval` steps at once, since it stays as it is until then.

    Differs from the paper's code: the probability of a choice is that of drawing without replacement, not the
    product of single ones; the entropy is that of whole distributions; the baseline averages accuracies, starts
    from the first, and is kept across epochs; weights start from PyTorch's defaults alone, where that code draws
    each tensor anew from U(-0.1, 0.1) with probability 0.3.

    Args:
        space: Subnets to choose from.
        hidden: Size of the LSTM and of the embeddings.
        learning_rate: Adam's rate.
        entropy_weight: Factor of the entropy bonus, in nats; 0.005 for corruption, 0.01 for adversarial training.
        interval: Steps from one update to the next.
        samples: Subnets drawn for an update.
        baseline_decay: Share of the baseline that an update keeps.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Guo et al., 2022, https://arxiv.org/abs/2201.12765 (section 3.2, algorithm 1)
    """

    def __init__(
        self,
        space: SubnetSpace,
        *,
        hidden: int = 100,
        learning_rate: float = 3e-4,
        entropy_weight: float = 0.005,
        interval: int = 10,
        samples: int = 1,
        baseline_decay: float = 0.99,
        seed: int = 0,
    ):
        super().__init__(space)
        for name, value in (("hidden", hidden), ("interval", interval), ("samples", samples)):
            check_positive_integer(name, value)
        if not learning_rate > 0 or not entropy_weight >= 0 or not 0 <= baseline_decay < 1:
            raise ValueError(
                "`learning_rate` must be positive, `entropy_weight` at least 0 and `baseline_decay` in [0, 1). "
                f"Received: learning_rate={learning_rate!r}, entropy_weight={entropy_weight!r}, "
                f"baseline_decay={baseline_decay!r}."
            )
        self.hidden = hidden
        self.learning_rate = learning_rate
        self.entropy_weight = entropy_weight
        self.interval = interval
        self.samples = samples
        self.baseline_decay = baseline_decay
        initial = _initial_weights(space, hidden, np.random.default_rng(seed))
        self._names = tuple(initial)
        zeros = {name: np.zeros_like(value) for name, value in initial.items()}
        self.weights = _variables("controller", initial)
        self._averages = _variables("controller_average", zeros)
        self._squares = _variables("controller_square", zeros)
        self.baseline = _variable("controller_baseline", np.zeros((), "float32"))
        """Moving average of the accuracies of sampled subnets."""
        self.updates = _variable("controller_updates", np.zeros((), "float32"))
        """Steps of Adam so far."""
        self._proposals = _variable("controller_proposals", np.ones((interval, space.size), "float32"))
        self.step = _variable("controller_step", np.zeros((), "int32"))
        """Training steps so far."""
        self._state = [
            *self.weights,
            *self._averages,
            *self._squares,
            self.baseline,
            self.updates,
            self._proposals,
        ]
        self.variables = (*self._state, self.step)

    def learn(self, accuracy, seed):
        """Takes one policy gradient step where one is due, and draws the subnets of the steps up to the next."""
        seed.next()
        seed_state = ops.stop_gradient(seed.state.value)
        state = [ops.stop_gradient(variable.value) for variable in self._state]
        step = ops.stop_gradient(self.step.value)

        def update():
            # Inside a condition no variable may be assigned: this scope keeps the generator's state to itself.
            with keras.StatelessScope(state_mapping=[(seed.state, seed_state)]):
                noise = self._noise(seed, self.samples + self.interval)
            return self._update(state, noise, accuracy)

        due = ops.equal(ops.mod(step, self.interval), 0)
        for variable, value in zip(self._state, ops.cond(due, update, lambda: state), strict=True):
            variable.assign(value)
        self.step.assign(step + 1)

    def propose(self, seed):
        """Returns the masks of the subnet that was drawn for this step."""
        row = ops.mod(self.step.value - 1, self.interval)
        return self.space.masks(self.space.split(ops.take(self._proposals.value, row, axis=0)))

    def sample(self, seed: keras.random.SeedGenerator) -> Masks:
        """Draws a subnet from the controller as it is now.

        Args:
            seed: Generator to draw random numbers from.

        Returns:
            Masks by the names of gates.
        """
        weights = [ops.stop_gradient(variable.value) for variable in self.weights]
        choices, _ = self._draw(weights, self._noise(seed, 1), with_directions=False)
        return self.space.masks([choice[0] for choice in choices])

    def _noise(self, seed: keras.random.SeedGenerator, count: int) -> Tensor:
        """Gumbel noise, shape `(count, size)`: logits plus it, in descending order, draw one by one."""
        uniform = keras.random.uniform((count, self.space.size), dtype="float32", seed=seed)
        return -ops.log(-ops.log(ops.clip(uniform, _TINY, 1.0 - 1e-7)) + _TINY)

    def _update(self, state: list[Tensor], noise: Tensor, accuracy: Accuracy) -> list[Tensor]:
        """Returns the state after one step of Adam towards subnets of lower accuracy."""
        count = len(self._names)
        weights, averages, squares = (state[start : start + count] for start in (0, count, 2 * count))
        baseline, updates, _ = state[3 * count :]
        choices, directions = self._draw(weights, noise[: self.samples])
        drawn = [self.space.masks([choice[sample] for choice in choices]) for sample in range(self.samples)]
        accuracies = ops.stack([ops.cast(accuracy(masks), "float32") for masks in drawn])
        mean = ops.mean(accuracies)
        baseline = ops.where(updates == 0, mean, baseline)

        def objective(values):
            total, decided = 0.0, self._decide(values, self.samples, lambda number, logits: choices[number])
            for (logits, _, acts), direction in zip(decided, directions, strict=True):
                log_p = ops.log_softmax(logits, axis=-1)
                entropy = -ops.sum(ops.exp(log_p) * log_p, axis=-1)
                # Of the same gradient as the log-probability, without its sorts.
                log_probability = ops.sum(direction * logits, axis=-1)
                total += acts * ((accuracies - baseline) * log_probability - self.entropy_weight * entropy)
            return ops.mean(total)

        _, gradients = backend.value_and_grad(objective, weights)
        norm = ops.sqrt(sum(ops.sum(ops.square(gradient)) for gradient in gradients))
        scale = ops.minimum(1.0, _CLIP / (norm + _TINY))
        updates = updates + 1.0
        new: list[list[Tensor]] = [[], [], []]
        for weight, average, square, gradient in zip(weights, averages, squares, gradients, strict=True):
            gradient = scale * gradient
            average = _BETA_1 * average + (1 - _BETA_1) * gradient
            square = _BETA_2 * square + (1 - _BETA_2) * ops.square(gradient)
            root = ops.sqrt(square / (1.0 - ops.power(_BETA_2, updates)))
            step = average / (1.0 - ops.power(_BETA_1, updates)) / (root + _EPSILON)
            for values, value in zip(new, (weight - self.learning_rate * step, average, square), strict=True):
                values.append(value)
        baseline = self.baseline_decay * baseline + (1 - self.baseline_decay) * mean
        proposals, _ = self._draw(new[0], noise[self.samples :], with_directions=False)
        return [*new[0], *new[1], *new[2], baseline, updates, ops.concatenate(proposals, axis=-1)]

    def _draw(
        self, weights: list[Tensor], noise: Tensor, with_directions: bool = True
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Draws subnets, one for each row of the noise.

        Returns:
            For each decision, choices and the gradients of their log-probabilities, `score_of_draw`, both of shape
            `(subnets, count)`.
        """
        directions = []
        split = self._columns(noise)

        def choose(number, logits):
            scores = logits + split[number]
            highest = ops.top_k(scores, self.space.decisions[number].kept)[0]
            choice = ops.cast(scores >= highest[:, -1:], "float32")
            if with_directions:
                directions.append(score_of_draw(logits, scores, choice))
            return choice

        return [choice for _, choice, _ in self._decide(weights, noise.shape[0], choose)], directions

    def _decide(
        self, weights: list[Tensor], subnets: int, choose: Callable[[int, Tensor], Tensor]
    ) -> list[tuple[Tensor, Tensor, Tensor | float]]:
        """Runs the LSTM over the decisions; `choose(number, logits)` makes each, for all subnets at once.

        Returns:
            For each decision, logits and choice of shape `(subnets, count)`, and whether it acts, `(subnets,)`.
        """
        named = dict(zip(self._names, weights, strict=True))
        inputs = hidden = cell = ops.zeros((subnets, self.hidden), "float32")
        paths: dict[str, Tensor] = {}
        decided = []
        embeddings = self._columns(ops.transpose(named["embedding"]))
        for number, decision in enumerate(self.space.decisions):
            head = "paths" if decision.gate is None else "channels"
            new_hidden, new_cell = _lstm_cell(named, inputs, hidden, cell)
            logits = ops.matmul(new_hidden, named[f"{head}_kernel"]) + named[f"{head}_bias"]
            logits = logits[:, : decision.count]
            choice = choose(number, logits)
            new_inputs = ops.matmul(choice, ops.transpose(embeddings[number])) / decision.kept
            acts: Tensor | float = 1.0
            if decision.gate is None:
                paths[decision.block] = choice
            elif decision.block in paths:
                acts = paths[decision.block][:, decision.path]
                new_inputs = ops.where(acts[:, None] > 0, new_inputs, inputs)
                new_hidden = ops.where(acts[:, None] > 0, new_hidden, hidden)
                new_cell = ops.where(acts[:, None] > 0, new_cell, cell)
            inputs, hidden, cell = new_inputs, new_hidden, new_cell
            decided.append((logits, choice, acts))
        return decided

    def _columns(self, tensor: Tensor) -> list[Tensor]:
        """Cuts the last axis, of `size` columns, into those of each decision."""
        ends = np.cumsum([decision.count for decision in self.space.decisions])
        # PyTorch does not cut at no place.
        return ops.split(tensor, ends[:-1].tolist(), axis=-1) if len(ends) > 1 else [tensor]


def score_of_draw(logits: Tensor, scores: Tensor, choice: Tensor) -> Tensor:
    """Returns the gradient of the log-probability of a draw without replacement, with respect to the logits.

    Items are drawn one after the other, in the order of falling scores, each with its share of the softmax of what
    is left.

    Args:
        logits: Of all items, shape `(draws, count)`.
        scores: Logits plus the noise that decided, shape `(draws, count)`.
        choice: Ones for the items drawn, the highest scores, and zeros for the others, shape `(draws, count)`.

    Returns:
        Shape `(draws, count)`.
    """
    weights = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
    not_before = ops.cast(scores[:, :, None] >= scores[:, None, :], logits.dtype)
    left = ops.sum(not_before * weights[:, None, :], axis=-1)
    times = ops.sum(not_before * (choice / (left + _TINY))[:, :, None], axis=1)
    return choice - weights * times


def _lstm_cell(named: dict[str, Tensor], inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    both = ops.concatenate([inputs, hidden], axis=-1)
    enter, forget, new, leave = ops.split(ops.matmul(both, named["lstm_kernel"]) + named["lstm_bias"], 4, axis=-1)
    cell = ops.sigmoid(forget) * cell + ops.sigmoid(enter) * ops.tanh(new)
    return ops.sigmoid(leave) * ops.tanh(cell), cell


def _initial_weights(space: SubnetSpace, hidden: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """PyTorch's defaults, but an LSTM of one bias, not two, and, as in the paper's code, heads of zero bias."""
    bound = 1 / math.sqrt(hidden)
    shapes = {"lstm_kernel": (2 * hidden, 4 * hidden), "lstm_bias": (4 * hidden,)}
    zeros = {}
    for head, decisions in (
        ("paths", [each.count for each in space.decisions if each.gate is None]),
        ("channels", [each.count for each in space.decisions if each.gate is not None]),
    ):
        if decisions:
            shapes[f"{head}_kernel"] = (hidden, max(decisions))
            zeros[f"{head}_bias"] = np.zeros(max(decisions), "float32")
    weights = {name: rng.uniform(-bound, bound, shape).astype("float32") for name, shape in shapes.items()}
    return weights | zeros | {"embedding": rng.normal(size=(space.size, hidden)).astype("float32")}


def _variable(name: str, value: np.ndarray) -> keras.Variable:
    return keras.Variable(value, trainable=False, dtype=str(value.dtype), name=name)


def _variables(prefix: str, values: dict[str, np.ndarray]) -> list[keras.Variable]:
    return [_variable(f"{prefix}_{name}", value) for name, value in values.items()]
