"""Numbers and tables of the evaluation as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from latentpress.evaluation.resampling import UNTESTED

NONE = "–"
"""Stands where there is no number."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; bars inside cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def points(share: float | None, *, sign: bool = False) -> str:
    """A share of one in points of a hundred: 41.7."""
    return NONE if share is None else f"{100 * share:{'+' if sign else ''}.1f}"


def with_interval(number: Mapping[str, Any] | None) -> str:
    """`41.7 (38.0 to 45.3)`, in points."""
    if number is None or number["mean"] is None:
        return NONE
    return f"{points(number['mean'])}{between(number)}"


def between(number: Mapping[str, Any], *, sign: bool = False) -> str:
    """` (38.0 to 45.3)`, in points; empty without an interval."""
    if number["low"] is None:
        return ""
    return f" ({points(number['low'], sign=sign)} to {points(number['high'], sign=sign)})"


def verdict(number: Mapping[str, Any] | None) -> str:
    """A paired difference in words: `better by 7.0 (4.1 to 9.9)`."""
    if number is None:
        return NONE
    if number["word"] in ("level", UNTESTED):
        return f"{number['word']}: {points(number['mean'], sign=True)}{between(number, sign=True)}"
    least, most = sorted(abs(number[end]) for end in ("low", "high"))
    return f"{number['word']} by {points(abs(number['mean']))} ({points(least)} to {points(most)})"


def ratio(value: float | None) -> str:
    """A ratio: `x3.98`; without one where nothing is kept."""
    return NONE if value is None else f"x{value:.3g}"


def spread(values: Mapping[str, float] | None, *, digits: int = 2) -> str:
    """Median with the lowest and highest of the rounds."""
    if values is None:
        return NONE
    middle, low, high = (f"{values[name]:.{digits}f}" for name in ("median", "low", "high"))
    return middle if low == high else f"{middle} ({low} to {high})"


def listed(names: Iterable[str]) -> str:
    """Names one after another, a dash for none."""
    return ", ".join(names) or NONE
