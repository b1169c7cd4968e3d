"""Systems against each other: paired differences, shares of what the full text gives, and selectors against ratios.

All from the same resamples, so every interval is a paired one. Over several sets a number is the mean of the sets'
numbers, and each set is resampled by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentpress.evaluation.matching import TOLERANCE, Side, Sizes, candidates, line_name, lines_of
from latentpress.evaluation.resampling import Floats, SetSamples, interval, word
from latentpress.evaluation.results import Described
from latentpress.evaluation.sources import POOLED

CEILING = ("full", "tuned")
"""Name and reader of the bound whose score the retained share is taken of: all of the text, by a trained reader."""
Number = dict[str, Any]
"""`mean`, `low` and `high`, with what else there is to say."""
Pick = Callable[[Floats], Floats]
"""From means of systems in the last axis to a number of theirs."""
_LEAST_POINTS = 3


@dataclass(frozen=True, slots=True)
class Scopes:
    """What numbers are of: each set, and all pooled sets together."""

    samples: Mapping[str, SetSamples]
    """By set."""
    pooled: Sequence[str]
    """Sets whose headline measure is the same; fewer than two pool nothing."""
    incomplete: Collection[str] = ()
    """Labels of systems that have not answered all that they are asked; pooled numbers leave them out."""

    def numbers(self, labels: Sequence[str], pick: Pick) -> dict[str, Number]:
        """A number of some systems on each set that all of them answered, and `pooled` where they answered all sets.

        Args:
            labels: of the systems.
            pick: from means `[..., systems]` to the number `[...]`; of means over sets where pooled.
        """
        every = {name: _means(one, labels) for name, one in self.samples.items() if one.count(labels)}
        made = {
            name: _number(pick(means), pick(resampled), n=self.samples[name].count(labels))
            for name, (means, resampled) in every.items()
        }
        if self._pools(every, labels):
            means = np.mean([every[name][0] for name in self.pooled], 0)
            resampled = np.mean([every[name][1] for name in self.pooled], 0)
            total = sum(made[name]["n"] for name in self.pooled)
            made[POOLED] = _number(pick(means), pick(resampled), n=total)
        return made

    def difference(self, matched: Mapping[str, tuple[Side, Side]]) -> dict[str, Number]:
        """What one side is ahead of the other on each set, and `pooled`, the mean of the sets' differences.

        Args:
            matched: the two sides by set.

        Returns:
            Numbers with `a_of` and `b_of`, the labels that each side is made of, and `ratios`, what both reached.
        """
        made, drawn = {}, []
        for name, sides in matched.items():
            found = ahead(self.samples[name], sides)
            if found is None:
                continue
            mean, resampled, count = found
            resampled = _tested(self.samples[name], _labels(sides), resampled)
            made[name] = _number(mean, resampled, n=count) | _reached([sides])
            drawn += [resampled] if name in self.pooled else []
        every = [matched[name] for name in self.pooled if name in made]
        if self._pools(made, [label for sides in every for side in sides for label in side.weights]):
            mean = np.mean([made[name]["mean"] for name in self.pooled])
            total = sum(made[name]["n"] for name in self.pooled)
            made[POOLED] = _number(mean, np.mean(drawn, 0), n=total) | _reached(every)
        return made

    def _pools(self, sets: Collection[str], labels: Sequence[str]) -> bool:
        """Whether numbers of some sets and systems have a pooled one."""
        whole = len(self.pooled) > 1 and all(name in sets for name in self.pooled)
        return whole and not any(label in self.incomplete for label in labels)


def ahead(samples: SetSamples, sides: tuple[Side, Side]) -> tuple[float, Floats, int] | None:
    """What one side is ahead of the other on a set.

    Returns:
        The difference, that of each resample, and the number of questions that all systems of both sides answered;
        None where there is no such question.
    """
    labels = _labels(sides)
    count = samples.count(labels)
    if not count:
        return None
    means, resampled = samples.means(labels)
    weights = np.array([sides[0].weights.get(one, 0.0) - sides[1].weights.get(one, 0.0) for one in labels])
    return float(means @ weights), resampled @ weights, count


def _labels(sides: Sequence[Side]) -> list[str]:
    """Systems that sides are made of, each once."""
    return list(dict.fromkeys(label for side in sides for label in side.weights))


def _means(samples: SetSamples, labels: Sequence[str]) -> tuple[Floats, Floats]:
    """Means and their resamples, as `_tested` leaves them."""
    means, resampled = samples.means(labels)
    return means, _tested(samples, labels, resampled)


def _tested(samples: SetSamples, labels: Sequence[str], resampled: Floats) -> Floats:
    """Resamples of a number of some systems, NaN for too few contexts."""
    return np.full_like(resampled, np.nan) if samples.few(labels) else resampled


def own(means: Floats) -> Floats:
    """The first system's mean itself."""
    return np.asarray(means[..., 0])


def share(means: Floats) -> Floats:
    """First system's mean over the second's; NaN where that is zero."""
    over, under = means[..., 0], means[..., 1]
    return np.divide(over, under, out=np.full_like(over, np.nan), where=under > 0)


def pairs(scopes: Scopes, systems: Mapping[str, Described], sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Paired differences of every two systems that keep as much, and of each with those of no size.

    Args:
        scopes: what they are of.
        systems: by label.
        sizes: what they kept.

    Yields:
        `a`, `b` and `scopes`, the difference a - b by scope, as `Scopes.difference` gives it, with its `word`. A press
        comes first. `b` is a system without its size where a selector is compared with whatever size kept as much.
    """
    fixed = {label: line for line in lines_of(systems).values() for label in line}
    for a, b, labels in candidates(systems):
        free = systems[a].size is None or systems[labels[0]].size is None
        sides = {
            name: sizes.both(name, a, b) if free else sizes.match(name, a, labels, fixed) for name in scopes.samples
        }
        matched = {name: found for name, found in sides.items() if found is not None}
        numbers = scopes.difference(matched)
        for number in numbers.values():
            number["word"] = word(number["low"], number["high"])
        if numbers:
            yield {"a": a, "b": b, "scopes": numbers}


def ceiling_of(systems: Mapping[str, Described]) -> str | None:
    """Label of the reader of the full text that was trained, if it takes part."""
    return next((label for label, one in systems.items() if (one.name, one.reader) == CEILING), None)


def losses(every: Sequence[Mapping[str, Any]], systems: Mapping[str, Described]) -> list[dict[str, Any]]:
    """Where a press is worse than another system that is none, as `pairs` has it; the largest difference first."""
    presses = {label for label, one in systems.items() if one.kind == "press"}
    presses |= {line_name(systems[label]) for label in presses}
    found = [
        {"press": pair["a"], "against": pair["b"], "scope": scope, **number}
        for pair in every
        if pair["a"] in presses and pair["b"] not in presses
        for scope, number in pair["scopes"].items()
        if number["word"] == "worse"
    ]
    return sorted(found, key=lambda loss: float(loss["mean"]))


def selector_gains(
    scopes: Scopes,
    systems: Mapping[str, Described],
    sizes: Sizes,
    spread: Mapping[tuple[str, str], float],
) -> list[dict[str, Any]]:
    """What a selector gains over fixed ratios of the same press, at the ratio that it comes to on average.

    The score of the fixed ratios there is that of the two around it, joined by a straight line over log2 of the ratio.

    Args:
        scopes: sets to compare on.
        systems: by label.
        sizes: what they kept.
        spread: standard deviation of the log2 ratios that a system came to question by question, by set and label.

    Returns:
        For each press that was asked for a selector's sizes and for fixed ones: `press`, `points` (each with `size`,
        `set`, `ratio`, `spread`, the gain, and `at_lowest`: the ratio is within 5% of the press's lowest fixed one
        there, and nothing can be gained), and of the points that are not `at_lowest` `gain`, their mean, null if there
        is none, and `slope`, what is gained for each octave of spread by least squares, null for fewer than three.
    """
    made = []
    lines = lines_of(systems)
    for press in dict.fromkeys(one.name for one in systems.values() if one.kind == "press"):
        points, resampled = [], []
        for label, one in systems.items():
            if one.name != press or one.size is None or not one.size.chosen:
                continue
            for name, samples in scopes.samples.items():
                sides = sizes.around(name, label, lines.get(line_name(one), ()))
                found = None if sides is None else ahead(samples, sides)
                if sides is None or found is None:
                    continue
                mean, draws, n = found
                draws = _tested(samples, _labels(sides), draws)
                resampled.append(draws)
                about: Number = {"size": str(one.size), "set": name, "ratio": sides[0].tokens / sides[0].kept}
                about["spread"] = spread[name, label]
                away = sizes.octaves(name, label, lines[line_name(one)])
                about["at_lowest"] = min(away.values()) >= -math.log2(TOLERANCE)
                points.append(about | _number(mean, draws, n=n))
        if points:
            above = [i for i, point in enumerate(points) if not point["at_lowest"]]
            told, drawn = [points[i] for i in above], [resampled[i] for i in above]
            gain = None
            if told:
                gain = _number(np.mean([point["mean"] for point in told]), np.mean(drawn, 0), n=len(told))
            made.append({"press": press, "points": points, "gain": gain, "slope": _slope(told, drawn)})
    return made


def _slope(points: Sequence[Mapping[str, Any]], resampled: Sequence[Floats]) -> Number | None:
    """Gain for each octave of spread, a straight line through the points."""
    if len(points) < _LEAST_POINTS:
        return None
    spread = np.array([point["spread"] for point in points])
    centred = spread - spread.mean()
    if not np.isfinite(centred).all() or not centred.any():
        return None
    weights = centred / (centred @ centred)
    gains = np.array([point["mean"] for point in points])
    return _number(gains @ weights, np.stack(resampled, 1) @ weights, n=len(points))


def _reached(every: Sequence[tuple[Side, Side]]) -> Number:
    """What both sides of a comparison on some sets are made of, and the ratios that they reached."""
    of: list[list[str]] = []
    ratios = []
    for sides in zip(*every, strict=True):
        of.append(_labels(sides))
        tokens, kept = sum(side.tokens for side in sides), sum(side.kept for side in sides)
        ratios.append(tokens / kept if kept else float("nan"))
    return {"a_of": of[0], "b_of": of[1], "ratios": ratios}


def _number(mean: Any, resampled: Floats, *, n: int) -> Number:
    low, high = interval(resampled)
    return {"mean": float(mean), "low": low, "high": high, "n": n}
