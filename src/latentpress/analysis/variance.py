"""What a selector gains over fixed ratios, over how much its choices vary: a point a set, and a genre.

The paper finds that the gain grows with the variance (arXiv 2603.25926, section 5): where all texts get one ratio,
a selector is a fixed ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from latentpress.analysis.comparison import Comparison, by_source, of_folder
from latentpress.analysis.curves import fixed_labels, matched, scaled_labels
from latentpress.analysis.statistics import LEAST_POINTS, fit, number
from latentpress.errors import InputError
from latentpress.evaluation.comparisons import ahead
from latentpress.evaluation.resampling import Floats, word
from latentpress.evaluation.scores import Scored

LEAST_QUESTIONS = 10
"""Questions below which a genre is no point."""
_KINDS = ("set", "genre")


def variance(comparison: Comparison, press: str, *, scale: float = 0.0, least: int = LEAST_QUESTIONS) -> dict[str, Any]:
    """Gains over variances.

    Args:
        comparison: with the selector at the scale, and fixed ratios of the same press.
        press: its name in the folder.
        scale: of the selector.
        least: questions below which a genre is left out.

    Returns:
        Plain data. `points`: `kind` (`set` or `genre`), `name`, `n`, `ratio`, `variance` (of log2 of the ratio over the
        questions) and `gain` (difference to the fixed ratios at the ratio that was reached). `fits`, by kind: see
        `statistics.fit`.

    Raises:
        InputError: the press is not there, lacks the scale or fixed ratios, or neither sets nor genres are enough for
            a correlation.
    """
    line = fixed_labels(comparison, press)
    (label,) = scaled_labels(comparison, press, [scale])
    cut, few = by_source(comparison.folder, least=least)
    points: list[dict[str, Any]] = []
    fits, notes = {}, comparison.unfinished([label, *line])
    for kind, one in zip(_KINDS, (comparison, of_folder(cut, comparison.place)), strict=True):
        found, draws, outside = _points(one, kind, label, line)
        points += found
        if outside:
            notes.append(
                f"Left out, as the fixed ratios do not lie on both sides of what was reached: {', '.join(outside)}."
            )
        x = np.array([point["variance"] for point in found])
        if len(found) >= LEAST_POINTS and np.ptp(x) > 0:
            fits[kind] = fit(x, np.array([point["gain"]["mean"] for point in found]), np.stack(draws, 1))
    if few:
        told = ", ".join(f"{name} ({count})" for name, count in few.items())
        notes.append(f"Left out, as they have fewer than {least} questions: {told}.")
    if not fits:
        _refuse(comparison, press, points, least, notes)
    return {
        "analysis": "variance",
        "about": "What the selector gains over fixed ratios, over the variance of its choices",
        "place": comparison.place,
        "press": press,
        "scale": scale,
        "measures": {point["name"]: _measure(comparison, point) for point in points},
        "points": points,
        "fits": fits,
        "notes": notes,
    }


def log2_ratios(found: Scored) -> Floats:
    """log2 of the ratio that each question's context came to; without those where nothing is known or kept."""
    sized = found.kept > 0
    return np.log2(found.tokens[sized] / found.kept[sized])


def _points(
    comparison: Comparison, kind: str, label: str, line: Sequence[str]
) -> tuple[list[dict[str, Any]], list[Floats], list[str]]:
    """Points of sets, their resampled gains, and the names of sets without a gain."""
    points, draws, outside = [], [], []
    for name, samples in comparison.scopes.samples.items():
        if (name, label) not in comparison.scored:
            continue
        sides = matched(comparison, name, [label], [line])
        found = None if sides is None else ahead(samples, sides)
        ratios = log2_ratios(comparison.scored[name, label])
        if sides is None or found is None or not len(ratios):
            outside.append(name)
            continue
        mean, drawn, n = found
        gain = number(mean, drawn)
        points.append(
            {
                "kind": kind,
                "name": name,
                "n": n,
                "ratio": sides[0].tokens / sides[0].kept,
                "variance": float(np.var(ratios)),
                "gain": gain | {"word": word(gain["low"], gain["high"])},
            }
        )
        draws.append(drawn)
    return points, draws, outside


def _measure(comparison: Comparison, point: dict[str, Any]) -> str:
    name = point["name"] if point["kind"] == "set" else point["name"].partition(": ")[0]
    return comparison.measure(name)


def _refuse(
    comparison: Comparison, press: str, points: Sequence[dict[str, Any]], least: int, notes: Sequence[str]
) -> NoReturn:
    counts = [[point["name"] for point in points if point["kind"] == kind] for kind in _KINDS]
    sets, genres = (f"{len(names)} ({', '.join(names)})" if names else "none" for names in counts)
    vary = any(len(names) >= LEAST_POINTS for names in counts)
    why = "do not differ in variance" if vary else f"are too few for a correlation, which needs {LEAST_POINTS}"
    known = any(question.source for one in comparison.folder.sets for question in one.questions)
    hint = (
        "" if known else " (this folder does not say where its questions come from: it was begun by an older version)"
    )
    left_out = "".join(f" {note}" for note in notes)
    raise InputError(
        f"{comparison.place}: the points of {press!r} {why}: {sets} of sets, {genres} of genres with at least {least} "
        f"questions{hint}; compare on more sets, or on sets whose records have a source.{left_out}"
    )
