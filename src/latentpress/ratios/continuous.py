"""Fully dynamic sizes: any whole ratio, or any number of latents, between the lowest and the highest candidate.

The paper's baseline that fails (arXiv 2603.25926): trained on so many sizes, a press reads none of them well.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from typing import ClassVar

from latentpress.compressors.base import Length, Size
from latentpress.ratios.base import RatioPolicy
from latentpress.ratios.selector import shifted


class ContinuousRatio(RatioPolicy):
    """`S = round(2^(y + scale))`, clamped to the lowest and the highest candidate; a half is rounded to keep more.

    Candidates are the ends, and what training weighs (see `draw`).
    """

    name: ClassVar[str] = "continuous"
    predicts: ClassVar[bool] = True
    describe: ClassVar[str] = "any whole ratio from the lowest to the highest candidate (fails in the paper)"

    def choose(self, log2_ratio: float | None, scale: float, tokens: int) -> Size:
        """See `RatioPolicy.choose`."""
        return self._clamped(math.ceil(2.0 ** shifted(log2_ratio, scale) - 0.5))

    def allows(self, value: float) -> bool:
        """See `RatioPolicy.allows`."""
        return self.candidates[0] <= value <= self.candidates[-1] and value == int(value)

    def allowed(self) -> str:
        """See `RatioPolicy.allowed`."""
        return f"a whole number from {self.candidates[0]} to {self.candidates[-1]}"

    def draw(self, draw: random.Random, weights: Sequence[float]) -> Size:
        """See `RatioPolicy.draw`: of all whole numbers between the lowest and the highest candidate, log-uniformly.

        An interval between two candidates weighs as the mean of theirs times its width in logarithms, so candidates of
        equal weight give one log-uniform draw over all of them, rounded to a whole number.
        """
        if len(self.candidates) == 1:
            return self.kind(self.candidates[0])
        ends = [*itertools.pairwise(map(math.log, self.candidates))]
        masses = [
            (high - low) * (a + b) / 2 for (low, high), (a, b) in zip(ends, itertools.pairwise(weights), strict=True)
        ]
        low, high = draw.choices(ends, masses)[0]
        return self._clamped(round(math.exp(draw.uniform(low, high))))

    def _clamped(self, value: int) -> Size:
        return self.kind(min(max(value, self.candidates[0]), self.candidates[-1]))


class ContinuousLength(ContinuousRatio):
    """`M = round(T / 2^(y + scale))`, clamped to the lowest and the highest candidate; halves are rounded up."""

    name: ClassVar[str] = "continuous-length"
    kind: ClassVar[type[Size]] = Length
    describe: ClassVar[str] = "any number of latents from the lowest to the highest candidate (fails in the paper)"

    def choose(self, log2_ratio: float | None, scale: float, tokens: int) -> Size:
        """See `RatioPolicy.choose`."""
        return self._clamped(math.floor(tokens * 2.0 ** -shifted(log2_ratio, scale) + 0.5))
