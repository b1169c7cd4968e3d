"""Ratio policies by name."""

from __future__ import annotations

from latentpress.ratios.base import RatioPolicy
from latentpress.ratios.fixed import FixedRatio
from latentpress.ratios.selector import DiscreteSelector

POLICIES: dict[str, type[RatioPolicy]] = {
    FixedRatio.name: FixedRatio,
    DiscreteSelector.name: DiscreteSelector,
}

__all__ = ["POLICIES", "DiscreteSelector", "FixedRatio", "RatioPolicy"]
