"""The same ratio, or the same number of latents, for every text."""

from __future__ import annotations

from typing import ClassVar

from latentpress.compressors.base import Length, Size
from latentpress.errors import RatioError
from latentpress.ratios.base import RatioPolicy


class FixedRatio(RatioPolicy):
    """One ratio unless the user asks for another candidate."""

    name: ClassVar[str] = "fixed"
    predicts: ClassVar[bool] = False
    describe: ClassVar[str] = "the smallest candidate ratio for every text, unless another is asked for"

    def choose(self, log2_ratio: float | None, scale: float, tokens: int) -> Size:
        """See `RatioPolicy.choose`; of several candidates the one that keeps most.

        Raises:
            RatioError: a scale is given; there is no prediction to shift.
        """
        if scale:
            raise RatioError(
                f"scale={scale:g} shifts a selector's prediction, and this press has a fixed {self.word()}; "
                f"use {self.word()}= with {self.allowed()}"
            )
        return self.ordered()[0]


class FixedLength(FixedRatio):
    """One number of latents unless the user asks for another candidate."""

    name: ClassVar[str] = "fixed-length"
    kind: ClassVar[type[Size]] = Length
    describe: ClassVar[str] = "the largest candidate number of latents for every text, unless another is asked for"
