"""What `fit` shows and keeps while it runs: a bar with the time left, a history, a checkpoint each epoch."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from keras_robust.training.checkpoint import save_state


class ProgressBar(keras.callbacks.Callback):
    """Shows epochs, steps, loss and the time left of the whole training.

    Where there is no terminal it prints one line an epoch.

    Args:
        epochs: Epochs of the whole training.
        steps: Steps of the epochs that are left.
        first_epoch: Epochs that an earlier run finished.
    """

    async_safe = True  # it never reads the logs of a batch, so JAX need not wait for each step

    def __init__(self, epochs: int, steps: int, first_epoch: int = 0):
        super().__init__()
        self.epochs = epochs
        self.first_epoch = first_epoch
        self._start = 0.0
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps, epoch=first_epoch + 1, epochs=epochs, figures="")

    def on_train_begin(self, logs=None) -> None:
        """Starts the bar, and the clock unless this is a later phase."""
        self._start = self._start or time.monotonic()
        self._bar.start()

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        """Names the epoch."""
        self._bar.update(self._task, epoch=epoch + 1)

    def on_train_batch_end(self, batch: int, logs=None) -> None:
        """Moves the bar on."""
        self._bar.advance(self._task)

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        """Shows the figures of the epoch."""
        figures = "  ".join(f"{name} {value:.4f}" for name, value in (logs or {}).items())
        self._bar.update(self._task, figures=figures)
        if not self._console.is_terminal:
            done = epoch + 1 - self.first_epoch
            left = (time.monotonic() - self._start) / done * (self.epochs - epoch - 1)
            self._console.print(f"epoch {epoch + 1}/{self.epochs}  {figures}  left {left:.0f} s", highlight=False)

    def close(self) -> None:
        """Gives the terminal back, also after an error."""
        self._bar.stop()


class Checkpoint(keras.callbacks.Callback):
    """Keeps the figures of each epoch and saves the whole training state after it.

    Args:
        path: File of the state, replaced whole after each epoch.
        facts: What identifies the run, saved with the state.
        history: Figures of the epochs that an earlier run finished.
        kept: Called after each epoch for arrays that are saved with the state.
    """

    def __init__(
        self,
        path: Path,
        facts: dict[str, Any],
        history: list[dict[str, Any]],
        kept: Callable[[], Mapping[str, np.ndarray]] = dict,
    ):
        super().__init__()
        self.path = path
        self.facts = facts
        self.history = list(history)
        self.kept = kept

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        """Starts the clock."""
        self._start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        """Saves the state."""
        trainer = self.model  # on JAX, reading it brings the variables up to date
        figures = {name: float(value) for name, value in (logs or {}).items()}
        rate = float(keras.ops.convert_to_numpy(trainer.optimizer.learning_rate))
        seconds = round(time.monotonic() - self._start, 3)
        self.history.append({"epoch": epoch + 1, **figures, "learning_rate": rate, "seconds": seconds})
        facts = {**self.facts, "epoch": epoch + 1, "history": self.history}
        save_state(self.path, trainer, facts, self.kept())
