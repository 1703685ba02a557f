"""Lines in panels, as most figures of the papers are."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a panel.

    Args:
        label: Name in the legend.
        x: Horizontal positions; texts stand in their order, one place each, and where all of a panel are whole
            numbers its axis has no other ticks.
        y: Heights, one for each position.
        error: Half heights of error bars; None for none.
    """

    label: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[float]
    error: Sequence[float] | None = None


def draw_lines(
    panels: Mapping[str, Sequence[Line]],
    path: str | Path,
    *,
    x_label: str | Sequence[str],
    y_label: str = "accuracy",
    title: str = "",
    log_x: bool = False,
) -> None:
    """Draws panels side by side, with one vertical axis, and one legend below where all show the same lines.

    Args:
        panels: Lines by the panel's title.
        path: Image file to write; its ending decides the format.
        x_label: Name of the horizontal axis, or one for each panel.
        y_label: Name of the vertical axis.
        title: Title of the whole: what was measured, on how many images, with which seed and code.
        log_x: Whether the horizontal axes are logarithmic.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError(
            f"Figures need matplotlib: pip install 'keras-robust[plots]'. Received: {error}."
        ) from error
    labels = [x_label] * len(panels) if isinstance(x_label, str) else x_label
    names = [[line.label for line in lines] for lines in panels.values()]
    shared = len(names) > 1 and any(names[0]) and all(each == names[0] for each in names)
    figure = Figure(figsize=(1.5 + 3.6 * len(panels), 4.4 if shared else 3.8), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (name, lines), label in zip(all_axes, panels.items(), labels, strict=True):
        for line in lines:
            axes.errorbar(line.x, line.y, yerr=line.error, marker="o", markersize=4, capsize=2, label=line.label)
        axes.set(title=name, xlabel=label)
        if log_x:
            axes.set_xscale("log")
        elif all(isinstance(x, int) for line in lines for x in line.x):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if any(line.label for line in lines) and not shared:
            axes.legend(fontsize="small")
    all_axes[0].set_ylabel(y_label)
    if shared:
        handles, labels = all_axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize="small")
    figure.suptitle(title, fontsize="small")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
