"""What a selector would give that knows a text's length and nothing else, told from answers at fixed ratios.

A text that a selector gives ratio S is read from the latents of ratio S, so its answer is among those at fixed ratios.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from latentpress.analysis.comparison import Comparison, of_folder
from latentpress.analysis.curves import curves, fixed_labels
from latentpress.analysis.groups import Group
from latentpress.errors import InputError
from latentpress.evaluation.systems.base import Size
from latentpress.ratios import DiscreteSelector

EXPONENTS = (0.25, 0.5, 0.75, 1.0)
SCALES = (1.0, 1.5, 2.0, 2.5, 3.0)
"""Log2 ratios of a text of up to 128 tokens."""


def lengths(
    comparison: Comparison,
    press: str,
    *,
    exponents: Sequence[float] = EXPONENTS,
    scales: Sequence[float] = SCALES,
) -> dict[str, Any]:
    """Selectors of some length exponents that predict the same of every text, against the press's fixed ratios.

    Args:
        comparison: with answers of the press at fixed ratios, the candidates of the selectors.
        press: its name.
        exponents: see `latentpress.ratios.RatioPolicy.shift`; a group for each.
        scales: what is predicted of every text, log2 of the ratio; a point for each.

    Returns:
        What `curves` returns. The tokens of a text are those of all documents of its question.

    Raises:
        InputError: no such press, fewer than two of its ratios, or an exponent out of range.
    """
    labels = fixed_labels(comparison, press)
    ratios = {comparison.systems[label].size: label for label in labels}
    by_ratio = {int(size.ratio): label for size, label in ratios.items() if size is not None and size.ratio is not None}
    if len(by_ratio) < 2:
        raise InputError(
            f"{comparison.place} holds {press!r} at {len(by_ratio)} ratios, and a selector needs two to choose from; "
            f"add some with `{comparison.command(press, ['2', '4', '8', '16', '32'])}`"
        )
    folder = comparison.folder
    systems, predictions = dict(folder.systems), dict(folder.predictions)
    groups = [Group(name="fixed ratios", members=(tuple(labels),), sizes=tuple(map(str, ratios)))]
    for exponent in exponents:
        policy = DiscreteSelector(sorted(by_ratio), length_exponent=exponent)
        made = []
        for scale in scales:
            if not math.isfinite(scale):
                raise InputError(f"scale {scale} is not a finite number; 1 to 3 is usual")
            size, name = Size(scale=scale), f"{press}-length-exponent-{exponent:g}"
            label = f"{name}-{size}"
            made.append(label)
            systems[label] = replace(systems[labels[0]], label=label, name=name, size=size)
            for one in folder.sets:
                rows = {ratio: folder.predictions.get((one.name, own), {}) for ratio, own in by_ratio.items()}
                common = set.intersection(*(set(own) for own in rows.values()))
                predictions[one.name, label] = {
                    place: rows[policy.choose_parts([0.0], scale, [tokens])[0].value][place]
                    for place in common
                    if (tokens := next(iter(rows.values()))[place].get("tokens")) is not None
                }
        sizes = tuple(str(Size(scale=scale)) for scale in scales)
        groups.append(Group(name=f"exponent {exponent:g}", members=(tuple(made),), sizes=sizes))
    asked = {**{(name, label): len(rows) for (name, label), rows in predictions.items()}, **folder.asked}
    found = of_folder(replace(folder, systems=systems, predictions=predictions, asked=asked), comparison.place)
    return {**curves(found, groups, "lengths"), "press": press, "exponents": list(exponents), "scales": list(scales)}
