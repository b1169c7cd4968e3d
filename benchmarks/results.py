"""What a benchmark reports: ratios with their targets and floors, and the quantities behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.work import Machine
from latentpress.evaluation.timing import Note, Spread


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio must reach."""

    bound: Literal["at most", "at least"]
    """Which side is good."""
    value: float
    """The limit."""

    def met(self, measured: float) -> bool:
        """Whether a value reaches it."""
        return measured <= self.value if self.bound == "at most" else measured >= self.value


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One side of a comparison, or one more quantity worth a line."""

    name: str
    """What was measured."""
    measured: Spread
    """Its values."""
    floor: float | None = None
    """The least it could be on this machine, None where that says nothing."""
    unit: str = "s"
    """Of the values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One ratio."""

    name: str
    """What is compared with what."""
    measured: Spread
    """The ratio."""
    floor: float | None
    """The same ratio between the floors of the two sides: what arithmetic and memory alone would give."""
    target: Target | None = None
    """What it must reach, if anything."""
    sides: tuple[Side, ...] = ()
    """The quantities behind it."""
    says: str = ""
    """How to read it, where the name does not say."""

    @property
    def met(self) -> bool | None:
        """Whether the target is met, None without one."""
        return None if self.target is None else self.target.met(self.measured.median)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """Where the time of something goes."""

    name: str
    """What was profiled."""
    seconds: float
    """How long it took under the profiler."""
    percent: dict[str, float]
    """Share of each group."""
    top: dict[str, float] = field(default_factory=dict)
    """Share of the single operations that take longest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What every benchmark is told."""

    press: str
    """Name or folder of the press."""
    quick: bool
    """Small sizes and few runs, to see that everything works; the numbers mean nothing."""
    machine: Machine
    """Its highest rates."""
    note: Note
    """Takes a line of progress."""


Report = Result | Shares
Benchmark = Callable[..., list[Report]]


def to_json(report: Report) -> dict[str, Any]:
    """Plain data of a report."""
    data = {"kind": "shares" if isinstance(report, Shares) else "ratio", **dataclasses.asdict(report)}
    if isinstance(report, Result):
        data["met"] = report.met
    return data
