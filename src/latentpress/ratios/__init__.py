"""Ratio policies by name."""

from __future__ import annotations

from latentpress.ratios.base import SELECTIONS, USUAL, RatioPolicy, size_name
from latentpress.ratios.continuous import ContinuousLength, ContinuousRatio
from latentpress.ratios.fixed import FixedLength, FixedRatio
from latentpress.ratios.selector import DiscreteSelector, LengthSelector

POLICIES: dict[str, type[RatioPolicy]] = {
    FixedRatio.name: FixedRatio,
    FixedLength.name: FixedLength,
    DiscreteSelector.name: DiscreteSelector,
    LengthSelector.name: LengthSelector,
    ContinuousRatio.name: ContinuousRatio,
    ContinuousLength.name: ContinuousLength,
}

__all__ = [
    "POLICIES",
    "SELECTIONS",
    "USUAL",
    "ContinuousLength",
    "ContinuousRatio",
    "DiscreteSelector",
    "FixedLength",
    "FixedRatio",
    "LengthSelector",
    "RatioPolicy",
    "size_name",
]
