"""SHA-256 of arrays and of what a model computes, for files that must belong to one model."""

import hashlib
import json
from typing import Any

import keras
import numpy as np


def digest(*arrays: np.ndarray) -> str:
    """Returns the SHA-256 of arrays: their shapes, types and values, in order."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(repr((array.shape, str(array.dtype))).encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def digest_of_weights(model: keras.Model) -> str:
    """Returns the SHA-256 of a model's weights; the seeds of its random layers are none."""
    return digest(*(keras.ops.convert_to_numpy(variable.value) for variable in model.weights))


def digest_of_layers(model: keras.Model) -> str:
    """Returns the SHA-256 of what a model computes beside its weights: its layers, their options, what joins them.

    Kernel average pooling, for one, has no weights. Names of layers, which Keras numbers anew in each process, and
    seeds do not count. What a model of one's own class does in `call` counts as far as its `get_config` tells.
    """
    layers = [_facts(layer) for layer in model._flatten_layers()]
    return hashlib.sha256(json.dumps(layers, sort_keys=True, default=_fallback).encode()).hexdigest()


def digest_of_model(model: keras.Model) -> str:
    """Returns the SHA-256 of a model's weights and layers together."""
    return hashlib.sha256((digest_of_weights(model) + digest_of_layers(model)).encode()).hexdigest()


def _facts(layer: keras.Layer) -> list[Any]:
    if hasattr(layer, "_nodes_by_depth"):  # a functional model, whose layers are facts of their own
        options: Any = _graph(layer)
    else:
        options = None if isinstance(layer, keras.Sequential) else _options(layer)
    decided = getattr(layer, "state_key", getattr(layer, "trace_key", None))  # what a layer decides in Python
    return [_kind(layer), layer.compute_dtype, options, decided]


def _options(operation: Any) -> Any:
    try:
        return _without_names(operation.get_config())
    except NotImplementedError:
        return "unknown"


def _graph(model: Any) -> list[Any]:
    """What a functional model computes between its layers, and what goes where."""
    nodes = [
        node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]
    ]
    numbers = {id(operation): number for number, operation in enumerate(model.operations)}
    places: dict[int, int] = {}
    for node in nodes:
        for output in node.outputs:
            places[id(output)] = len(places)

    def place(value):
        return ["tensor", places[id(value)]] if isinstance(value, keras.KerasTensor) else value

    found: list[Any] = []
    for node in nodes:
        operation, arguments = node.operation, keras.tree.map_structure(place, node.arguments.args)
        options = None if isinstance(operation, keras.Layer) else _options(operation)
        named = keras.tree.map_structure(place, node.arguments.kwargs)
        found.append([numbers[id(operation)], _kind(operation), options, arguments, named])
    return [*found, [place(output) for output in model.outputs]]


def _without_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_names(each) for key, each in value.items() if key not in ("name", "seed")}
    if isinstance(value, list | tuple):
        return [_without_names(each) for each in value]
    return value


def _kind(value: Any) -> str:
    return type(value).__name__


def _fallback(value: Any) -> str:
    """What JSON does not know: arrays, numbers of NumPy and slices by value, other objects by their kind."""
    if isinstance(value, np.ndarray | keras.Variable) or keras.ops.is_tensor(value):
        return digest(keras.ops.convert_to_numpy(value))
    by_value = isinstance(value, np.generic | slice | bytes | complex) or value is Ellipsis
    return repr(value) if by_value else _kind(value)
