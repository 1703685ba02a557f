"""Weights to and from PyTorch: safetensors files in the naming that robustness papers' code shares.

One table per architecture names a PyTorch module and the Keras layer that takes its tensors; a new architecture
is one more function in `_TABLES`. Files are safetensors only: a pickle can run code when it is read.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

Table = list[tuple[str, str]]
"""Pairs of a PyTorch module's name and a Keras layer's name."""

# torchvision's names for the same parts, and the wrapper that DataParallel puts around a model.
_ALIASES = (("module.", ""), ("downsample.", "shortcut."), ("fc.", "linear."))
_NOT_WEIGHTS = "num_batches_tracked"
# A block of TRADES's wide networks that nothing uses.
_UNUSED = "sub_block1."


def load_torch_weights(model: "keras.Model", path: str | Path) -> None:
    """Reads a PyTorch state dict from a safetensors file into a Keras model.

    Names are those of the CIFAR ResNets of robustness papers (`conv1`, `layer1.0.conv1`, `shortcut.0`, `linear`);
    torchvision's `downsample` and `fc`, and a `module.` in front, are understood. Pixel standardisation that the
    PyTorch code applies outside of its model is not in the file.

    Args:
        model: Model of a builder in `convertible()`, with the sizes of the file.
        path: A safetensors file.

    Raises:
        ValueError: If the file is not of that format, a tensor is missing, left over or of another shape, or the
            architecture has no table. The model is then unchanged.
    """
    tensors = _read(Path(path))
    assignments = []
    for key, variable, to_keras, _ in _pairs(model):
        if _usual(key) not in tensors:
            raise ValueError(
                f"`{path}` must hold a tensor '{key}' for the model '{model.name}'. Received: tensors "
                f"{_some(tensors)}. Check that the file is of this architecture."
            )
        value = to_keras(tensors.pop(_usual(key)))
        if value.shape != tuple(variable.shape):
            raise ValueError(
                f"Tensor '{key}' of `{path}` must have the shape {tuple(variable.shape)} of '{variable.path}'. "
                f"Received: shape={value.shape} in Keras's order. Build the model with the sizes of the file."
            )
        assignments.append((variable, value))
    if tensors:
        raise ValueError(
            f"`{path}` must hold nothing but the weights of '{model.name}'. Received: also {_some(tensors)}. "
            "Build the model with the depth and the options of the file."
        )
    for variable, value in assignments:
        variable.assign(value)


def save_torch_weights(model: "keras.Model", path: str | Path) -> None:
    """Writes the weights of a Keras model as a PyTorch state dict in a safetensors file.

    PyTorch reads it with `module.load_state_dict(safetensors.torch.load_file(path))`.

    Args:
        model: Model of a builder in `convertible()`.
        path: File to write.

    Raises:
        ValueError: If the architecture has no table.
    """
    import keras
    from safetensors.numpy import save_file

    tensors = {
        key: np.ascontiguousarray(to_torch(keras.ops.convert_to_numpy(variable.value)))
        for key, variable, _, to_torch in _pairs(model)
    }
    save_file(tensors, path, metadata={"format": "pt"})


def convertible() -> list[str]:
    """Lists the architectures that can be converted."""
    return sorted(_TABLES)


def _read(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a safetensors file under the names of the tables, without counters."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise ValueError(f"There must be a file at `path`. Received: {path}, which is absent.") from None
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"`{path}` must be a safetensors file. Received: another format ({error}). Convert a checkpoint of "
            "PyTorch that you trust: safetensors.torch.save_file(torch.load(file, weights_only=True), new_file)."
        ) from error
    usual = {_usual(key): value for key, value in tensors.items() if not key.endswith(_NOT_WEIGHTS)}
    return {key: value for key, value in usual.items() if not key.startswith(_UNUSED)}


def _usual(key: str) -> str:
    """Returns the name of a tensor in the tables' naming."""
    for found, usual in _ALIASES:
        if key.startswith(found):
            key = usual + key.removeprefix(found)
        key = key.replace(f".{found}", f".{usual}")
    return key


def _some(tensors: dict[str, Any]) -> str:
    names = sorted(tensors)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _pairs(model: "keras.Model") -> Iterator[tuple[str, Any, Callable, Callable]]:
    """Yields a tensor's name, the Keras variable, and the changes of axes to Keras and to PyTorch."""
    import keras

    if model.name not in _TABLES:
        raise ValueError(
            f"Weights of {', '.join(convertible())} can be converted. Received: a model named {model.name!r}."
        )
    for module, name in _TABLES[model.name](model):
        layer = model.get_layer(name)
        if isinstance(layer, keras.layers.BatchNormalization):
            yield f"{module}.weight", layer.gamma, _same, _same
            yield f"{module}.bias", layer.beta, _same, _same
            yield f"{module}.running_mean", layer.moving_mean, _same, _same
            yield f"{module}.running_var", layer.moving_variance, _same, _same
            continue
        axes = _CONVOLUTION if isinstance(layer, keras.layers.Conv2D) else _DENSE
        yield f"{module}.weight", layer.kernel, *axes
        if layer.use_bias:
            yield f"{module}.bias", layer.bias, _same, _same


def _same(array: np.ndarray) -> np.ndarray:
    return array


# PyTorch keeps kernels as (out, in, height, width), Keras as (height, width, in, out).
_CONVOLUTION = (lambda array: array.transpose(2, 3, 1, 0), lambda array: array.transpose(3, 2, 0, 1))
_DENSE = (np.transpose, np.transpose)


def _resnet(model: "keras.Model") -> Table:
    """Post-activation ResNets: batch normalisation follows its convolution, also in the shortcut."""
    names = {layer.name for layer in model.layers}
    table = [("conv1", "stem"), ("bn1", "stem_bn")]
    for stage, block, ours in _blocks(names):
        theirs = f"layer{stage}.{block - 1}"
        for part in (part for part in ("1", "2", "3") if f"{ours}_conv{part}" in names):
            table += [
                (f"{theirs}.conv{part}", f"{ours}_conv{part}"),
                (f"{theirs}.bn{part}", f"{ours}_conv{part}_bn"),
            ]
        if f"{ours}_shortcut" in names:
            table += [
                (f"{theirs}.shortcut.0", f"{ours}_shortcut"),
                (f"{theirs}.shortcut.1", f"{ours}_shortcut_bn"),
            ]
    return [*table, ("linear", "logits")]


def _preact_resnet(model: "keras.Model") -> Table:
    """Pre-activation ResNets: batch normalisation precedes its convolution, and the shortcut has none."""
    return _preact(model, "layer{stage}.{block}", "shortcut.0", "bn", "linear")


def _wide_resnet(model: "keras.Model") -> Table:
    """Wide ResNets in the naming of TRADES and AWP."""
    return _preact(model, "block{stage}.layer.{block}", "convShortcut", "bn1", "fc")


def _preact(model: "keras.Model", block_name: str, shortcut: str, final: str, head: str) -> Table:
    names = {layer.name for layer in model.layers}
    table = [("conv1", "stem")]
    for stage, block, ours in _blocks(names):
        theirs = block_name.format(stage=stage, block=block - 1)
        for part in ("bn1", "conv1", "bn2", "conv2"):
            table.append((f"{theirs}.{part}", f"{ours}_{part}"))
        if f"{ours}_shortcut" in names:
            table.append((f"{theirs}.{shortcut}", f"{ours}_shortcut"))
    return [*table, (final, "final_bn"), (head, "logits")]


def _blocks(names: set[str]) -> Iterator[tuple[int, int, str]]:
    """Yields stage and block, from 1, and the prefix of the names of the block's layers."""
    found = re.compile(r"(stage(\d+)_block(\d+))_conv1")
    matches = [match for match in map(found.fullmatch, names) if match]
    yield from sorted((int(match[2]), int(match[3]), match[1]) for match in matches)


_TABLES: dict[str, Callable[["keras.Model"], Table]] = {
    **{f"resnet{depth}": _resnet for depth in (8, 14, 18, 20, 32, 50, 56)},
    "preact_resnet18": _preact_resnet,
    "wide_resnet": _wide_resnet,
}
