"""The discrete selectors: the candidate nearest to what the head predicts (arXiv 2603.25926, equations 1 to 5)."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Sequence
from typing import ClassVar, Self

from latentpress.compressors.base import Length, Ratio, Size
from latentpress.errors import RatioError
from latentpress.ratios.base import RatioPolicy

_BOUND = 512.0  # beyond any ratio or length, and far from the range of floats


class RoundingSelector(RatioPolicy):
    """A selector that goes to the nearest of its candidates, by what `rounding` says.

    Args:
        candidates: in ascending order.
        rounding: `linear` or `log`.
        selection: see `RatioPolicy`.
        length_exponent: see `RatioPolicy`.
    """

    predicts: ClassVar[bool] = True

    def __init__(
        self,
        candidates: Sequence[int],
        rounding: str = "linear",
        *,
        selection: str = "window",
        length_exponent: float = 0.0,
    ) -> None:
        super().__init__(candidates, selection=selection, length_exponent=length_exponent)
        check_rounding(rounding)
        self.rounding = rounding

    @classmethod
    def make(
        cls, candidates: Sequence[int], *, rounding: str, selection: str = "window", length_exponent: float = 0.0
    ) -> Self:
        """See `RatioPolicy.make`."""
        return cls(candidates, rounding, selection=selection, length_exponent=length_exponent)


class DiscreteSelector(RoundingSelector):
    """`y' = y + scale`, `r = 2^y'`, and the nearest candidate to r.

    Args:
        candidates: ratios in ascending order.
        rounding: nearest by r (`linear`, thresholds 3, 6, 12, 24 between powers of two, the authors' code) or by log2 r
            (`log`). A tie goes to the smaller candidate, which keeps more.
        selection: see `RatioPolicy`.
        length_exponent: see `RatioPolicy`.
    """

    name: ClassVar[str] = "selector"
    describe: ClassVar[str] = "the candidate nearest to the ratio that a head predicts from each window's density"

    @functools.cached_property
    def thresholds(self) -> list[float]:
        """Between each two candidates, log2 of the ratio above which the larger is the nearer."""
        return [
            math.log2((a + b) / 2) if self.rounding == "linear" else (math.log2(a) + math.log2(b)) / 2
            for a, b in itertools.pairwise(self.candidates)
        ]

    def choose(self, log2_ratio: float | None, scale: float, tokens: int) -> Size:
        """See `RatioPolicy.choose`."""
        return Ratio(self.candidates[bisect.bisect_left(self.thresholds, shifted(log2_ratio, scale))])


class LengthSelector(RoundingSelector):
    """`y' = y + scale`, `r = 2^y'`, and the nearest candidate to T / r tokens; of a text of fewer tokens, all of them.

    Args:
        candidates: numbers of latents in ascending order.
        rounding: nearest by tokens (`linear`, the authors' code) or by log2 tokens (`log`). A tie goes to the larger
            candidate, which keeps more.
        selection: see `RatioPolicy`.
        length_exponent: see `RatioPolicy`.
    """

    name: ClassVar[str] = "length-selector"
    kind: ClassVar[type[Size]] = Length
    describe: ClassVar[str] = "the candidate number of latents nearest to a window's tokens over the predicted ratio"

    def choose(self, log2_ratio: float | None, scale: float, tokens: int) -> Size:
        """See `RatioPolicy.choose`."""
        y = shifted(log2_ratio, scale)
        target, log2_target = tokens * 2.0**-y, math.log2(tokens) - y

        def distance(length: int) -> float:
            return abs(length - target) if self.rounding == "linear" else abs(math.log2(length) - log2_target)

        return Length(min(reversed(self.candidates), key=distance))


def check_rounding(rounding: str) -> None:
    """Refuses what is neither `linear` nor `log`, with a RatioError."""
    if rounding not in ("linear", "log"):
        raise RatioError(f"rounding {rounding!r} is unknown; choose linear or log")


def shifted(log2_ratio: float | None, scale: float) -> float:
    """`y' = y + scale`, within bounds that no size reaches.

    Raises:
        RatioError: there is no prediction, or one of them is not finite.
    """
    if log2_ratio is None or not math.isfinite(log2_ratio + scale):
        raise RatioError(
            f"the selector needs a finite prediction and scale, got {log2_ratio} and {scale}; "
            "a scale between -4 and 4 is usual"
        )
    return min(max(log2_ratio + scale, -_BOUND), _BOUND)
