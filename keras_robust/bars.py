"""Bars on the terminal while a model is measured."""

from typing import Any, Self


class Bars:
    """Progress of an evaluation: measurement, rows, accuracy so far, time left."""

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("accuracy {task.fields[accuracy]:.1%}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, Any] = {}
        return self

    def __exit__(self, *_: object) -> None:
        if self._tasks:
            self._bars.stop()

    def show(self, name: str, done: int, total: int, accuracy: float, detail: str) -> None:
        """Called by `evaluate` after each batch."""
        self._bars.start()  # only now: a wrong argument is a message without an empty bar above it
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, accuracy=accuracy)
        description = f"{name} ({detail})" if detail and done < total else name
        self._bars.update(self._tasks[name], completed=done, accuracy=accuracy, description=description)
