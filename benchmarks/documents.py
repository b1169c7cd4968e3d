"""Texts to measure with: the packaged sample document, repeated and cut to a number of tokens."""

from __future__ import annotations

import random

from latentpress.evaluation.speed import text_of
from latentpress.press import Press

__all__ = ["QUESTION", "equal_lengths", "log_uniform", "nearest_ratio", "text_of"]

QUESTION = "What is this article about?"


def log_uniform(count: int, low: int, high: int) -> list[int]:
    """Lengths at the quantiles of the log-uniform distribution between two bounds, in a fixed random order."""
    lengths = [round(low * (high / low) ** ((i + 0.5) / count)) for i in range(count)]
    random.Random(0).shuffle(lengths)
    return lengths


def equal_lengths(count: int, total: int) -> list[int]:
    """So many lengths of the same total, equal within one."""
    size, longer = divmod(total, count)
    return [size + (i < longer) for i in range(count)]


def nearest_ratio(press: Press, wanted: int) -> int:
    """The press's candidate ratio nearest to one."""
    return min(press.model.policy.candidates, key=lambda ratio: abs(ratio - wanted))
