"""The usual bootstrap, written plainly: what the intervals of reports are held against."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def bootstrap_interval(values: Floats, *, samples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Mean of some values, and the 95% percentile interval of the means of resamples drawn with replacement."""
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(values.size, size=values.size)].mean() for _ in range(samples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def paired_bootstrap(a: Floats, b: Floats, *, samples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """The same of the differences of two systems on the same questions: what is hard for both cancels."""
    return bootstrap_interval(a - b, samples=samples, seed=seed)
