"""The picture of a training: losses by kind over the steps, and on dev records with right and with wrong latents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentpress.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OF_A_SIZE = re.compile(r"eval_[xm]\d+_")
_DRAWN = ("answer", "quote", "continuation")


def plot_losses(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws the lines of a log to a PNG, written whole or not at all.

    Args:
        history: lines as `Trainer` keeps them, each with its `step`.
        path: of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from latentpress.data.rows import KINDS

    figure = Figure(figsize=(9, 8), layout="constrained")
    FigureCanvasAgg(figure)
    train, dev = figure.subplots(2, 1, sharex=True)
    for kind in KINDS:
        points = [(line["step"], line[kind]) for line in history if "loss" in line and kind in line]
        if points:
            train.plot(*zip(*points, strict=True), label=kind, linewidth=1)
    names = sorted({name for line in history for name in line if _OF_A_SIZE.match(name) and name.endswith(_DRAWN)})
    for name in names:
        right = [(line["step"], line[name]) for line in history if name in line]
        (drawn,) = dev.plot(*zip(*right, strict=True), label=name.removeprefix("eval_").replace("_", " "), linewidth=1)
        wrong = [(line["step"], line[f"{name}_wrong"]) for line in history if f"{name}_wrong" in line]
        if wrong:
            dev.plot(*zip(*wrong, strict=True), color=drawn.get_color(), linestyle=":", linewidth=1)
    train.set_ylabel("training loss, nats a token")
    dev.set_ylabel("dev loss; dotted: another record's latents")
    dev.set_xlabel("steps")
    for axes in (train, dev):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG or SVG by the path's suffix, whole or not at all; the same figure makes the same file."""
    from matplotlib import rc_context

    kind = path.suffix.removeprefix(".")
    with replacing(path) as building, rc_context({"svg.hashsalt": "latentpress"}):
        figure.savefig(building, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)
