"""Votes counted so far, on disk."""

import json
import time
from pathlib import Path
from typing import Any

from keras_robust.files import write_atomically

SECONDS = 5.0
"""Between two writes of a state: a kill costs no more than that."""


class CertificationState:
    """Counts of each image, read at the start, written from time to time and when the `with` block ends.

    Args:
        path: File that holds the counts, or None to keep them in memory.
        context: What the counts depend on; a file of another context is refused.

    Raises:
        ValueError: If the file is not the state of a certification, or belongs to another.
    """

    def __init__(self, path: Path | None, context: dict[str, Any]):
        self.path = path
        self.context = context
        self.images: dict[str, dict[str, int]] = {}
        self._written = time.monotonic()
        if path is not None and path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        advice = "Delete the file to start anew, or write to another place."
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            context, images = content["context"], content["images"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"`{path}` is not the state of a certification ({error!r}). {advice}") from error
        different = sorted(key for key in self.context if context.get(key) != self.context[key])
        if different:
            raise ValueError(
                f"`{path}` belongs to another certification: it differs in {', '.join(different)}. {advice}"
            )
        self.images = images

    def __enter__(self) -> "CertificationState":
        return self

    def __exit__(self, *_) -> None:
        self._write()

    def save_now_and_then(self) -> None:
        """Writes the file if the last write is some seconds ago."""
        if time.monotonic() - self._written >= SECONDS:
            self._write()

    def _write(self) -> None:
        if self.path is not None:
            write_atomically(self.path, json.dumps({"context": self.context, "images": self.images}))
        self._written = time.monotonic()
