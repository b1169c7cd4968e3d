"""Scores of groups over the ratio that they reached, and below what each is ahead of the first group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from latentpress.analysis.report import scope_title
from latentpress.plots.systems import COLOURS, MARKS, PRESS_COLOURS, PRESS_MARKS

_REFERENCE = "#222222"
_FEW, _SOME = 4, 10  # scopes that one row and two rows hold
_WIDEST, _HIGHEST = 18.0, 9.8  # inches


def figure_of(content: Mapping[str, Any]) -> Figure:
    """Two panels a scope, one above the other."""
    scopes = content["scopes"]
    rows = 1 if len(scopes) <= _FEW else 2 if len(scopes) <= _SOME else 3
    columns = -(-len(scopes) // rows) or 1
    size = (min(_WIDEST, max(6.0, 4.4 * columns)), min(_HIGHEST, 5.6 * rows))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[2, 1] * rows)
    for i, scope in enumerate(scopes):
        row, column = divmod(i, columns)
        above = figure.add_subplot(grid[2 * row, column])
        below = figure.add_subplot(grid[2 * row + 1, column], sharex=above)
        scores(above, content, scope)
        _differences(below, content, scope)
        above.tick_params(labelbottom=False)
        below.set_xlabel("ratio reached (log scale)", fontsize=9)
        if column == 0:
            below.set_ylabel(f"ahead of\n{content['reference']}", fontsize=9)
    if scopes:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


def scores(axes: Axes, content: Mapping[str, Any], scope: str) -> None:
    """The scores of all groups in a scope, with bands of their 95% intervals."""
    for name, style in looks(list(content["groups"])).items():
        rows = _of(content, name, scope)
        if not rows:
            continue
        x = [row["ratio"] for row in rows]
        low, high = ([100 * _end(row["score"], end) for row in rows] for end in ("low", "high"))
        mean = [100 * row["score"]["mean"] for row in rows]
        axes.plot(x, mean, label=name, linewidth=1.6, markersize=4.5, **style)
        if len(rows) > 1:
            axes.fill_between(x, low, high, color=style["color"], alpha=0.13, linewidth=0)
        else:
            axes.vlines(x, low, high, color=style["color"], linewidth=1)
        _tell_scales(axes, rows, mean, style["color"])
    ratio_axis(axes, [row["ratio"] for row in content["points"] if row["scope"] == scope])
    axes.set_title(scope_title(content, scope), fontsize=10, loc="left")
    axes.set_ylabel(content["measures"][scope], fontsize=9)


def looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and mark of each group; the first is dark."""
    colours, marks = (*PRESS_COLOURS[:-1], *COLOURS), (*PRESS_MARKS[:-1], *MARKS)
    made = {names[0]: {"color": _REFERENCE, "marker": "D"}} if names else {}
    for i, name in enumerate(names[1:]):
        made[name] = {"color": colours[i % len(colours)], "marker": marks[i % len(marks)]}
    return made


def ratio_axis(axes: Axes, ratios: Sequence[float]) -> None:
    """Ratios on the axis below, in octaves."""
    ticks = [2.0**i for i in range(11)]
    inside = [tick for tick in ticks if min(ratios, default=1) / 1.5 <= tick <= max(ratios, default=1) * 1.5]
    axes.set_xscale("log", base=2)
    axes.set_xticks(inside, [f"{tick:g}x" for tick in inside])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)


def _differences(axes: Axes, content: Mapping[str, Any], scope: str) -> None:
    axes.axhline(0, color=_REFERENCE, linewidth=1)
    for name, style in looks(list(content["groups"])).items():
        rows = [row for row in _of(content, name, scope) if row["difference"] is not None]
        if rows:
            mean = [100 * row["difference"]["mean"] for row in rows]
            away = [
                [abs(100 * _end(row["difference"], end) - y) for row, y in zip(rows, mean, strict=True)]
                for end in ("low", "high")
            ]
            axes.errorbar(
                [row["ratio"] for row in rows], mean, yerr=away, linestyle="none", markersize=4, elinewidth=1, **style
            )
    ratio_axis(axes, [row["ratio"] for row in content["points"] if row["scope"] == scope])


def _tell_scales(axes: Axes, rows: Sequence[Mapping[str, Any]], mean: Sequence[float], colour: str) -> None:
    """Writes whole scales of a selector beside its points, those apart from each other."""
    told = None
    for row, y in zip(rows, mean, strict=True):
        if row["scale"] is None or row["scale"] % 1 or (told is not None and row["ratio"] < 1.25 * told):
            continue
        told = row["ratio"]
        axes.annotate(
            f"{row['scale']:+g}" if row["scale"] else "0",
            (told, y),
            textcoords="offset points",
            xytext=(4, 5),
            fontsize=7,
            color=colour,
        )


def _of(content: Mapping[str, Any], group: str, scope: str) -> list[Mapping[str, Any]]:
    return [row for row in content["points"] if (row["group"], row["scope"]) == (group, scope)]


def _end(number: Mapping[str, Any], end: str) -> float:
    """End of an interval; the mean where there is none."""
    return float(number["mean"] if number[end] is None else number[end])
