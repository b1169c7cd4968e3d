"""What a selector would give that knows a text's length and nothing else, told from answers at fixed ratios.

A text that a selector gives ratio S is read from the latents of ratio S, so its answer is among those at fixed ratios.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from latentpress.analysis.comparison import Comparison, of_folder
from latentpress.analysis.curves import FIXED, curves, fixed_labels, single
from latentpress.analysis.groups import Group
from latentpress.errors import InputError
from latentpress.evaluation.systems.base import Size
from latentpress.ratios import DiscreteSelector

EXPONENTS = (0.25, 0.5, 0.75, 1.0)
SCALES = (1.0, 1.5, 2.0, 2.5, 3.0)
"""Log2 ratios of a text of up to 128 tokens."""

_Rows = Mapping[int, Mapping[str, Any]]  # by the place of their question


def lengths(
    comparison: Comparison,
    press: str,
    *,
    exponents: Sequence[float] = EXPONENTS,
    scales: Sequence[float] = SCALES,
) -> dict[str, Any]:
    """Selectors of some length exponents that predict the same of every text, against the press's fixed ratios.

    Their candidates are the ratios that the folder holds, to the nearest of which they round (`linear`).

    Args:
        comparison: with answers of the press at fixed ratios.
        press: its name.
        exponents: see `latentpress.ratios.RatioPolicy.shift`; a group for each.
        scales: what is predicted of every text, log2 of the ratio; a point for each.

    Returns:
        What `curves` returns. The tokens of a text are those of all documents of its question.

    Raises:
        InputError: no such press, fewer than two of its ratios, or a scale that is not finite.
        RatioError: an exponent out of range.
    """
    labels = fixed_labels(comparison, press)
    by_ratio = _by_ratio(comparison, press, labels)
    if wrong := [scale for scale in scales if not math.isfinite(scale)]:
        raise InputError(f"scale {wrong[0]} is not a finite number; 1 to 3 is usual")
    folder = comparison.folder
    systems, predictions, asked = dict(folder.systems), dict(folder.predictions), dict(folder.asked)
    whole = [one.name for one in folder.sets if all((one.name, own) in predictions for own in by_ratio.values())]
    rows = {one: {ratio: folder.predictions[one, own] for ratio, own in by_ratio.items()} for one in whole}
    texts = {one: _tokens(own) for one, own in rows.items()}
    made: dict[float, list[str]] = {}
    for exponent in exponents:
        policy = DiscreteSelector(sorted(by_ratio), length_exponent=exponent)
        name = f"{press}-length-exponent-{exponent:g}"
        for scale in scales:
            label = f"{name}-{Size(scale=scale)}"
            made.setdefault(exponent, []).append(label)
            systems[label] = replace(systems[labels[0]], label=label, name=name, size=Size(scale=scale))
            for one in whole:
                sizes = {place: policy.choose_parts([0.0], scale, [count])[0] for place, count in texts[one].items()}
                predictions[one, label] = {place: rows[one][size.value][place] for place, size in sizes.items()}
                asked[one, label] = max(folder.asked[one, own] for own in by_ratio.values())
    found = of_folder(replace(folder, systems=systems, predictions=predictions, asked=asked), comparison.place)
    groups = [Group(name=FIXED, **single(found, labels))]
    groups += [Group(name=f"exponent {exponent:g}", **single(found, own)) for exponent, own in made.items()]
    content = {**curves(found, groups, "lengths"), "press": press, "exponents": list(exponents), "scales": list(scales)}
    if without := [one.name for one in folder.sets if one.name not in whole]:
        ratios = ", ".join(map(str, sorted(by_ratio)))
        content["notes"].append(f"Without a selector, as not all ratios ({ratios}) were asked: {', '.join(without)}.")
    return content


def _by_ratio(comparison: Comparison, press: str, labels: Sequence[str]) -> dict[int, str]:
    """Labels of a press by their ratio, whole ones.

    Raises:
        InputError: it has lengths in place of ratios, or fewer than two ratios.
    """
    sizes = {label: size for label in labels if (size := comparison.systems[label].size) is not None}
    if any(size.length is not None for size in sizes.values()):
        raise InputError(f"{press!r} counts latents, and a length exponent raises ratios; give a press of ratios")
    found = {int(size.ratio): label for label, size in sizes.items() if size.ratio and size.ratio == int(size.ratio)}
    if len(found) < 2:
        raise InputError(
            f"{comparison.place} holds {press!r} at fewer than two whole ratios ({', '.join(map(str, found))}), and a "
            f"selector needs two to choose from; add some with "
            f"`{comparison.command(press, ['2', '4', '8', '16', '32'])}`"
        )
    return found


def _tokens(rows: Mapping[int, _Rows]) -> dict[int, int]:
    """Tokens of the text of each question that was answered at all ratios."""
    made = {}
    for place in sorted(set.intersection(*(set(own) for own in rows.values()))):
        told = [count for own in rows.values() if (count := own[place].get("tokens"))]  # a failed answer may have none
        if told:
            made[place] = max(told)
    return made
