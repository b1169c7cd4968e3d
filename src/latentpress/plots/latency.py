"""Quality over the time of an answer: a panel for each length of text, times as ratios to reading the full text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from latentpress.evaluation.metrics_file import chief_scope, measure_name
from latentpress.evaluation.sources import POOLED
from latentpress.plots.systems import Line, Look, interval_bars, keys, legend, level_lines, lines, marks

_THIN = 2  # lines thicker than this are presses, whose points are named


def figure_of(content: Mapping[str, Any]) -> Figure:
    """Quality over time, of a `metrics.json` with times."""
    lengths = content["speed"]["lengths"]
    timed = {label for every in lengths.values() for label in every}
    scope = chief_scope(content)
    drawn = [
        line
        for line in lines(content["systems"])
        if any(label in timed and scope in content["systems"][label]["scopes"] for label in line.labels)
    ]
    figure = Figure(figsize=(3.6 + 4.0 * len(lengths), 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels: list[Axes] = list(figure.subplots(1, len(lengths), sharey=True, squeeze=False)[0])
    for axes, (tokens, every) in zip(panels, lengths.items(), strict=True):
        _panel(axes, content, every, drawn)
        axes.set_title(f"texts of {int(tokens):,} tokens", fontsize=10, loc="left")
    where = f"mean of {len(content['pooled']['sets'])} sets" if scope == POOLED else scope
    panels[0].set_ylabel(f"{measure_name(content, scope)}, {where}, 95% intervals")
    panels[0].set_ylim(bottom=0)
    figure.supxlabel("time of an answer over that from the full text (log scale); left is quicker", fontsize=10)
    legend(figure, drawn, [*_states(drawn), *keys(drawn, content["systems"])])
    return figure


def _panel(
    axes: Axes, content: Mapping[str, Any], every: Mapping[str, Mapping[str, Any]], drawn: Sequence[Line]
) -> None:
    """One length: each system from the text on, and from what is stored of it."""
    systems, scope = content["systems"], chief_scope(content)
    for depth, line in enumerate(drawn, 2):
        labels = [label for label in line.labels if label in every and scope in systems[label]["scopes"]]
        for part, hollow in (("total", False), ("stored_total", True)):
            points = sorted((every[label]["kept"], label) for label in labels if every[label][part])
            if points:
                _line(axes, line.look, [label for _, label in points], every, part, systems, scope, hollow, depth)
    for _, level, style in level_lines(systems, scope):
        axes.axhline(100 * level, **style)
    axes.axvline(1, color="#222222", linewidth=0.8, alpha=0.6, zorder=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(alpha=0.25)


def _line(
    axes: Axes,
    look: Look,
    labels: Sequence[str],
    every: Mapping[str, Mapping[str, Any]],
    part: str,
    systems: Mapping[str, Any],
    scope: str,
    hollow: bool,
    depth: int,
) -> None:
    ratios = [every[label][part]["ratio"] for label in labels]
    scores = [systems[label]["scopes"][scope]["headline"] for label in labels]
    axes.errorbar(
        [ratio["median"] for ratio in ratios],
        [100 * score["mean"] for score in scores],
        xerr=[[r["median"] - r["low"] for r in ratios], [r["high"] - r["median"] for r in ratios]],
        yerr=interval_bars(scores),
        linestyle=":" if hollow else look.dashes,
        linewidth=look.width,
        elinewidth=0.8,
        zorder=depth,
        **marks(look, hollow=hollow),
    )
    if look.width > _THIN:
        for label, ratio, score in zip(labels, ratios, scores, strict=True):
            at = (ratio["median"], 100 * score["mean"])
            size = systems[label]["size"]
            axes.annotate(size, at, (6, -10), textcoords="offset points", fontsize=7, color=look.colour, zorder=depth)


def _states(drawn: Sequence[Line]) -> list[Line2D]:
    """What full and empty marks say here."""
    grey: dict[str, Any] = {"color": "#555555", "marker": "o"}
    made = [Line2D([], [], label="from the text on", **grey)] if drawn else []
    made.append(Line2D([], [], label="from what is stored", linestyle=":", markerfacecolor="white", **grey))
    return [
        *made,
        Line2D([], [], label="time from the full text", marker="|", markersize=11, linestyle="", color="#777777"),
    ]
