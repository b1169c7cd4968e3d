"""The picture of an analysis, drawn from its JSON file alone.

draw(out / "sweep.json")    writes sweep.png and sweep.svg beside it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from latentpress.analysis.report import decimals, read
from latentpress.plots import curves
from latentpress.plots.systems import COLOURS, MARKS, PRESS_COLOURS, PRESS_MARKS
from latentpress.training.plot import save

_BLUE, _RED = PRESS_COLOURS[:2]
_DOTS = 24  # an octave: ratios nearer to each other share a dot
_AREA = 160.0  # points squared, of a dot that stands for all contexts of a genre


def draw(path: Path) -> list[Path]:
    """Draws an analysis beside its numbers.

    Args:
        path: the JSON file.

    Returns:
        The pictures.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    content = read(path)
    figure = _FIGURES[content["analysis"]](content)
    made = [path.with_suffix(f".{kind}") for kind in ("png", "svg")]
    for picture in made:
        save(figure, picture)
    return made


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _variance(content: Mapping[str, Any]) -> Figure:
    """A panel for sets and one for genres: a mark a point, and the line through them."""
    kinds = [kind for kind in ("set", "genre") if any(point["kind"] == kind for point in content["points"])]
    figure = _figure(4.6 * len(kinds) + 2.2, 4.8)
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        points = [point for point in content["points"] if point["kind"] == kind]
        for i, point in enumerate(points):
            colour, mark = _look(i)
            gain = point["gain"]
            away = (
                [[0.0], [0.0]] if gain["low"] is None else [[gain["mean"] - gain["low"]], [gain["high"] - gain["mean"]]]
            )
            axes.errorbar(
                [point["variance"]],
                [100 * gain["mean"]],
                yerr=100 * np.abs(away),
                label=point["name"],
                color=colour,
                marker=mark,
                linestyle="none",
                elinewidth=0.8,
            )
        _line(axes, content["fits"].get(kind))
        axes.axhline(0, color="#222222", linewidth=0.8)
        axes.set_xlabel("variance of log2 of the chosen ratios", fontsize=9)
        axes.set_ylabel("ahead of fixed ratios, points", fontsize=9)
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=8)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7, frameon=False)
    return figure


def _line(axes: Axes, fit: Mapping[str, Any] | None) -> None:
    if fit is None:
        axes.set_title("too few points for a line", fontsize=9, loc="left")
        return
    x, y, low, high = np.array(fit["line"]).T
    axes.plot(x, 100 * y, color="#555555", linewidth=1.2)
    axes.fill_between(x, 100 * low, 100 * high, color="#555555", alpha=0.13, linewidth=0)
    axes.set_title(f"correlation {decimals(fit['correlation'])}", fontsize=9, loc="left")


def _genres(content: Mapping[str, Any]) -> Figure:
    """A box a genre, and dots as large as the share of its contexts, the hardest pressed on top."""
    rows = content["genres"]
    figure = _figure(7.6, 1.6 + 0.42 * len(rows))
    axes = figure.add_subplot()
    axes.boxplot(
        [row["ratios"] for row in rows],
        orientation="horizontal",
        widths=0.55,
        showfliers=False,
        medianprops={"color": _RED, "linewidth": 1.6},
        boxprops={"color": "#777777"},
        whiskerprops={"color": "#777777"},
        capprops={"color": "#777777"},
    )
    for i, row in enumerate(rows, 1):
        places, counts = np.unique(np.rint(_DOTS * np.log2(row["ratios"])), return_counts=True)
        area = 6 + _AREA * counts / counts.sum()
        dots = {"s": area, "color": _BLUE, "alpha": 0.6, "linewidths": 0, "zorder": 3}
        axes.scatter(2 ** (places / _DOTS), np.full(len(places), i), **dots)
        axes.plot([row["mean"]], [i], marker="D", markersize=5, color="white", markeredgecolor=_RED, zorder=4)
    curves.ratio_axis(axes, [ratio for row in rows for ratio in row["ratios"]])
    axes.set_yticks(range(1, len(rows) + 1), [f"{row['genre']} ({row['contexts']:,})" for row in rows])
    axes.set_xlabel(
        f"ratio that contexts came to at scale {content['scale']:g} (log scale)\n"
        "dots: share of contexts; line: median; diamond: mean",
        fontsize=9,
    )
    return figure


def _rounding(content: Mapping[str, Any]) -> Figure:
    """Sizes chosen; ratio and difference over the scale; scores where there are any."""
    scored = content["scores"] is not None and bool(content["scores"]["scopes"])
    figure = _figure(9.0 + 4.2 * scored, 4.6)
    grid = figure.add_gridspec(2, 2 + scored)
    colours = {name: look["color"] for name, look in curves.looks(list(content["chosen"])).items()}
    bars = figure.add_subplot(grid[:, 0])
    sizes = [str(size) for size in content["candidates"]]
    for i, (name, chosen) in enumerate(content["chosen"].items()):
        places = np.arange(len(sizes)) + 0.4 * (i - 0.5)
        bars.bar(places, [chosen.get(size, 0) for size in sizes], width=0.38, color=colours[name], label=name)
    bars.set_xticks(range(len(sizes)), sizes)
    bars.set_xlabel(f"size chosen at scale {content['scale']:g}", fontsize=9)
    bars.set_ylabel("choices", fontsize=9)
    bars.legend(fontsize=8, frameon=False)
    scales = [row["scale"] for row in content["scales"]]
    ratio, differ = figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 1])
    for name, colour in colours.items():
        ratio.plot(scales, [row[name] for row in content["scales"]], color=colour, marker="o", markersize=3)
    ratio.set_yscale("log", base=2)
    ticks = [2.0**i for i in range(11)]
    reached = [row[name] for row in content["scales"] for name in colours]
    ratio.set_yticks(
        *zip(*((tick, f"{tick:g}x") for tick in ticks if min(reached) / 1.5 <= tick <= max(reached) * 1.5), strict=True)
    )
    ratio.set_ylabel("ratio", fontsize=9)
    ratio.tick_params(labelbottom=False)
    differ.plot(scales, [100 * row["differ"] for row in content["scales"]], color="#222222", marker="o", markersize=3)
    differ.set_ylim(bottom=0)
    differ.set_ylabel("choices that differ, %", fontsize=9)
    differ.set_xlabel("scale", fontsize=9)
    figure.align_ylabels([ratio, differ])
    if scored:
        axes = figure.add_subplot(grid[:, 2])
        curves.scores(axes, content["scores"], content["scores"]["scopes"][0])
        axes.legend(fontsize=8, frameon=False)
    for axes in (bars, ratio, differ):
        axes.grid(alpha=0.25)
        axes.minorticks_off()
        axes.tick_params(labelsize=8)
    return figure


def _head(content: Mapping[str, Any]) -> Figure:
    """Predictions over labels, a panel for the head and each line."""
    drawn = [row for row in content["predictors"] if row["pearson"] is not None]
    figure = _figure(3.7 * len(drawn), 4.4)
    labels = [one["label"] for one in content["passages"]]
    every = labels + [one[row["name"]] for row in drawn for one in content["passages"]]
    ends = (min(every) - 0.2, max(every) + 0.2)
    for axes, row in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        axes.plot(ends, ends, color="#999999", linewidth=1)
        values = [one[row["name"]] for one in content["passages"]]
        axes.plot(labels, values, linestyle="none", marker="o", markersize=3.5, alpha=0.45, color=_BLUE)
        axes.set_title(
            f"{row['name']}: {row['about']}\nerror {decimals(row['mae'])}\ncorrelation {decimals(row['pearson'])}",
            fontsize=8.5,
            loc="left",
        )
        axes.set_xlim(*ends)
        axes.set_ylim(*ends)
        axes.set_aspect("equal")
        axes.set_xlabel(f"label ({content['source']}), log2 of the ratio", fontsize=9)
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=8)
    figure.axes[0].set_ylabel("predicted", fontsize=9)
    return figure


def _look(i: int) -> tuple[str, str]:
    colours, marks = (*PRESS_COLOURS, *COLOURS), (*PRESS_MARKS, *MARKS)
    return colours[i % len(colours)], marks[(i + i // len(colours)) % len(marks)]


_FIGURES: Mapping[str, Callable[[Mapping[str, Any]], Figure]] = {
    "extraction": curves.figure_of,
    "policies": curves.figure_of,
    "sweep": curves.figure_of,
    "lengths": curves.figure_of,
    "variance": _variance,
    "genres": _genres,
    "rounding": _rounding,
    "head": _head,
}
