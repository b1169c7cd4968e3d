"""What measured times come to: ratios to the full text, and how many questions it takes before compressing pays."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from latentpress.evaluation.speed_schema import Speed, Times

_QUANTITIES = ("compress", "first_token", "total", "stored_first_token", "stored_total")
# What each is compared with: the same part of reading the full text.
_AGAINST = {name: "first_token" if name.endswith("first_token") else "total" for name in _QUANTITIES}


def latency(speed: Speed) -> dict[str, Any]:
    """Times as ratios to the full text; see `KEYS` of `metrics_file`."""
    return {
        "machine": speed.machine,
        "reference": speed.reference,
        "answer_tokens": speed.answer_tokens,
        "lengths": {
            str(tokens): {label: _system(times, every[speed.reference]) for label, times in every.items()}
            for tokens, every in sorted(speed.lengths.items())
        },
        "left_out": {str(tokens): dict(why) for tokens, why in sorted(speed.left_out.items()) if why},
        "elsewhere": dict(speed.elsewhere),
    }


def break_even(compress: float, stored: float, full: float) -> float:
    """Questions about one text from which on compressing it takes less time than reading it each time.

    The least whole q with compress + q stored < q full; infinite where an answer from what is stored takes no less
    than one from the full text.

    Args:
        compress: seconds to compress the text, once.
        stored: seconds of an answer from what is stored of it.
        full: seconds of an answer from the full text.
    """
    if stored >= full:
        return math.inf
    return math.floor(compress / (full - stored)) + 1


def _system(times: Times, full: Times) -> dict[str, Any]:
    """Median seconds, ratios and break-even of one system at one length."""
    made: dict[str, Any] = {"kept": times.kept, "peak_bytes": times.peak_bytes, "rounds": len(times.total)}
    made["peak_ratio"] = times.peak_bytes / full.peak_bytes if times.peak_bytes and full.peak_bytes else None
    for name in _QUANTITIES:
        taken = _series(times, name)
        if taken is None:
            made[name] = None
            continue
        under = _series(full, _AGAINST[name])
        ratio = _spread(a / b for a, b in zip(taken, under or (), strict=False))
        made[name] = {"seconds": _spread(taken), "ratio": ratio}
    made["break_even"] = None
    if times.compress is not None and times.stored_total is not None and times.kept < full.kept:
        rounds = zip(times.compress, times.stored_total, full.total, strict=False)
        counts = _spread(break_even(*seconds) for seconds in rounds)
        made["break_even"] = {name: None if math.isinf(count) else count for name, count in counts.items()}
    return made


def _series(times: Times, name: str) -> Sequence[float] | None:
    found: Sequence[float] | None = getattr(times, name)
    return found


def _spread(values: Iterable[float]) -> dict[str, float]:
    """Median, lowest and highest of the rounds."""
    ordered = sorted(values)
    # The middle of an even number is the upper one where a mean would be between a number and infinity.
    middle = statistics.median(ordered) if all(map(math.isfinite, ordered)) else statistics.median_high(ordered)
    return {"median": middle, "low": ordered[0], "high": ordered[-1]}
