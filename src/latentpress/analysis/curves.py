"""Scores over the ratio that was reached, and paired differences at the same ratio: extraction, policies, the sweep.

Every point of a group is held against the first group at the ratio that the point came to: between two sizes of that
group by a straight line over log2 of the ratio, on the same questions (`latentpress.evaluation.matching`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from latentpress.analysis.comparison import Comparison
from latentpress.analysis.groups import Group, named_groups, parse_groups
from latentpress.analysis.statistics import rounded
from latentpress.errors import InputError
from latentpress.evaluation.matching import Side
from latentpress.evaluation.resampling import word
from latentpress.evaluation.systems.base import Size

SCALES = tuple(step / 2 for step in range(-4, 9))
"""Of the paper's sweep: -2 to 4 by 0.5."""
_ABOUT = {
    "extraction": "Ways to extract latents, at equal ratios",
    "policies": "Ratio policies, over the ratio that was reached",
    "sweep": "The selector at all scales against fixed ratios of the same press",
    "lengths": "Selectors by length alone against fixed ratios of the same press",
}
FIXED, _SELECTOR = "fixed ratios", "selector"
_NOTHING = Side({}, 0.0, 0.0)


def extraction(
    comparison: Comparison, *, groups: str | None = None, called: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Systems side by side; see `curves` for what comes back.

    Args:
        comparison: whose systems.
        groups: their names, see `parse_groups`; every press by itself if None.
        called: names of presses by fingerprint where `groups` is None, such as their compressors.
    """
    made = named_groups(comparison, called) if groups is None else parse_groups(groups, comparison)
    return curves(comparison, made, "extraction")


def policies(
    comparison: Comparison, *, groups: str | None = None, called: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The same of ratio policies; arguments are those of `extraction`."""
    made = named_groups(comparison, called) if groups is None else parse_groups(groups, comparison)
    return curves(comparison, made, "policies")


def sweep(comparison: Comparison, press: str, *, scales: Sequence[float] = SCALES) -> dict[str, Any]:
    """A selector at several scales against the same press's fixed ratios; each point of it has its `scale`.

    Raises:
        InputError: the press is not there, lacks fixed ratios or scales; with the command that adds them.
    """
    lines = Group(name=FIXED, **single(comparison, fixed_labels(comparison, press)))
    chosen = Group(name=_SELECTOR, **single(comparison, scaled_labels(comparison, press, scales)))
    return {**curves(comparison, [lines, chosen], "sweep"), "press": press, "scales": list(scales)}


def curves(comparison: Comparison, groups: Sequence[Group], analysis: str) -> dict[str, Any]:
    """Points of groups, and what each is ahead of the first group.

    Returns:
        Plain data. `points` has a row for each point and scope: `group`, `size`, `scale` (of a selector), `labels`,
        `scope`, `ratio` (reached), `n`, `score`; and at the same ratio and on common questions, null where the first
        group has no two sizes around it, `reference` (its score) and `difference` (to it, with `word`).

    Raises:
        InputError: fewer than two groups.
    """
    if len(groups) < 2:
        raise InputError(
            f"{comparison.place}: only one group ({groups[0].name}) to compare; name at least two with --groups "
            f"NAME=SYSTEM,OTHER=SYSTEM (it holds {', '.join(comparison.names)})"
        )
    first, *others = groups
    points = [row for size, labels in first.points for row in _rows(comparison, first.name, size, labels, None)]
    for group in others:
        for size, labels in group.points:
            points += _rows(comparison, group.name, size, labels, first.members)
    order = {group.name: i for i, group in enumerate(groups)}
    points.sort(key=lambda row: (order[row["group"]], row["ratio"]))
    scopes = [scope for scope in comparison.scope_names if any(row["scope"] == scope for row in points)]
    notes = comparison.unfinished(label for group in groups for label in group.labels)
    alone = [row for row in points if row["group"] != first.name and row["difference"] is None]
    if alone:
        told = dict.fromkeys(f"{row['group']} {row['size']}" for row in alone)
        notes.append(
            f"Without a difference on some set, as {first.name} has no sizes on both sides of the ratio there: "
            f"{', '.join(told)}."
        )
    return {
        "analysis": analysis,
        "about": _ABOUT[analysis],
        "place": comparison.place,
        "groups": {group.name: list(group.labels) for group in groups},
        "reference": first.name,
        "scopes": scopes,
        "measures": {scope: comparison.measure(scope) for scope in scopes},
        "points": points,
        "notes": notes,
    }


def fixed_labels(comparison: Comparison, press: str) -> list[str]:
    """Labels of a press at its fixed ratios.

    Raises:
        InputError: there are none.
    """
    found = comparison.labels(press, chosen=False)
    if not found:
        raise InputError(
            f"{comparison.place} holds no fixed ratios of {press!r}, against which its selector is held; add the "
            f"press's own with `{comparison.command(press, ['2', '4', '8', '16', '32'])}`"
        )
    return found


def scaled_labels(comparison: Comparison, press: str, scales: Sequence[float]) -> list[str]:
    """Labels of a press's selector at some scales.

    Raises:
        InputError: some are missing.
    """
    there = {str(comparison.systems[label].size): label for label in comparison.labels(press, chosen=True)}
    sizes = [str(Size(scale=scale)) for scale in scales]
    missing = [size for size in sizes if size not in there]
    if missing:
        rest = f", or analyse what is there ({', '.join(there)})" if there else ""
        raise InputError(
            f"{comparison.place} lacks {len(missing)} of {len(sizes)} scales of the selector of {press!r} "
            f"({', '.join(missing)}); add them with `{comparison.command(press, missing)}`{rest}; "
            "a press without a selector has none"
        )
    return [there[size] for size in sizes]


def matched(
    comparison: Comparison, name: str, labels: Sequence[str], lines: Sequence[Sequence[str]]
) -> tuple[Side, Side] | None:
    """Systems on a set, and others between their sizes at the same ratio; None where they have none on both sides.

    Args:
        comparison: whose systems.
        name: of the set.
        labels: the systems, whose mean is taken.
        lines: the sizes of each of the others, whose mean is taken.
    """
    found: list[tuple[Side, Side]] = []
    for label in labels:
        for line in lines:
            sides = comparison.sizes.around(name, label, line) or comparison.sizes.match(name, label, line, {})
            if sides is None:
                return None
            found.append(sides)
    mine, theirs = (_mean(sides) for sides in zip(*found, strict=True))
    return mine, theirs


def single(comparison: Comparison, labels: Sequence[str]) -> dict[str, Any]:
    """What a group of one system is made of, from its labels."""
    return {"members": (tuple(labels),), "sizes": tuple(str(comparison.systems[label].size) for label in labels)}


def _rows(
    comparison: Comparison,
    group: str,
    size: str,
    labels: Sequence[str],
    lines: Sequence[Sequence[str]] | None,
) -> list[dict[str, Any]]:
    """Rows of `curves` of one point."""
    answered = [one for one in comparison.scopes.samples if all((one, label) in comparison.scored for label in labels)]
    alone = {name: _mean([comparison.sizes.side(name, label, labels) for label in labels]) for name in answered}
    scores = _levels(comparison, alone)
    beside = {name: matched(comparison, name, labels, lines) for name in answered} if lines is not None else {}
    pairs = {name: sides for name, sides in beside.items() if sides is not None}
    # Both sides name all systems, so that all three numbers are of the same questions.
    references = _levels(comparison, {name: _weighing(theirs, mine) for name, (mine, theirs) in pairs.items()})
    differences = comparison.scopes.difference(pairs)
    parsed = Size.parse(size)
    return [
        {
            "group": group,
            "size": size,
            "scale": parsed.scale if parsed.chosen else None,
            "labels": list(labels),
            "scope": scope,
            "ratio": score["ratios"][0],
            "n": score["n"],
            "score": _plain(score),
            "reference": _plain(references.get(scope)),
            "difference": _plain(differences.get(scope)),
        }
        for scope, score in scores.items()
        if math.isfinite(score["ratios"][0])
    ]


def _levels(comparison: Comparison, sides: Mapping[str, Side]) -> dict[str, dict[str, Any]]:
    """Scores of sides by scope: what they are ahead of nothing."""
    return comparison.scopes.difference({name: (side, _NOTHING) for name, side in sides.items()})


def _weighing(side: Side, other: Side) -> Side:
    """A side that also names the systems of another, at no weight."""
    return Side(dict.fromkeys(other.weights, 0.0) | dict(side.weights), side.tokens, side.kept)


def _mean(sides: Sequence[Side]) -> Side:
    weights: dict[str, float] = {}
    for side in sides:
        for label, weight in side.weights.items():
            weights[label] = weights.get(label, 0.0) + weight / len(sides)
    return Side(weights, sum(side.tokens for side in sides), sum(side.kept for side in sides))


def _plain(number: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A number with its interval, number of questions and word."""
    if number is None:
        return None
    kept = rounded(number["mean"], number["low"], number["high"])
    return kept | {"n": number["n"], "word": word(kept["low"], kept["high"])}
