"""Bootstrap intervals of many systems at once: every system is scored on the same resamples of a set.

Sharing them makes every comparison a paired one, so what is hard for all cancels. What is drawn are contexts, with
all their questions, where it is known which questions are about the same one; otherwise questions.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_CHUNK = 4_000_000  # indices drawn at once: 32 MB
SAMPLES = 2000
"""Resamples."""
LEVEL = 0.95
"""Share of them inside an interval."""
UNTESTED = "untested"
"""Word for a difference without an interval."""
LEAST = 10
"""Contexts below which a score has no interval: resamples of so few say little of others, those of one nothing."""


class SetSamples:
    """Means of systems on one set, and on its resamples.

    Args:
        name: of the set; with the seed it decides what is drawn.
        groups: of each question, the number of its context. `[N]`.
        values: score of each question by system, NaN where it was not answered. `[N]` each.
        samples: resamples.
        seed: the same seed, set and values give the same numbers.
    """

    def __init__(
        self,
        name: str,
        groups: npt.NDArray[np.int64],
        values: Mapping[str, Floats],
        *,
        samples: int = SAMPLES,
        seed: int = 0,
    ) -> None:
        self.name = name
        self._groups = groups
        self._columns = {label: i for i, label in enumerate(values)}
        self._values = np.stack([*values.values()], 1) if values else np.zeros((len(groups), 0))
        self._answered = ~np.isnan(self._values)
        self._samples, self._seed = samples, seed
        self._made: dict[bytes, tuple[Floats, Floats]] = {}

    def count(self, labels: Sequence[str]) -> int:
        """Questions that all of these systems answered."""
        return int(self._common(labels).sum()) if all(label in self._columns for label in labels) else 0

    def few(self, labels: Sequence[str]) -> bool:
        """Whether the questions that all of these systems answered are about fewer than `LEAST` contexts."""
        return len(np.unique(self._groups[self._common(labels)])) < LEAST

    def means(self, labels: Sequence[str]) -> tuple[Floats, Floats]:
        """Means of systems over the questions that all of them answered, at least one.

        Returns:
            Means `[systems]`, and those of each resample `[samples, systems]`.
        """
        common = self._common(labels)
        key = np.packbits(common).tobytes()
        if key not in self._made:
            self._made[key] = self._resampled(common)
        means, resampled = self._made[key]
        columns = [self._columns[label] for label in labels]
        return means[columns], resampled[:, columns]

    def _common(self, labels: Sequence[str]) -> npt.NDArray[np.bool_]:
        columns = [self._columns[label] for label in labels]
        return np.asarray(self._answered[:, columns].all(1), dtype=np.bool_)

    def _resampled(self, common: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Means over some questions of all systems that answered them; NaN for others."""
        values = self._values[common]
        _, groups = np.unique(self._groups[common], return_inverse=True)
        count = int(groups.max()) + 1
        sums = np.zeros((count, values.shape[1] + 1))
        np.add.at(sums, groups, np.concatenate([values, np.ones((len(values), 1))], 1))
        unanswered = np.asarray(np.isnan(sums).any(0), dtype=np.bool_)
        sums[:, unanswered] = 0.0
        generator = np.random.default_rng([self._seed, zlib.crc32(self.name.encode())])
        totals = np.empty((self._samples, sums.shape[1]))
        step = max(1, _CHUNK // count)
        for start in range(0, self._samples, step):
            rows = min(step, self._samples - start)
            drawn = generator.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
            times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
            totals[start : start + rows] = times.astype(np.float64) @ sums
        resampled = totals[:, :-1] / totals[:, -1:]
        resampled[:, unanswered[:-1]] = np.nan
        return values.mean(0), resampled


def interval(resampled: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of a number by its resamples; NaN if it is undefined in any of them."""
    if not np.isfinite(resampled).all():
        return float("nan"), float("nan")
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def word(low: float | None, high: float | None) -> str:
    """`better`, `worse` or `level`: whether the interval of a difference leaves zero out, and on which side.

    `untested` if there is no interval (NaN or None).
    """
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return UNTESTED
    return "better" if low > 0 else "worse" if high < 0 else "level"
