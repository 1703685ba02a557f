"""What an interrupted evaluation has found so far, on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from keras_robust.files import write_atomically


class State:
    """Images that are still right under each measurement, saved after each batch.

    Args:
        path: File that holds the state, or None to keep it in memory.
        context: What all measurements share; a file of another context is refused.

    Raises:
        ValueError: If the file belongs to another run or is not a state.
    """

    def __init__(self, path: Path | None, context: dict[str, Any]):
        self.path = path
        self.context = context
        self._found: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            self._found = self._read(path)

    def _read(self, path: Path) -> dict[str, dict[str, Any]]:
        advice = "Delete the file to start anew, or write to another place."
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            context, found = content["context"], content["found"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"`{path}` is not the state of an evaluation ({error}). {advice}") from error
        different = sorted(key for key in self.context if context.get(key) != self.context[key])
        if different:
            raise ValueError(
                f"`{path}` belongs to an interrupted evaluation of another kind: "
                f"it differs in {', '.join(different)}. {advice}"
            )
        return found

    def get(self, key: str, clean: np.ndarray) -> tuple[np.ndarray, int, float, int, int]:
        """Returns what is known of a measurement, or its beginning: the answers on the clean images.

        Returns:
            Booleans of shape `(images,)`, rows done, seconds, forward and backward passes.
        """
        held = self._found.get(key)
        if held is None:
            return clean.copy(), 0, 0.0, 0, 0
        correct = np.array([bit == "1" for bit in held["correct"]])
        return correct, held["done"], held["seconds"], held["forward"], held["backward"]

    def put(self, key: str, correct: np.ndarray, done: int, seconds: float, forward: int, backward: int) -> None:
        """Keeps what is known of a measurement, in memory and on disk."""
        self._found[key] = {
            "correct": "".join("01"[int(each)] for each in correct),
            "done": done,
            "seconds": seconds,
            "forward": forward,
            "backward": backward,
        }
        self.write()

    def write(self) -> None:
        """Writes what is known so far, if there is a file."""
        if self.path is not None:
            write_atomically(self.path, json.dumps({"context": self.context, "found": self._found}))

    def discard(self) -> None:
        """Removes the file, once the results are safe elsewhere."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
