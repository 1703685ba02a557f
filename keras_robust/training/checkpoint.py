"""Training state on disk: one file, replaced whole, without pickle."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_robust.files import write_atomically

_KEPT = "kept_"


def _variables(trainer: keras.Model) -> list:
    return [*trainer.variables, *trainer.optimizer.variables]


def save_state(
    path: Path, trainer: keras.Model, facts: dict[str, Any], kept: Mapping[str, np.ndarray] | None = None
) -> None:
    """Saves weights, optimizer, seeds and whatever else the trainer holds.

    Args:
        path: Where the file goes; an older one is replaced.
        trainer: Compiled model in training.
        facts: What else to keep, as JSON: epoch, history, recipe digest.
        kept: Arrays that are not part of the trainer, such as the best weights so far.
    """
    arrays = {f"{index:05d}": keras.ops.convert_to_numpy(v.value) for index, v in enumerate(_variables(trainer))}
    facts_array = np.frombuffer(json.dumps(facts).encode(), "uint8")
    arrays |= {_KEPT + name: array for name, array in (kept or {}).items()}
    write_atomically(path, lambda file: np.savez(file, facts=facts_array, **arrays))


def read_facts(path: Path) -> dict[str, Any]:
    """Returns the facts that `save_state` kept.

    Raises:
        ValueError: If the file is not a training state.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return json.loads(stored["facts"].tobytes())
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} must be a training state of this package. Received: a file that cannot be read ({error}). "
            "Delete it to start the training anew."
        ) from error


def read_kept(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays that `save_state` kept beside the trainer.

    Args:
        path: File that `save_state` wrote and `read_facts` has read.
    """
    with np.load(path, allow_pickle=False) as stored:
        return {name.removeprefix(_KEPT): stored[name] for name in stored.files if name.startswith(_KEPT)}


def load_state(path: Path, trainer: keras.Model) -> dict[str, Any]:
    """Puts a saved state back, exactly.

    Args:
        path: File that `save_state` wrote.
        trainer: Compiled and built model of the same architecture and optimizer.

    Returns:
        The facts that were kept.

    Raises:
        ValueError: If the file is not a training state, or one of another model or optimizer.
    """
    facts = read_facts(path)
    trainer.optimizer.build(trainer.trainable_variables)
    variables = _variables(trainer)
    with np.load(path, allow_pickle=False) as stored:
        values = [stored[name] for name in sorted(stored.files) if name.isdigit()]
    if [value.shape for value in values] != [tuple(v.shape) for v in variables]:
        raise ValueError(
            f"The training state {path} must belong to this model and optimizer. Received: {len(values)} arrays, "
            f"{len(variables)} variables expected, or other shapes. Delete it to start the training anew."
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return facts
