"""Systems against each other: paired differences, shares of what the full text gives, and selectors against ratios.

All from the same resamples, so every interval is a paired one. Over several sets a number is the mean of the sets'
numbers, and each set is resampled by itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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

    def numbers(self, labels: Sequence[str], pick: Pick) -> dict[str, Number]:
        """A number of some systems on each set that all of them answered, and `pooled` where they answered all sets.

        Args:
            labels: of the systems.
            pick: from means `[..., systems]` to the number `[...]`; of means over sets where pooled.
        """
        every = {name: self.samples[name].means(labels) for name in self.samples if self.samples[name].count(labels)}
        made = {
            name: _number(pick(means), pick(resampled), n=self.samples[name].count(labels))
            for name, (means, resampled) in every.items()
        }
        if len(self.pooled) > 1 and all(name in every for name in self.pooled):
            means = np.mean([every[name][0] for name in self.pooled], 0)
            resampled = np.mean([every[name][1] for name in self.pooled], 0)
            total = sum(made[name]["n"] for name in self.pooled)
            made[POOLED] = _number(pick(means), pick(resampled), n=total)
        return made


def own(means: Floats) -> Floats:
    """The first system's mean itself."""
    return np.asarray(means[..., 0])


def difference(means: Floats) -> Floats:
    """First system's mean less the second's."""
    return np.asarray(means[..., 0] - means[..., 1])


def share(means: Floats) -> Floats:
    """First system's mean over the second's; NaN where that is zero."""
    over, under = means[..., 0], means[..., 1]
    return np.divide(over, under, out=np.full_like(over, np.nan), where=under > 0)


def pairs(scopes: Scopes, systems: Mapping[str, Described], at: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Paired differences of every two systems that are compared at the same ratio, and of each with those of no size.

    Args:
        scopes: what they are of.
        systems: by label.
        at: ratio at which each system with a size is compared, as `scores.compared_at` gives it.

    Yields:
        `a`, `b`, `ratio` (null if neither has a size) and `scopes`, the difference a - b with its `word` by scope. A
        press comes first.
    """
    order = sorted(systems, key=lambda label: systems[label].kind != "press")
    for a, b in itertools.combinations(order, 2):
        sized = [label for label in (a, b) if systems[label].size is not None]
        ratios = {at.get(label) for label in sized}
        if len(ratios) > 1 or (len(sized) == 2 and None in ratios):
            continue
        found = scopes.numbers([a, b], difference)
        for number in found.values():
            number["word"] = word(number["low"], number["high"])
        if found:
            yield {"a": a, "b": b, "ratio": next(iter(ratios), None), "scopes": found}


def ceiling_of(systems: Mapping[str, Described]) -> str | None:
    """Label of the reader of the full text that was trained, if it takes part."""
    return next((label for label, one in systems.items() if (one.name, one.reader) == CEILING), None)


def losses(every: Sequence[Mapping[str, Any]], systems: Mapping[str, Described]) -> list[dict[str, Any]]:
    """Where a press is worse than another system that is none, as `pairs` has it; the largest difference first."""
    found = [
        {"press": pair["a"], "against": pair["b"], "ratio": pair["ratio"], "scope": scope, **number}
        for pair in every
        if systems[pair["a"]].kind == "press" and systems[pair["b"]].kind != "press"
        for scope, number in pair["scopes"].items()
        if number["word"] == "worse"
    ]
    return sorted(found, key=lambda loss: float(loss["mean"]))


def selector_gains(
    scopes: Scopes,
    systems: Mapping[str, Described],
    rows: Mapping[tuple[str, str], Mapping[str, Any]],
    spread: Mapping[tuple[str, str], float],
) -> list[dict[str, Any]]:
    """What a selector gains over fixed ratios of the same press, at the ratio that it comes to on average.

    The score of the fixed ratios there is that of the two around it, joined by a straight line over log2 of the ratio.

    Args:
        scopes: sets to compare on.
        systems: by label.
        rows: what each system came to, by set and label.
        spread: standard deviation of the log2 ratios that a system came to question by question, by set and label.

    Returns:
        For each press that was asked for a selector's sizes and for fixed ones: `press`, `points` (each with `size`,
        `set`, `ratio`, `spread` and the gain), `gain`, their mean, and `slope`, what is gained for each octave of
        spread by least squares, null for fewer than three points.
    """
    made = []
    for press in dict.fromkeys(one.name for one in systems.values() if one.kind == "press"):
        points, resampled = [], []
        for label, one in systems.items():
            if one.name != press or one.size is None or one.size.ratio is not None:
                continue
            for name, samples in scopes.samples.items():
                around = _around(label, name, systems, rows)
                if around is None or not samples.count([label, *around[:2]]):
                    continue
                lower, upper, part = around
                means, draws = samples.means([label, lower, upper])
                weights = np.array([1.0, part - 1.0, -part])
                resampled.append(draws @ weights)
                about = {"size": str(one.size), "set": name, "ratio": rows[name, label]["ratio"]}
                about["spread"] = spread[name, label]
                points.append(about | _number(means @ weights, draws @ weights, n=samples.count([label, lower, upper])))
        if points:
            gain = np.mean([point["mean"] for point in points])
            total = _number(gain, np.mean(resampled, 0), n=len(points))
            made.append({"press": press, "points": points, "gain": total, "slope": _slope(points, resampled)})
    return made


def _around(
    label: str, name: str, systems: Mapping[str, Described], rows: Mapping[tuple[str, str], Mapping[str, Any]]
) -> tuple[str, str, float] | None:
    """Fixed ratios of the same press below and above, and how far on the way between them; None without both."""
    if not math.isfinite(rows.get((name, label), {}).get("ratio", math.nan)):
        return None
    wanted = math.log2(rows[name, label]["ratio"])
    fixed = {
        math.log2(row["ratio"]): other
        for (of, other), row in rows.items()
        if of == name
        and (systems[other].kind, systems[other].name) == ("press", systems[label].name)
        and (size := systems[other].size) is not None
        and size.ratio is not None
        and row["ratio"] > 0
    }
    below = max((at for at in fixed if at <= wanted), default=None)
    above = min((at for at in fixed if at >= wanted), default=None)
    if below is None or above is None:
        return None
    if below == above:
        return fixed[below], fixed[above], 0.0
    return fixed[below], fixed[above], (wanted - below) / (above - below)


def _slope(points: Sequence[Mapping[str, Any]], resampled: Sequence[Floats]) -> Number | None:
    """Gain for each octave of spread, a straight line through the points."""
    spread = np.array([point["spread"] for point in points])
    centred = spread - spread.mean()
    if len(points) < _LEAST_POINTS or not np.isfinite(centred).all() or not centred.any():
        return None
    weights = centred / (centred @ centred)
    gains = np.array([point["mean"] for point in points])
    return _number(gains @ weights, np.stack(resampled, 1) @ weights, n=len(points))


def _number(mean: Any, resampled: Floats, *, n: int) -> Number:
    low, high = interval(resampled)
    return {"mean": float(mean), "low": low, "high": high, "n": n}
