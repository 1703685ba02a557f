"""The graph of a functional model built again, with some layers replaced, followed by others, or left out."""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robust.models.policy import dtype_policy


@dataclasses.dataclass
class Edit:
    """What becomes of one layer.

    Args:
        layer: Layer that takes its place, or None where it is left out and its input passed on.
        after: Layers to call on the output, in order.
        weights: `"kept"` for the old layer's, None to start anew, or the arrays to set.
    """

    layer: keras.layers.Layer | None
    after: list[keras.layers.Layer] = dataclasses.field(default_factory=list)
    weights: str | list[np.ndarray] | None = "kept"


class Graph:
    """Layers of one functional model, and what their outputs go to.

    Args:
        model: Functional model.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self._calls: dict[int, list[Any]] = collections.defaultdict(list)
        self._makers: dict[int, Any] = {}
        self._uses: dict[int, int] = collections.Counter(id(tensor) for tensor in model.outputs)
        # From the input on: the first call of a layer is the first of its nodes.
        for node in (node for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True) for node in nodes):
            self._calls[id(node.operation)].append(node)
            self._makers.update((id(tensor), node.operation) for tensor in node.outputs)
            self._uses.update(id(tensor) for tensor in node.input_tensors)

    def only_source(self, layer: keras.layers.Layer) -> Any:
        """Returns the operation whose output goes to this layer only, both called once; None if there is none."""
        if len(self._calls[id(layer)]) != 1 or len(self._calls[id(layer)][0].input_tensors) != 1:
            return None
        (tensor,) = self._calls[id(layer)][0].input_tensors
        source = self._makers[id(tensor)]
        alone = self._uses[id(tensor)] == 1 and len(self._calls[id(source)]) == 1
        return source if alone else None

    def input(self, layer: keras.layers.Layer) -> keras.KerasTensor:
        """Returns the first input of the layer's first call here; `layer.input` may be that in another model."""
        return self._calls[id(layer)][0].input_tensors[0]

    def output(self, layer: keras.layers.Layer) -> keras.KerasTensor:
        """Returns the first output of the layer's first call here; `layer.output` may be that in another model."""
        return self._calls[id(layer)][0].outputs[0]

    def shapes(self, layer: keras.layers.Layer) -> list[tuple[tuple, tuple]]:
        """Returns the shapes of the first input and the first output of each call of the layer."""
        calls = [node for node in self._calls[id(layer)] if node.input_tensors]
        return [(tuple(node.input_tensors[0].shape), tuple(node.outputs[0].shape)) for node in calls]


def layers_of(model: keras.Model) -> Iterator[tuple[keras.layers.Layer, Graph]]:
    """Yields each layer once, in the order of the computation, with the graph that it is in; nested ones too.

    Args:
        model: Functional or sequential model.

    Raises:
        ValueError: If the model, or one nested in it, is neither.
    """
    seen = set()
    graph = Graph(as_functional(model))
    for operation in graph.model.operations:
        if isinstance(operation, keras.layers.InputLayer) or not isinstance(operation, keras.layers.Layer):
            continue
        nested = isinstance(operation, keras.Model)
        for layer, place in layers_of(operation) if nested else [(operation, graph)]:
            if id(layer) not in seen:
                seen.add(id(layer))
                yield layer, place


def as_functional(model: Any) -> keras.Model:
    """Returns a functional model with the layers of the given one.

    Args:
        model: Functional model, or a sequential one of known input shape.

    Returns:
        The model itself, or a functional one of the same layers.

    Raises:
        ValueError: If its graph is not known.
    """
    if isinstance(model, keras.Sequential) and model.built:
        return keras.Model(model.inputs, model.outputs, name=model.name, trainable=model.trainable)
    if (
        isinstance(model, keras.Model)
        and hasattr(model, "_nodes_by_depth")
        and not isinstance(model, keras.Sequential)
    ):
        return model
    if isinstance(model, keras.Sequential):
        raise ValueError(
            "The graph of the model must be known, so a sequential one must know its input shape. "
            f"Received: model '{model.name}', not built. Begin it with keras.Input(shape)."
        )
    name = f"model '{model.name}' of type " if isinstance(model, keras.Model) else ""
    raise ValueError(
        "The model must be functional or sequential, nested ones included, so that its graph is known. "
        f"Received: {name}{type(model).__name__}. Build it as keras.Model(inputs, outputs), or change the code "
        "that makes it."
    )


def rebuild(
    model: keras.Model,
    edits: Mapping[int, Edit],
    on_input: Callable[[keras.KerasTensor], keras.KerasTensor] | None = None,
) -> keras.Model:
    """Builds a model again, with new layers and variables.

    Args:
        model: Functional or sequential model; it stays as it is.
        edits: What becomes of a layer, by its `id`; any other layer is copied with its weights.
        on_input: Called on each symbolic input; what it returns goes to the layers that the input went to.

    Returns:
        Functional model of the same name.

    Raises:
        ValueError: If the model, or one nested in it, is neither functional nor sequential.
    """
    return _Rebuilding(edits).run(model, on_input)


def at_any_size(model: keras.Model) -> keras.Model:
    """Returns a copy of a model, its weights included, that takes images of any height and width.

    Args:
        model: Functional model of one input, channels last, without a layer that needs the size of the image.

    Returns:
        Functional model of the same layers and order of weights.

    Raises:
        ValueError: If its graph is not known, or a layer needs the size of the image.
    """
    policy = model.dtype_policy
    model = as_functional(model)
    inputs = keras.Input((None, None, model.input_shape[-1]), name=model.inputs[0].name)
    try:
        with dtype_policy(policy):
            copy = keras.models.clone_model(model, input_tensors=inputs)
        copy.set_weights(model.get_weights())
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Images of several sizes need a model that takes any size. Received: '{model.name}', which does not "
            f"({error}). Take one that averages over all pixels, such as 'resnet18'."
        ) from error
    return copy


class _Rebuilding:
    """One rebuilding: the copies made so far, so that shared layers stay shared."""

    def __init__(self, edits: Mapping[int, Edit]):
        self.edits = edits
        self.copies: dict[int, Any] = {}
        self.edit_of: dict[int, Edit] = {}

    def run(self, model: keras.Model, on_input: Callable | None = None) -> keras.Model:
        graph = as_functional(model)
        fed: dict[int, Any] = {}

        def feed(x):
            symbolic = isinstance(x, keras.KerasTensor)
            if not symbolic or not isinstance(x._keras_history.operation, keras.layers.InputLayer):
                return x
            if id(x) not in fed:
                fed[id(x)] = on_input(x)
            return fed[id(x)]

        def call(layer, *args, **kwargs):
            if on_input is not None:
                args, kwargs = keras.tree.map_structure(feed, (args, kwargs))
            edit = self.edit_of.get(id(layer), Edit(layer))
            outputs = args[0] if edit.layer is None else layer(*args, **kwargs)
            for after in edit.after:
                outputs = after(outputs)
            return outputs

        with dtype_policy(model.dtype_policy):  # that of the copy, and of layers without weights between others
            rebuilt = keras.models.clone_model(graph, clone_function=self.copy, call_function=call)
        for old in graph.operations:
            if isinstance(old, keras.layers.Layer) and not isinstance(old, keras.Model | keras.layers.InputLayer):
                self._transfer(old)
        return rebuilt

    def copy(self, operation: Any) -> Any:
        if id(operation) not in self.copies:
            self.copies[id(operation)] = self._copy(operation)
        return self.copies[id(operation)]

    def _copy(self, operation: Any) -> Any:
        if isinstance(operation, keras.Model):
            return self.run(operation)
        if id(operation) in self.edits:
            edit = self.edits[id(operation)]
            new = keras.layers.Identity() if edit.layer is None else edit.layer
            self.edit_of[id(new)] = edit
            return new
        # A Lambda has no weights, and its function cannot be written into a configuration.
        if isinstance(operation, keras.layers.Lambda):
            return operation
        return type(operation).from_config(operation.get_config())

    def _transfer(self, old: keras.layers.Layer) -> None:
        new, edit = self.copies[id(old)], self.edits.get(id(old))
        weights = "kept" if edit is None else edit.weights
        if new is old or weights is None or (edit is not None and edit.layer is None):
            return
        if isinstance(weights, list):
            new.set_weights(weights)
            return
        # Layers in layers too; what was put into the new layer, such as a KAP, has no weights.
        sources = [layer for layer in old._flatten_layers() if layer.weights]
        targets = [layer for layer in new._flatten_layers() if layer.weights]
        for source, target in zip(sources, targets, strict=True):
            store: dict[str, Any] = {}
            source.save_own_variables(store)
            target.load_own_variables({key: ops.convert_to_numpy(value) for key, value in store.items()})
