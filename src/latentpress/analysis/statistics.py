"""Lines, correlations and what resamples say of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latentpress.evaluation.resampling import SAMPLES, Floats, interval

LEAST_POINTS = 3
"""Fewest points that a correlation is taken of."""
_DRAWN = 40  # places at which the band of a line is given
_DIGITS = 12  # sums of equal weights in another order differ beyond, and are no difference


@dataclass(frozen=True, slots=True)
class Line:
    """`y = offset + slope * x`, by least squares."""

    offset: float
    """At x = 0."""
    slope: float
    """For each unit of x; 0 where all x are the same."""

    @staticmethod
    def through(x: Floats, y: Floats) -> Line:
        """The line through some points."""
        centred = x - x.mean()
        square = float(centred @ centred)
        slope = float(centred @ y) / square if square else 0.0
        return Line(float(y.mean()) - slope * float(x.mean()), slope)

    def at(self, x: Floats) -> Floats:
        """Its values."""
        return self.offset + self.slope * x


def pearson(x: Floats, y: Floats) -> float:
    """Correlation of two variables; NaN where one of them does not vary."""
    a, b = x - x.mean(), y - y.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 1e-12 else math.nan


def ranks(values: Floats) -> Floats:
    """Rank of each value, from 0; equal values share the mean of theirs."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts + 1) / 2)[index], dtype=np.float64)


def spearman(x: Floats, y: Floats) -> float:
    """Correlation of the ranks."""
    return pearson(ranks(x), ranks(y))


def resampled(
    count: int, pick: Callable[[npt.NDArray[np.int64]], Sequence[float]], *, seed: int = 0, samples: int = SAMPLES
) -> Floats:
    """Numbers of resamples, drawn with replacement.

    Args:
        count: of things to draw from.
        pick: from the indices of a resample to its numbers.
        seed: the same seed and count draw the same.
        samples: how many.

    Returns:
        `[samples, numbers]`.
    """
    return np.array([pick(drawn) for drawn in _draws(count, seed, samples)], dtype=np.float64)


def _draws(count: int, seed: int, samples: int) -> Iterator[npt.NDArray[np.int64]]:
    generator = np.random.default_rng([seed, count])
    for _ in range(samples):
        yield generator.integers(count, size=count)


def number(mean: float, draws: Floats) -> dict[str, Any]:
    """`mean`, `low` and `high`: a number and the 95% interval of its resamples."""
    return rounded(mean, *interval(draws))


def rounded(mean: float, low: float, high: float) -> dict[str, Any]:
    """`mean`, `low` and `high` without what rounding of floats made of a zero."""
    return {name: round(one, _DIGITS) for name, one in (("mean", mean), ("low", low), ("high", high))}


def fit(x: Floats, y: Floats, draws: Floats) -> dict[str, Any]:
    """Least-squares line and correlation of points whose y are known by their resamples.

    Intervals say what other questions would have given at the same x; not what other points would have.

    Args:
        x: of each point, not all the same. `[P]`.
        y: of each point. `[P]`.
        draws: y in each resample. `[samples, P]`.

    Returns:
        `n`, `slope` and `correlation` with intervals, `offset`, and `line`: rows of x, y, low and high.
    """
    lines = [Line.through(x, row) for row in draws]
    whole = Line.through(x, y)
    places = np.linspace(float(x.min()), float(x.max()), _DRAWN)
    every = np.stack([line.at(places) for line in lines])
    low, high = np.quantile(every, [0.025, 0.975], axis=0)
    return {
        "n": len(x),
        "offset": whole.offset,
        "slope": number(whole.slope, np.array([line.slope for line in lines])),
        "correlation": number(pearson(x, y), np.array([pearson(x, row) for row in draws])),
        "line": np.stack([places, whole.at(places), low, high], 1).tolist(),
    }
