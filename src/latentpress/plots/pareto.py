"""The pictures of a comparison, drawn from its `metrics.json` alone.

    draw(out)    writes pareto.png and .svg, and latency.png and .svg where times were measured

Here quality over ratio: a panel for each set and one for all, a line a system, bounds of no size as horizontal lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from latentpress.evaluation.metrics_file import chief_scope, measure_name, ratio_key, ratio_of, read_metrics
from latentpress.evaluation.sources import POOLED
from latentpress.plots import latency
from latentpress.plots.systems import Line, interval_bars, keys, legend, level_lines, lines, marks
from latentpress.training.plot import save

_WIDE = 8  # sets that two rows of small panels hold


def draw(out: Path) -> list[Path]:
    """Draws the pictures of a folder of results.

    Returns:
        The files.

    Raises:
        InputError: `metrics.json` is missing or cannot be read.
    """
    content = read_metrics(out)
    pictures = {"pareto": figure_of(content)}
    if content["speed"] is not None:
        pictures["latency"] = latency.figure_of(content)
    paths = {out / f"{name}.{kind}": figure for name, figure in pictures.items() for kind in ("png", "svg")}
    for path, figure in paths.items():
        save(figure, path)
    return list(paths)


def figure_of(content: Mapping[str, Any]) -> Figure:
    """Quality over ratio, of what `metrics.json` holds."""
    systems = content["systems"]
    drawn = lines(systems)
    first = chief_scope(content)
    small = list(content["sets"]) if first == POOLED else []
    rows = 1 if not small else 2 if len(small) <= _WIDE else 3
    columns = -(-len(small) // rows)
    figure = Figure(figsize=(7.9 + 2.3 * columns if small else 9.0, 7.4 if small else 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, 2 + columns)
    _panel(figure.add_subplot(grid[:, :2]), content, first, drawn, f"mean of {len(content['pooled']['sets'])} sets")
    for i, name in enumerate(small):
        axes = figure.add_subplot(grid[i // columns, 2 + i % columns])
        _panel(axes, content, name, drawn, name)
    legend(figure, drawn, keys(drawn, systems))
    return figure


def _panel(axes: Axes, content: Mapping[str, Any], scope: str, drawn: Sequence[Line], title: str) -> None:
    """One scope: points with their 95% intervals, joined in the order of their ratios."""
    systems = content["systems"]
    large = scope == chief_scope(content)
    key = ratio_key(content, scope)
    for depth, line in enumerate(drawn, 2):
        rows = [systems[label]["scopes"][scope] for label in line.labels if scope in systems[label]["scopes"]]
        reached = {id(row): ratio_of(row, key) or 0.0 for row in rows}
        rows = sorted((row for row in rows if reached[id(row)]), key=lambda row: reached[id(row)])
        if not rows:
            continue
        means = [100 * row["headline"]["mean"] for row in rows]
        style = marks(line.look) | ({} if large else {"markersize": 3.5})
        axes.errorbar(
            [reached[id(row)] for row in rows],
            means,
            yerr=interval_bars([row["headline"] for row in rows]),
            linestyle=line.look.dashes,
            linewidth=line.look.width * (1 if large else 0.75),
            elinewidth=0.8,
            zorder=depth,
            **style,
        )
    for _, level, style in level_lines(systems, scope):
        axes.axhline(100 * level, **style)
    ticks = sorted({one["asked_ratio"] for one in systems.values() if one["asked_ratio"]})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.set_title(title if scope == POOLED or not large else scope, fontsize=11 if large else 9, loc="left")
    axes.set_ylabel(
        f"{measure_name(content, scope)}, 95% intervals" if large else measure_name(content, scope), fontsize=9
    )
    if large:
        of = "" if key == "ratio" else "over correct answers, "
        axes.set_xlabel(f"tokens of context for each position kept (ratio, {of}log scale)")
    axes.tick_params(labelsize=9 if large else 7)
