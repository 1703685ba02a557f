"""PyTorch functions recorded as graphs of tensor operations, gradients included, and run without Keras's layers.

A Keras layer costs PyTorch some tenth of a millisecond beside its arithmetic, which at small batches is most of
the time. A recorded graph holds the arithmetic alone; what depends on the first argument alone (a model's
variables) is computed once for as long as they do not change.
"""

import collections
import hashlib
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from keras import tree
from torch import fx
from torch._subclasses import FakeTensor  # the base of every tensor without data, needed to see one
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten

_EAGER_CALLS = 2  # calls of each set of shapes that run eagerly: recording costs as much as some dozens of them
_MODELS_KEPT = 2


def record(fn: Callable) -> Callable:
    """Returns a pure function of nests of tensors that is recorded at its third call for a set of shapes.

    A function that looks at the values of tensors, such as a loop that ends when something has settled, or that
    draws random numbers from a generator, cannot be recorded and runs eagerly.

    Args:
        fn: Function whose first argument seldom changes: the variables of a model.

    Returns:
        A function of the same arguments; no gradient flows through it.
    """
    graphs: dict[Any, _Recorded] = {}
    can_be = True
    known: tuple[Any, list, Any] = (None, [], None)  # the first argument, its leaves, and its part of the key
    calls: collections.Counter = collections.Counter()

    def run(first, *rest):
        nonlocal can_be, known
        if not can_be:
            return fn(first, *rest)
        leaves: list = []
        layout = _flatten(rest, leaves)
        if known[0] is not first:
            fixed: list = []
            layout_of_first = _flatten((first,), fixed)
            if not _all_real(fixed):
                return fn(first, *rest)
            known = first, fixed, (layout_of_first, _shapes(fixed))
        if not _all_real(leaves):
            return fn(first, *rest)
        _, fixed, key_of_first = known
        key = key_of_first, layout, _shapes(leaves)
        if key not in graphs:
            calls[key] += 1
            if calls[key] <= _EAGER_CALLS:
                return fn(first, *rest)
            graph = _recorded(fn, first, rest)
            if graph is None:
                can_be = False
                return fn(first, *rest)
            graphs[key] = graph
        return graphs[key](fixed, leaves)

    return torch.no_grad()(run)


def _flatten(nest: Any, leaves: list) -> tuple:
    """Appends the leaves of a nest as Keras orders them, whose own walk costs as much as a dozen operations.

    Returns what tells nests of the same leaves apart: a frozen layer's variables lie in the other of two lists.
    """
    layout: list[Any] = []
    for each in nest:
        if isinstance(each, torch.Tensor):
            leaves.append(each)
            layout.append(None)
        elif isinstance(each, (tuple, list)):
            layout.append(_flatten(each, leaves))
        else:
            leaves.extend(tree.flatten(each))
            layout.append(repr(tree.map_structure(lambda _: None, each)))
    return tuple(layout)


def _all_real(leaves: Sequence[Any]) -> bool:
    return all(isinstance(leaf, torch.Tensor) and not isinstance(leaf, FakeTensor) for leaf in leaves)


def _shapes(leaves: Sequence[torch.Tensor]) -> tuple:
    return tuple((leaf.shape, leaf.stride(), leaf.dtype, leaf.device) for leaf in leaves)


class _Recorded:
    """A graph in two parts: what the variables decide, and the rest."""

    def __init__(self, graph: fx.Graph, root: fx.GraphModule, count: int, structure: Any):
        self.unflatten = _unflatten(structure)
        self.names: list[str] = []
        self.prepare, self.run = _split(graph, root, count, self.names)
        # The variables are kept with what follows from them: no others can come to lie at their addresses.
        self.prepared: tuple[list[int], Sequence[torch.Tensor], list[torch.Tensor]] = ([], [], [])

    def __call__(self, fixed: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor]) -> Any:
        versions = [each._version for each in fixed]
        if self.prepared[1] is not fixed or self.prepared[0] != versions:
            signature = tuple((each.data_ptr(), version) for each, version in zip(fixed, versions, strict=True))
            found = _KEPT.get(signature, fixed, self.names, self.prepare)
            self.prepared = versions, fixed, found
        return self.unflatten(self.run(*self.prepared[2], *leaves))


def _unflatten(structure: Any) -> Callable[[list], Any]:
    """Returns what puts tensors back in their places, without a walk through the structure where it is flat."""
    if isinstance(structure, tuple) and not any(tree.is_nested(each) for each in structure):
        return structure._make if hasattr(structure, "_make") else tuple
    return lambda leaves: tree.pack_sequence_as(structure, leaves)


class _Kept:
    """What follows from variables alone, shared between the graphs of one model."""

    def __init__(self):
        self.models: collections.OrderedDict = collections.OrderedDict()

    def get(self, signature, fixed, names, prepare):
        _, tensors = self.models.setdefault(signature, (list(fixed), {}))
        self.models.move_to_end(signature)
        while len(self.models) > _MODELS_KEPT:
            self.models.popitem(last=False)
        if not tensors.keys() >= set(names):
            for name, tensor in zip(names, prepare(*fixed), strict=True):
                tensors.setdefault(name, tensor)
        return [tensors[name] for name in names]


_KEPT = _Kept()


def _recorded(fn: Callable, first: Any, rest: Sequence[Any]) -> _Recorded | None:
    fixed, leaves = tree.flatten(first), tree.flatten(rest)
    structure = None

    def flat(*tensors):
        nonlocal structure
        variables = tree.pack_sequence_as(first, list(tensors[: len(fixed)]))
        arguments = tree.pack_sequence_as(rest, list(tensors[len(fixed) :]))
        found = fn(variables, *arguments)
        structure = tree.map_structure(lambda _: 0, found)
        return tree.flatten(found)

    try:
        # Tensors without data: a function that asks for a value fails, instead of having it fixed for ever.
        options: dict[str, Any] = {"tracing_mode": "fake", "_allow_non_fake_inputs": True}
        # One tensor in two places would be recorded as one input; in another call they may be two.
        inputs = [each.detach() for each in (*fixed, *leaves)]
        with_mutations = make_fx(flat, **options)(*inputs)
        module = make_fx(functionalize(with_mutations), **options)(*inputs)
        _simplify(module)
        recorded = _Recorded(module.graph, module, len(fixed), structure)
        recorded(fixed, leaves)
    except (RuntimeError, TypeError, NotImplementedError):  # what PyTorch raises for values that are not there yet
        return None
    return recorded


def _simplify(module: fx.GraphModule) -> None:
    """Takes out what changes nothing: copies in the layout that is there already, detaching, what was computed."""
    graph = module.graph
    seen: dict[Any, fx.Node] = {}  # what was computed before, no tensor being changed in place
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in (aten.detach.default, aten.lift_fresh_copy.default, aten.alias.default):
            node.replace_all_uses_with(node.args[0])
        elif node.target is aten.clone.default:
            source = node.args[0]
            while source.op == "call_function" and source.target is aten.clone.default:
                source = source.args[0]
            node.args = (source,)
            if source.meta["val"].stride() == node.meta["val"].stride():
                node.replace_all_uses_with(source)
        if not _random(node):
            same = seen.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)
            if same is not node:
                node.replace_all_uses_with(same)
    graph.eliminate_dead_code()


def _split(graph: fx.Graph, root: fx.GraphModule, count: int, names: list[str]) -> tuple[Callable, Callable]:
    """Cuts a graph in what follows from the first `count` inputs alone, and the rest; names what goes between."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    expression: dict[fx.Node, str] = {node: f"input {index}" for index, node in enumerate(inputs[:count])}
    for node in graph.nodes:
        if node.op == "get_attr":
            expression[node] = _text_of_constant(operator.attrgetter(node.target)(root))
        elif node.op == "call_function" and not _random(node) and expression.keys() >= set(node.all_input_nodes):
            # Named by what it computes, not by its place: graphs of one model share it.
            arguments = fx.map_arg((node.args, node.kwargs), expression.__getitem__)
            expression[node] = hashlib.sha256(f"{node.target}{arguments}".encode()).hexdigest()
    output = next(node for node in graph.nodes if node.op == "output")
    between = [
        node for node in graph.nodes if node in expression and any(user not in expression for user in node.users)
    ]
    names.extend(expression[node] for node in between)
    before, after = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node in inputs[:count] or (node.op != "placeholder" and node in expression):
            copies[node] = before.node_copy(node, copies.__getitem__)
    before.output([copies[node] for node in between])
    copies = {node: after.placeholder(f"fixed_{index}") for index, node in enumerate(between)}
    for node in graph.nodes:
        if node in inputs[count:] or (node.op == "call_function" and node not in expression):
            copies[node] = after.node_copy(node, copies.__getitem__)
    after.output([copies[node] for node in output.args[0]])
    for each in (before, after):
        each.eliminate_dead_code()
    # A module per graph; what it calls is its compiled forward, without the hooks of a layer.
    return fx.GraphModule(root, before).forward, fx.GraphModule(root, after).forward


def _random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _text_of_constant(tensor: torch.Tensor) -> str:
    content = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(content.reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"{content.dtype}{tuple(content.shape)}{digest.hexdigest()}"
