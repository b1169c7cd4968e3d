"""What linear and log rounding make of a head's predictions (`latentpress.ratios.selector` has both).

The authors' code rounds by the ratio, with thresholds 3, 6, 12 and 24 between powers of two; by its logarithm they are
2.83, 5.66, 11.3 and 22.6. So log rounding takes the next higher ratio for predictions in between.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from latentpress.analysis.comparison import Comparison
from latentpress.analysis.curves import SCALES, curves
from latentpress.analysis.groups import parse_groups
from latentpress.analysis.predictions import Policy, Predicted
from latentpress.errors import InputError

if TYPE_CHECKING:
    from latentpress.ratios import RatioPolicy

ROUNDINGS = ("linear", "log")


def rounding(
    policy: Policy, predicted: Sequence[Predicted], *, scale: float = 0.0, scales: Sequence[float] = SCALES
) -> dict[str, Any]:
    """Sizes by both roundings.

    Args:
        policy: how the press chooses.
        predicted: what its head says.
        scale: at which choices are counted.
        scales: at which ratios and differences are given.

    Returns:
        Plain data. `choices` and `passages` (how many; a passage has one choice if the press chooses for documents,
        else one a part), `chosen` (choices by rounding and candidate, at the scale), `differ` (share of choices that
        come out otherwise, at the scale), and `scales`: rows of `scale`, `linear` and `log` (tokens over latents of all
        passages), `differ`.

    Raises:
        InputError: the policy does not round to candidates.
    """
    makers = {name: _maker(policy, name) for name in ROUNDINGS}
    rows = [_row(makers, predicted, one) for one in dict.fromkeys([*scales, scale])]
    at = next(row for row in rows if row["scale"] == scale)
    choices = {name: _choices(maker, predicted, scale) for name, maker in makers.items()}
    return {
        "analysis": "rounding",
        "about": "Linear and log rounding of the same predictions",
        "place": policy.press,
        "press": policy.press,
        "policy": policy.name,
        "candidates": list(policy.candidates),
        "scale": scale,
        "passages": len(predicted),
        "selection": policy.selection,
        "length_exponent": policy.length_exponent,
        "choices": len(choices[ROUNDINGS[0]]),
        "differ": at["differ"],
        "chosen": {
            name: {str(value): count for value, count in sorted(Counter(size for size, _ in found).items())}
            for name, found in choices.items()
        },
        "scales": sorted((row for row in rows if row["scale"] in scales), key=lambda row: float(row["scale"])),
        "scores": None,
        "notes": [],
    }


def with_scores(content: dict[str, Any], comparison: Comparison, linear: str, log: str) -> dict[str, Any]:
    """The same with `scores`: what two presses that differ in their rounding reach (see `curves.curves`).

    Args:
        content: of `rounding`.
        comparison: with both.
        linear: name of the one in the folder, with or without sizes; its selector's if without.
        log: of the other.
    """
    named = [f"{key}={name if '@' in name else f'{name}@selector'}" for key, name in (("linear", linear), ("log", log))]
    groups = parse_groups(",".join(named), comparison)
    return content | {"scores": curves(comparison, groups, "policies")}


def _maker(policy: Policy, rounding: str) -> RatioPolicy:
    from latentpress.ratios import POLICIES
    from latentpress.ratios.selector import RoundingSelector

    kind = POLICIES.get(policy.name)
    if kind is None or not issubclass(kind, RoundingSelector):
        raise InputError(
            f"press {policy.press!r} has ratio policy {policy.name!r}, which does not round to candidates; "
            "give predictions of a press with a selector"
        )
    return kind.make(
        policy.candidates,
        rounding=rounding,
        selection=policy.selection,
        length_exponent=policy.length_exponent,
    )


def _row(makers: dict[str, RatioPolicy], predicted: Sequence[Predicted], scale: float) -> dict[str, Any]:
    choices = {name: _choices(maker, predicted, scale) for name, maker in makers.items()}
    tokens = sum(sum(one.tokens) for one in predicted)
    ratios = {name: tokens / sum(latents for _, latents in found) for name, found in choices.items()}
    pairs = zip(*choices.values(), strict=True)
    differing = sum(one[0] != other[0] for one, other in pairs)
    return {"scale": scale, **ratios, "differ": differing / len(choices[ROUNDINGS[0]])}


def _choices(maker: RatioPolicy, predicted: Sequence[Predicted], scale: float) -> list[tuple[int, int]]:
    """Every choice, of a part or of a passage by what has a size of its own: the candidate, and latents of its text."""
    if not math.isfinite(scale):
        raise InputError(f"scale {scale} is not a finite number; -2 to 4 is usual")
    if maker.selection == "window":
        return [
            (size.value, size.latents(count))
            for one in predicted
            for size, count in zip(maker.choose_parts(one.log2_ratios, scale, one.tokens), one.tokens, strict=True)
        ]
    found = []
    for one in predicted:
        size = maker.choose_document(one.log2_ratios, scale, one.tokens)
        shares = zip(maker.spread(size, one.tokens), one.tokens, strict=True)
        found.append((size.value, sum(share.latents(count) for share, count in shares)))
    return found
