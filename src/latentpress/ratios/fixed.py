"""The same ratio for every text."""

from __future__ import annotations

from typing import ClassVar

from latentpress.compressors.base import Size
from latentpress.errors import RatioError
from latentpress.ratios.base import RatioPolicy


class FixedRatio(RatioPolicy):
    """One ratio unless the user asks for another candidate."""

    name: ClassVar[str] = "fixed"
    predicts: ClassVar[bool] = False
    describe: ClassVar[str] = "the smallest candidate for every text, unless another is asked for"

    def choose(self, log2_ratio: float | None, scale: float) -> Size:
        """See `RatioPolicy.choose`.

        Raises:
            RatioError: a scale is given; there is no prediction to shift.
        """
        if scale:
            raise RatioError(
                f"scale={scale:g} shifts a selector's prediction, and this press has a fixed ratio; "
                f"use ratio= with one of {', '.join(map(str, self.candidates))}"
            )
        return self.fixed(self.candidates[0])
