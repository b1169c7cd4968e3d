"""The contract of a ratio policy: how many latents a text gets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from latentpress.compressors.base import Ratio, Size
from latentpress.errors import RatioError


class RatioPolicy(ABC):
    """Chooses the size of each window of a document.

    Args:
        candidates: ratios a press was trained for, in ascending order.
    """

    name: ClassVar[str]
    """Name in configurations."""
    predicts: ClassVar[bool]
    """Whether it reads the selector head's prediction of the log2 ratio."""
    sizes: ClassVar[tuple[type[Size], ...]] = (Ratio,)
    """Kinds of size it chooses; a compressor that cannot make them is refused beside it."""
    describe: ClassVar[str]
    """One line for `latentpress info`."""

    def __init__(self, candidates: Sequence[int]) -> None:
        if not candidates or list(candidates) != sorted(set(candidates)) or candidates[0] < 1:
            raise RatioError(
                f"candidates {list(candidates)} must be distinct whole ratios of at least 1 in ascending order, "
                "for example [2, 4, 8, 16, 32]"
            )
        self.candidates = tuple(candidates)

    @classmethod
    def make(cls, candidates: Sequence[int], *, rounding: str) -> RatioPolicy:  # noqa: ARG003, of some policies
        """The policy by the settings of a press; those that it has no use for are left alone.

        Raises:
            RatioError: settings that cannot be.
        """
        return cls(candidates)

    @abstractmethod
    def choose(self, log2_ratio: float | None, scale: float) -> Size:
        """Size for one window.

        Args:
            log2_ratio: what the head predicted, None for policies that do not predict.
            scale: the user's shift of it: negative keeps more, positive compresses more.
        """

    def fixed(self, ratio: float) -> Size:
        """Size for a ratio the user asks for.

        Raises:
            RatioError: it is not a candidate.
        """
        if ratio not in self.candidates:
            raise RatioError(
                f"ratio {ratio:g} is not one this press was trained for; "
                f"choose one of {', '.join(map(str, self.candidates))}, or none to let it choose"
            )
        return Ratio(int(ratio))
