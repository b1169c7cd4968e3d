"""The discrete ratio selector: the candidate nearest to the predicted ratio (arXiv 2603.25926, equations 1 to 5)."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import ClassVar

from latentpress.compressors.base import Ratio, Size
from latentpress.errors import RatioError
from latentpress.ratios.base import RatioPolicy


class DiscreteSelector(RatioPolicy):
    """`y' = y + scale`, `r = 2^y'`, and the nearest candidate to r.

    Args:
        candidates: ratios in ascending order.
        rounding: nearest by r (`linear`, thresholds 3, 6, 12, 24 between powers of two, the authors' code) or by log2 r
            (`log`). A tie goes to the smaller candidate, which keeps more.
    """

    name: ClassVar[str] = "selector"
    predicts: ClassVar[bool] = True
    describe: ClassVar[str] = "the candidate nearest to the ratio that a head predicts from each window's density"

    def __init__(self, candidates: Sequence[int], rounding: str = "linear") -> None:
        super().__init__(candidates)
        if rounding not in ("linear", "log"):
            raise RatioError(f"rounding {rounding!r} is unknown; choose linear or log")
        pairs = zip(self.candidates, self.candidates[1:], strict=False)
        self.thresholds = [
            math.log2((a + b) / 2) if rounding == "linear" else (math.log2(a) + math.log2(b)) / 2 for a, b in pairs
        ]

    @classmethod
    def make(cls, candidates: Sequence[int], *, rounding: str) -> DiscreteSelector:
        """See `RatioPolicy.make`."""
        return cls(candidates, rounding)

    def choose(self, log2_ratio: float | None, scale: float) -> Size:
        """See `RatioPolicy.choose`."""
        if log2_ratio is None or not math.isfinite(log2_ratio + scale):
            raise RatioError(
                f"the selector needs a finite prediction and scale, got {log2_ratio} and {scale}; "
                "a scale between -4 and 4 is usual"
            )
        return Ratio(self.candidates[bisect.bisect_left(self.thresholds, log2_ratio + scale)])
