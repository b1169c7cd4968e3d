"""What changes over a training: phases that start at fractions of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latentpress.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class RatioPhase:
    """How candidates, ratios or lengths, are drawn from some point of the training on."""

    start: float
    """Fraction of the steps at which the phase starts."""
    weights: tuple[float, ...]
    """Weight of each candidate in the draw."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuotePhase:
    """How many quotes an example has from some point of the training on."""

    start: float
    """Fraction of the steps at which the phase starts."""
    quotes: int
    """Quotes of an example."""


def check_starts(name: str, phases: Sequence[RatioPhase] | Sequence[QuotePhase]) -> None:
    """Checks that the phases of a setting start one after the other.

    Raises:
        InputError: they do not; the message names the setting.
    """
    starts = [phase.start for phase in phases]
    if starts and (starts[0] != 0 or starts != sorted(set(starts)) or not starts[-1] < 1):
        shown = ", ".join(f"{start:g}" for start in starts)
        raise InputError(
            f"{name} has phases that start at {shown}; the first starts at 0, the others follow in ascending order "
            "below 1"
        )
