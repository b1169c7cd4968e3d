"""Stops a training whose loss is not a number, or has left for good."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from latentpress.errors import TrainingError

DIVERGED = 3.0
DIVERGED_STEPS = 50


class LossGuard:
    """Watches loss and gradient of every step.

    A loss diverges when its mean over `DIVERGED_STEPS` steps has been `DIVERGED` above the lowest such mean for as many
    steps in a row: ratios drawn and targets chosen move it by far less.

    Args:
        remedy: says what to do, when it comes to that.
    """

    def __init__(self, remedy: Callable[[], str]) -> None:
        self._remedy = remedy
        self._recent: list[float] = []
        self._best = math.inf
        self._above = 0

    def check_finite(self, name: str, value: float, step: int) -> None:
        """Looks at one number.

        Raises:
            TrainingError: it is not finite.
        """
        if not math.isfinite(value):
            raise TrainingError(f"{name} is {value} at step {step}; {self._remedy()}")

    def check_divergence(self, loss: float, step: int) -> None:
        """Looks at a step's loss, of tokens and ratios together: either can drown the other in a clipped step.

        Raises:
            TrainingError: the loss diverges.
        """
        self._recent = [*self._recent[1 - DIVERGED_STEPS :], loss]
        if len(self._recent) < DIVERGED_STEPS:
            return
        mean = sum(self._recent) / len(self._recent)
        self._best = min(self._best, mean)
        self._above = self._above + 1 if mean > self._best + DIVERGED else 0
        if self._above >= DIVERGED_STEPS:
            raise TrainingError(
                f"the loss diverges: its mean over {DIVERGED_STEPS} steps is {mean:.2f} at step {step}, and was "
                f"{self._best:.2f} at its best; {self._remedy()}"
            )

    def state(self) -> dict[str, Any]:
        """What it remembers, as plain data."""
        return {"recent": self._recent, "best": self._best, "above": self._above}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` gave."""
        self._recent, self._best, self._above = list(state["recent"]), float(state["best"]), int(state["above"])
