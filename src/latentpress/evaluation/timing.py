"""Times of things measured side by side: interleaved, warmed, as medians with their spread.

A machine's speed drifts, so nothing here compares a time with one taken earlier: sides of a comparison take turns,
and a ratio is the median of the ratios within each turn.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

Side = Callable[[], Mapping[str, float] | None]
"""What is timed; it may return further times of its own, by name."""
Note = Callable[[str], None]
"""Takes a line of progress."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median, and the lowest and highest value beside it."""

    median: float
    """Middle value."""
    low: float
    """Lowest value."""
    high: float
    """Highest value."""
    runs: int
    """Number of values."""

    @staticmethod
    def of(values: Iterable[float]) -> Spread:
        """Summarises at least one value."""
        ordered = sorted(values)
        return Spread(statistics.median(ordered), ordered[0], ordered[-1], len(ordered))

    def over(self, parts: float) -> Spread:
        """One of so many equal parts."""
        return Spread(self.median / parts, self.low / parts, self.high / parts, self.runs)


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of every run of every side, in the order of the rounds."""

    seconds: dict[str, list[float]]
    """Runs by side; a time that a side returned is under `side: name`."""

    def spread(self, side: str) -> Spread:
        """Seconds of a side."""
        return Spread.of(self.seconds[side])

    def ratio(self, over: str, under: str) -> Spread:
        """Seconds of one side over those of another, round by round; rounds that only one of them ran are left out."""
        return Spread.of(a / b for a, b in zip(self.seconds[over], self.seconds[under], strict=False))


def interleave(
    sides: Mapping[str, Side],
    *,
    rounds: int | Mapping[str, int],
    seconds: float = math.inf,
    at_least: int = 2,
    warm: bool | Mapping[str, Side] = True,
    note: Note = lambda _: None,
) -> Timings:
    """Runs sides in turn, A B, B A, A B, ..., and takes the time of each run.

    The order turns round by round, so that what a side leaves behind (caches, a warm or a hot processor) is not always
    to the good of the same one.

    Args:
        sides: what is timed, by name.
        rounds: runs of every side, or of each by name; a side with fewer sits out the last rounds.
        seconds: no further round starts after so many.
        at_least: rounds that are run however long they take.
        warm: run every side once before, untimed; or what is run instead of it, by name.
        note: told of each round.
    """
    wanted = {name: rounds if isinstance(rounds, int) else rounds[name] for name in sides}
    if warm:
        note("warm-up")
        for name, side in sides.items():
            (warm[name] if isinstance(warm, Mapping) else side)()
    taken: dict[str, list[float]] = {}
    started = time.perf_counter()
    total = max(wanted.values(), default=0)
    for number in range(total):
        if number >= at_least and time.perf_counter() - started > seconds:
            break
        note(f"round {number + 1} of {total}")
        for name, side in [*sides.items()][:: -1 if number % 2 else 1]:
            if number < wanted[name]:
                _take(name, side, taken)
    return Timings(taken)


def _take(name: str, side: Side, taken: dict[str, list[float]]) -> None:
    gc.collect()
    gc.disable()  # a collection of everything that is loaded takes as long as a small measurement
    try:
        began = time.perf_counter()
        more = side()
        taken.setdefault(name, []).append(time.perf_counter() - began)
    finally:
        gc.enable()
    for part, value in (more or {}).items():
        taken.setdefault(f"{name}: {part}", []).append(value)
