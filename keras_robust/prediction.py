"""The predictor through which attacks and certificates see a model, and the random generator of one image."""

import math
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_robust import backend
from keras_robust.checks import Tensor
from keras_robust.stateless import stateless_call


class Predictor:
    """Logits of a model as a pure function of pixels, with its variables captured at each call.

    The model is called through `stateless_call` in inference mode: no variable of it changes. Compiled functions
    are kept for as long as the model lives.

    Args:
        model: Keras model that maps pixels in [0, 1] to logits, shape `(batch, classes)`.
    """

    def __init__(self, model: keras.Model):
        self._model: Callable[[], Any] = weakref.ref(model)
        self._compiled: dict[Hashable, Callable] = {}
        self._largest: int | None = None
        self._ready = False
        self.forward_passes = 0
        self.backward_passes = 0

    def count(self, forward: int = 0, backward: int = 0) -> None:
        """Adds to the cost on the label: images that went through the model forwards and backwards."""
        self.forward_passes += forward
        self.backward_passes += backward

    @classmethod
    def of(cls, model: keras.Model) -> "Predictor":
        """Returns the predictor of the model, the same one for as long as the model lives."""
        if not isinstance(model, keras.Model):
            raise ValueError(
                "`model` must be a keras.Model that maps pixels in [0, 1] to logits. "
                f"Received: model of type {type(model).__name__}."
            )
        if model not in _PREDICTORS:
            _PREDICTORS[model] = cls(model)
        return _PREDICTORS[model]

    def variables(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns the current values of the model's trainable and non-trainable variables, detached."""
        model = self._model()
        return (
            [ops.stop_gradient(variable.value) for variable in model.trainable_variables],
            [ops.stop_gradient(variable.value) for variable in model.non_trainable_variables],
        )

    def logits(
        self,
        variables: tuple[list[Tensor], list[Tensor]],
        x: Tensor,
        tick: Tensor | None = None,
        *,
        training: bool = False,
    ) -> Tensor:
        """Computes logits with the given values of the variables; can be traced.

        Args:
            variables: Values as `variables()` gives them.
            x: Images, shape `(batch, height, width, channels)`.
            tick: Integer scalar that moves the model's random seeds on, so that a random model draws anew for
                each value. None leaves the seeds where they are.
            training: Whether the model runs in training mode; its updates of variables are thrown away.

        Returns:
            Logits, shape `(batch, classes)`, float32.
        """
        model = self._model()
        trainable, non_trainable = variables
        if tick is not None:
            non_trainable = [
                value + ops.cast(ops.stack([0, tick]) * _SEEDS_A_PASS, value.dtype)
                if _is_seed(variable)
                else value
                for variable, value in zip(model.non_trainable_variables, non_trainable, strict=True)
            ]
        outputs = []
        for part in [x] if training else self._parts(x):
            # Seeds go on from part to part: a random model draws other numbers in each.
            found, non_trainable = stateless_call(model, trainable, non_trainable, part, training)
            if not ops.is_tensor(found):
                raise ValueError(
                    "The model must return one tensor, its logits, shape (batch, classes). "
                    f"Received: a {type(found).__name__} of {len(tree.flatten(found))} outputs. "
                    "Attack keras.Model(model.inputs, model.outputs[0]) or another one of them."
                )
            outputs.append(found)
        return ops.cast(outputs[0] if len(outputs) == 1 else ops.concatenate(outputs), "float32")

    def _parts(self, x: Tensor) -> list[Tensor]:
        """Splits a batch into parts of nearly equal size that suit the processor's cache, or leaves it whole."""
        if self._largest is None:
            self._largest = _largest_output(self._model())
        most = backend.rows_in_cache(x, 4 * self._largest)
        if most is None or most >= x.shape[0]:
            return [x]
        return ops.array_split(x, -(-x.shape[0] // most))

    def compiled(self, key: Hashable, function: Callable) -> Callable:
        """Returns `function` compiled, with the model's logits as its first argument.

        Args:
            key: What the compiled function depends on besides the model and the shapes, such as a frozen attack.
            function: Pure function `(logits, *tensors) -> nest of tensors`, where `logits` is a `Logits`. It is
                traced once for each key and set of shapes.

        Returns:
            A function of `*tensors` that uses the model's current weights.
        """
        run = self._jitted(key, trace_key(self._model()), function)
        return lambda *tensors, variables=None: run(variables or self.variables(), *tensors)

    def _jitted(self, key, trace, function):
        if (key, trace) not in self._compiled:

            def run(variables, *tensors):
                return function(Logits(self, variables, trace), *tensors)

            self._compiled[key, trace] = backend.jit(run)
        return self._compiled[key, trace]

    def loop(self, key: Hashable, body: Callable) -> Callable:
        """Returns a compiled loop over a step that takes gradients of the model.

        On an accelerator the whole loop is one compiled function. On a CPU its step is, and the host repeats it
        without looking at the result, see `backend.loops_on_host`.

        Args:
            key: As for `compiled`.
            body: Pure function `(logits, index, state, *tensors) -> state` of one step, where `state` is a nest of
                tensors of fixed shapes.

        Returns:
            A function `(start, end, state, *tensors) -> state` that runs the steps `start` to `end - 1`.
        """

        def integer(value):
            return ops.convert_to_tensor(value, "int32")

        if backend.loops_on_host():
            step = self.compiled((key, "step"), body)

            def repeat(start, end, state, *tensors):
                variables = self.variables()
                for index in range(start, end):
                    state = step(integer(index), state, *tensors, variables=variables)
                return state

            return repeat

        def whole(logits, start, end, state, *tensors):
            return ops.fori_loop(start, end, lambda index, each: body(logits, index, each, *tensors), state)

        run = self.compiled((key, "loop"), whole)
        return lambda start, end, state, *tensors: run(integer(start), integer(end), state, *tensors)

    def prepare(self, x: np.ndarray) -> None:
        """Makes the variables of a model that was never called; refuses randomness that compiling would freeze.

        Args:
            x: Images, at least one, shape `(images, height, width, channels)`.

        Raises:
            ValueError: If the model changes variables that are not its own, as layers do that draw random numbers
                from Keras's global generator.
        """
        if self._ready:
            return
        model, image = self._model(), ops.convert_to_tensor(x[:1])
        with backend.full_precision():
            if not model.built:  # a compiled function must not make variables
                model(image, training=False)
            if not backend.REFUSES_GLOBAL_SEEDS:
                with keras.StatelessScope() as scope:
                    model(image, training=False)
                if scope.state_mapping.keys() - {id(variable) for variable in model.variables}:
                    raise ValueError(
                        "The model must draw random numbers from generators of its own; else they are the same in "
                        "every pass of an attack, and it passes for one that is not random. Received: "
                        f"'{model.name}', with a layer that draws from Keras's global generator. Give it an "
                        "attribute `self.seed_generator = keras.random.SeedGenerator(0)`, and `seed=` it."
                    )
        self._ready = True

    def predict(self, x: np.ndarray, batch_size: int = 250) -> np.ndarray:
        """Computes logits in batches of one static size, in full float32 also on accelerators.

        Args:
            x: Images, shape `(images, height, width, channels)`, in [0, 1].
            batch_size: Images a pass.

        Returns:
            Logits, shape `(images, classes)`, float32.

        Raises:
            ValueError: If the model draws random numbers that are not from a generator of its own.
        """
        self.prepare(x)
        run = self.compiled("predict", lambda logits, batch: logits(batch))
        parts = []
        for rows, batch in padded_batches(len(x), min(batch_size, len(x))):
            self.count(forward=len(batch))
            with backend.full_precision():
                logits = run(ops.convert_to_tensor(x[batch]))
            parts.append(ops.convert_to_numpy(logits)[: len(rows)])
        return np.concatenate(parts)


class Logits:
    """The model inside a compiled function: `logits(x, tick=None)` calls it with the variables of that call.

    Args:
        predictor: Predictor of the model.
        variables: Values of its variables.
        trace: What the model's layers have decided in Python.
    """

    def __init__(self, predictor: Predictor, variables: tuple[list[Tensor], list[Tensor]], trace: tuple):
        self._predictor = predictor
        self._variables = variables
        self._trace = trace

    def __call__(self, x: Tensor, tick: Tensor | None = None) -> Tensor:
        """Computes logits, shape `(batch, classes)`."""
        return self._predictor.logits(self._variables, x, tick)

    def part(self, key: Hashable, function: Callable) -> Callable:
        """Returns a part of the function that is compiled for itself where the whole cannot be.

        Args:
            key: As for `Predictor.compiled`.
            function: Pure function `(logits, *tensors) -> nest of tensors`.

        Returns:
            A function of `*tensors`.
        """
        if backend.COMPILES:
            return lambda *tensors: function(self, *tensors)
        run = self._predictor._jitted(key, self._trace, function)
        return lambda *tensors: run(self._variables, *tensors)


_PREDICTORS: "weakref.WeakKeyDictionary[keras.Model, Predictor]" = weakref.WeakKeyDictionary()
_SEEDS_A_PASS = 1024  # more draws than any layer makes in one forward pass


def _is_seed(variable) -> bool:
    return variable.path.endswith("seed_generator_state")


def _largest_output(model) -> int:
    """Numbers in the largest output of a layer for one image; 0 where the layers' shapes are not known."""
    largest = 0
    for layer in model._flatten_layers():
        try:
            shapes = [output.shape for output in tree.flatten(layer.output)]
        except (AttributeError, ValueError):
            continue  # It was never called on a symbolic input.
        largest = max([largest, *(math.prod(size or 1 for size in shape[1:]) for shape in shapes)])
    return largest


def trace_key(model: keras.Model) -> tuple:
    """Returns what a compiled function has fixed of a model.

    Args:
        model: Keras model.

    Returns:
        A key that differs where its layers, what they decide in Python or which variables are trainable differs.
    """
    # Not their numbers: another layer may come to lie where one was.
    layers = tuple(weakref.ref(layer) for layer in model._flatten_layers(include_self=False))
    return layers, decisions(model), tuple(variable.trainable for variable in model.variables)


def decisions(model: keras.Model) -> tuple:
    """Returns what layers decide in Python, such as whether noise acts at inference."""
    layers = model._flatten_layers(include_self=False)
    return tuple(layer.trace_key for layer in layers if hasattr(layer, "trace_key"))


def padded_batches(count: int, batch_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits `range(count)` into batches of one size; the last is padded with copies of its last row.

    Returns:
        Pairs of the rows of a batch and the same rows padded to `batch_size`.
    """
    pairs = []
    for start in range(0, count, batch_size):
        rows = np.arange(start, min(start + batch_size, count))
        pairs.append((rows, np.pad(rows, (0, batch_size - len(rows)), mode="edge")))
    return pairs


def image_rng(seed: int, image: int, stream: int = 0) -> np.random.Generator:
    """Returns the random generator of one image.

    Args:
        seed: Seed of the evaluation.
        image: Index of the image in the evaluated set.
        stream: Number of the restart or stage that draws.

    Returns:
        A generator that depends on the three numbers alone.
    """
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(image, stream)))
