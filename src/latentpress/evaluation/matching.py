"""Which answers of two systems are compared: those of sizes that keep as much of the same questions' contexts.

What a system was asked to keep and what it kept differ: a selector chooses, sentences have lengths of their own, short
texts leave little to round. So ratios are compared as they were reached, set by set, on the questions that both
answered. Where they differ by more than 5%, one side is taken between two of its fixed sizes, by a straight line over
log2 of the ratio, at the ratio that the other reached.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentpress.evaluation.resampling import Floats
from latentpress.evaluation.results import Described
from latentpress.evaluation.scores import Scored
from latentpress.evaluation.systems.base import Size

TOLERANCE = 1.05
"""Two ratios whose quotient is at most this are the same."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison on a set: a system, or a point between two sizes of it."""

    weights: Mapping[str, float]
    """Share of each system's score, by label; they add up to 1."""
    tokens: float
    """Of the contexts."""
    kept: float
    """Of them."""


class Sizes:
    """What systems kept of the context of each question.

    Args:
        scored: answers by set and label.
    """

    def __init__(self, scored: Mapping[tuple[str, str], Scored]) -> None:
        self._sizes: dict[tuple[str, str], tuple[Floats, Floats]] = {
            key: (found.tokens, found.kept) for key, found in scored.items()
        }

    def side(self, name: str, label: str, beside: Sequence[str] = ()) -> Side:
        """A system on the questions of a set that it and others answered."""
        tokens, kept = self._sizes[name, label]
        common = ~np.isnan([self._sizes[name, one][1] for one in (label, *beside)]).any(0)
        return Side({label: 1.0}, float(tokens[common].sum()), float(kept[common].sum()))

    def both(self, name: str, a: str, b: str) -> tuple[Side, Side] | None:
        """Two systems as they are, whatever they kept; None where one of them has answered nothing of a set."""
        if (name, a) not in self._sizes or (name, b) not in self._sizes:
            return None
        return self.side(name, a, [b]), self.side(name, b, [a])

    def octaves(self, name: str, label: str, others: Sequence[str]) -> dict[str, float]:
        """How much less other systems kept of the same questions, log2; without those of whom that is not known."""
        found = {}
        for other in others:
            if (name, label) not in self._sizes or (name, other) not in self._sizes:
                continue
            mine, theirs = self.side(name, label, [other]), self.side(name, other, [label])
            if mine.kept and theirs.kept:
                found[other] = math.log2(mine.kept / theirs.kept * theirs.tokens / mine.tokens)
        return found

    def around(self, name: str, label: str, line: Sequence[str]) -> tuple[Side, Side] | None:
        """A system, and the point between two sizes of another at the same ratio; None without one on both sides."""
        away = self.octaves(name, label, line)
        below = max((one for one in away if away[one] <= 0), key=away.__getitem__, default=None)
        above = min((one for one in away if away[one] >= 0), key=away.__getitem__, default=None)
        if below is None or above is None:
            return None
        part = 0.0 if away[above] == away[below] else -away[below] / (away[above] - away[below])
        mine = self.side(name, label, [below, above])
        weights = {below: 1.0} if below == above or part == 0 else {below: 1.0 - part, above: part}
        theirs = self.side(name, below, [label, above])
        return mine, Side(weights, theirs.tokens, theirs.tokens * mine.kept / mine.tokens)

    def match(
        self, name: str, a: str, b: Sequence[str], lines: Mapping[str, Sequence[str]]
    ) -> tuple[Side, Side] | None:
        """A system and another that keep as much on a set; None where there is no such comparison.

        Args:
            name: of the set.
            a: label of the one.
            b: labels of the other: the one of the same asked size, or all its fixed sizes to choose from.
            lines: the fixed sizes of each system, by its labels.
        """
        away = self.octaves(name, a, b)
        if not away:
            return None
        nearest = min(away, key=lambda one: abs(away[one]))
        if abs(away[nearest]) <= math.log2(TOLERANCE):
            return self.side(name, a, [nearest]), self.side(name, nearest, [a])
        found = self.around(name, a, lines.get(b[0], ()))
        if found is None and len(b) == 1 and (turned := self.around(name, b[0], lines.get(a, ()))):
            return turned[1], turned[0]
        return found


def line_name(one: Described) -> str:
    """What a system is called without its size."""
    return one.name if one.reader == "own" else f"{one.name}-{one.reader}"


def lines_of(systems: Mapping[str, Described]) -> dict[str, list[str]]:
    """Labels of all fixed sizes of a system, by what it is called without one."""
    made: dict[str, list[str]] = {}
    for label, one in systems.items():
        if one.size is not None and not one.size.chosen:
            made.setdefault(line_name(one), []).append(label)
    return made


def _asked_alike(first: Size, second: Size) -> bool:
    """Whether the same is asked for, the scales of selectors aside."""
    return (first.ratio, first.length) == (second.ratio, second.length)


def candidates(systems: Mapping[str, Described]) -> Iterator[tuple[str, str, list[str]]]:
    """Everything that is compared, where it keeps as much: a label, what it is compared with, and the labels of that.

    Two of the same asked ratio or length; a selector, or a length, with every other system at all its fixed sizes, of
    which the ratio that it came to picks; two selectors; everything with what has no size.
    """
    order = sorted(systems, key=lambda label: systems[label].kind != "press")
    for i, a in enumerate(order):
        for b in order[i + 1 :]:
            first, second = systems[a], systems[b]
            same = line_name(first) == line_name(second)
            if first.size is None or second.size is None or (_asked_alike(first.size, second.size) and not same):
                yield a, b, [b]
    lines = lines_of(systems)
    for a in order:
        size = systems[a].size
        if size is not None and size.ratio is None:
            for name, line in lines.items():
                if a not in line:
                    yield a, name, line
