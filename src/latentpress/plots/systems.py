"""How compared systems look in every picture of a comparison: a colour and a mark a name, a line a system.

Colours are those of Okabe and Ito for presses and of Paul Tol's muted scheme for the others: told apart by people who
see few colours too. Readers differ in strength; systems that see the question are dashed and hollow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

PRESS_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000")
COLOURS = (
    "#CC6677",
    "#117733",
    "#AA4499",
    "#44AA99",
    "#332288",
    "#DDAA33",
    "#882255",
    "#88CCEE",
    "#999933",
    "#777777",
)
PRESS_MARKS = "os^D"
MARKS = "vPX<>hp*dH"
_FAINT = 0.4
_READS_SOME = "focus"  # readers of presses that read some windows only
_SOME, _MARK_OF_SOME = "-.", "*"
_CALLED = {"full": "full text", "none": "no context"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How the points of a system are drawn."""

    colour: str
    """Of its name."""
    mark: str
    """Of its name."""
    width: float
    """Of its line; presses are thick."""
    alpha: float
    """Zero-shot readers are faint."""
    dashes: str
    """Solid, dashed where it sees the question, dotted where a selector chose the ratios, dots and dashes where a press
    reads some windows only."""
    hollow: bool
    """Marks are empty where it sees the question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One system at all its sizes."""

    name: str
    """Of the family or press."""
    look: Look
    """How it is drawn."""
    labels: tuple[str, ...]
    """Of its sizes, in `metrics.json`."""


def lines(systems: Mapping[str, Mapping[str, Any]]) -> list[Line]:
    """Lines of the systems with a size, presses last so that they lie on top.

    Args:
        systems: as `metrics.json` holds them.
    """
    groups: dict[tuple[str, str, str, bool, bool], list[str]] = {}
    for label, one in systems.items():
        if one["size"] is not None:
            key = (one["kind"], one["name"], one["reader"], one["sees_question"], one["size"].startswith("auto"))
            groups.setdefault(key, []).append(label)
    looks = _colours(systems)
    made = []
    for (kind, name, reader, sees, chosen), labels in groups.items():
        colour, mark = looks[name]
        some = reader.startswith(_READS_SOME)
        if some:
            name, mark = f"{name}, {reader}", _MARK_OF_SOME
        look = Look(
            colour=colour,
            mark=mark,
            width=2.4 if kind == "press" else 1.2,
            alpha=_FAINT if reader == "zero-shot" else 1.0,
            dashes="--" if sees else ":" if chosen else _SOME if some else "-",
            hollow=sees or chosen,
        )
        made.append((kind == "press", Line(name=name, look=look, labels=tuple(labels))))
    return [line for _, line in sorted(made, key=lambda one: one[0])]


def level_lines(systems: Mapping[str, Mapping[str, Any]], scope: str) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """Systems of no size in a scope: what to call them, their score, and how their horizontal line is drawn."""
    dashes = {"tuned": "-", "zero-shot": (0, (5, 2)), "prompt-tuned": (0, (5, 2, 1, 2))}
    for one in systems.values():
        if one["size"] is None and scope in one["scopes"]:
            colour = "#999999" if one["name"] == "none" else "#222222"
            style = {"color": colour, "linestyle": dashes.get(one["reader"], ":"), "linewidth": 1.1, "zorder": 1}
            called = f"{_CALLED.get(one['name'], one['name'])}, {one['reader']}"
            yield called, one["scopes"][scope]["headline"]["mean"], style


def marks(look: Look, *, hollow: bool | None = None) -> dict[str, Any]:
    """Arguments of a mark."""
    empty = look.hollow if hollow is None else hollow
    return {
        "marker": look.mark,
        "markersize": 6.0 if look.width > 2 else 5.0,
        "markerfacecolor": "white" if empty else look.colour,
        "markeredgecolor": look.colour,
        "color": look.colour,
        "alpha": look.alpha,
    }


def interval_bars(numbers: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """How far the intervals of some shares reach down and up, in points; no bar where there is no interval."""
    return [
        [0.0 if one[end] is None else 100 * abs(one["mean"] - one[end]) for one in numbers] for end in ("low", "high")
    ]


def legend(figure: Figure, drawn: Sequence[Line], more: Sequence[Line2D]) -> None:
    """Names by colour and mark, then what line and mark say, right of everything."""
    entries: dict[str, Line2D] = {}
    for line in sorted(drawn, key=lambda line: (-line.look.width, line.name)):
        style: dict[str, Any] = marks(line.look, hollow=False) | {"alpha": 1.0}
        dashes = _SOME if line.look.dashes == _SOME else "-"
        style |= {"linewidth": line.look.width, "linestyle": dashes}
        entries.setdefault(line.name, Line2D([], [], label=line.name, **style))
    handles = [*entries.values(), *more]
    figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False, handlelength=2.6)


def keys(drawn: Sequence[Line], systems: Mapping[str, Mapping[str, Any]]) -> list[Line2D]:
    """Entries of a legend for those differences that the lines show."""
    looks = [line.look for line in drawn]
    grey = "#555555"
    known: list[tuple[Callable[[Look], bool], str, dict[str, Any]]] = [
        (lambda look: look.alpha < 1, "faint: read zero-shot", {"alpha": _FAINT, "marker": "o"}),
        (lambda look: look.dashes == "--", "sees the question", _empty("--")),
        (lambda look: look.dashes == ":", "its selector chooses", _empty(":")),
    ]
    made = [
        Line2D([], [], color=grey, label=label, **style)
        for fits, label, style in known
        if any(fits(look) for look in looks)
    ]
    scopes = {scope for one in systems.values() for scope in one["scopes"]}
    bounds = {label: style for scope in scopes for label, _, style in level_lines(systems, scope)}
    return made + [Line2D([], [], label=label, **style) for label, style in sorted(bounds.items())]


def _colours(systems: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Colour and mark by name, given in the order of the systems; they repeat when there are no more."""
    presses = dict.fromkeys(one["name"] for one in systems.values() if one["kind"] == "press")
    others = dict.fromkeys(one["name"] for one in systems.values() if one["size"] is not None)
    made = {}
    for names, colours, shapes in (
        ([name for name in others if name not in presses], COLOURS, MARKS),
        (list(presses), PRESS_COLOURS, PRESS_MARKS),
    ):
        for i, name in enumerate(names):
            made[name] = (colours[i % len(colours)], shapes[i % len(shapes)])
    return made


def _empty(dashes: str) -> dict[str, Any]:
    return {"linestyle": dashes, "marker": "o", "markerfacecolor": "white"}
