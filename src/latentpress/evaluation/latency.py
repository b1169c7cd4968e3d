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
        "cached": speed.cached,
        "answer_tokens": speed.answer_tokens,
        "lengths": {
            str(tokens): {
                label: _system(times, every[speed.reference], every.get(speed.cached or ""))
                for label, times in every.items()
            }
            for tokens, every in sorted(speed.lengths.items())
        },
        "left_out": {str(tokens): dict(why) for tokens, why in sorted(speed.left_out.items()) if why},
        "elsewhere": dict(speed.elsewhere),
    }


def break_even(compress: float, stored: float, full: float, read: float = 0.0) -> float:
    """Questions about one text from which on compressing it takes less time than reading it.

    The least whole q from which on compress + q stored < read + q full; infinite where an answer from what is stored
    takes longer, even if compressing is ahead for the first questions.

    Args:
        compress: seconds to compress the text, once.
        stored: seconds of an answer from what is stored of it.
        full: seconds of an answer from the full text, or from its keys and values.
        read: seconds to read the full text once, if its keys and values are kept; 0 if it is read for each answer.
    """
    more = compress - read
    if stored >= full:
        return 1 if stored == full and more < 0 else math.inf
    return max(1, math.floor(more / (full - stored)) + 1)


def _system(times: Times, full: Times, cached: Times | None) -> dict[str, Any]:
    """Median seconds, ratios and break-even of one system at one length."""
    made: dict[str, Any] = {"kept": times.kept, "peak_bytes": times.peak_bytes, "rounds": len(times.total)}
    peak, whole = times.peak_bytes, full.peak_bytes
    made["peak_ratio"] = peak / whole if peak is not None and whole else None  # nothing taken is known too
    for name in _QUANTITIES:
        taken = _series(times, name)
        if taken is None:
            made[name] = None
            continue
        under = _series(full, _AGAINST[name])
        ratio = _spread(a / b for a, b in zip(taken, under or (), strict=False))
        made[name] = {"seconds": _spread(taken), "ratio": ratio}
    made["break_even"] = made["break_even_cached"] = None
    if times.compress is not None and times.stored_total is not None and times.kept < full.kept:
        ours = times.compress, times.stored_total
        made["break_even"] = _pays(break_even(*seconds) for seconds in zip(*ours, full.total, strict=False))
        if cached is not None and cached.compress is not None and cached.stored_total is not None:
            theirs = cached.stored_total, cached.compress
            made["break_even_cached"] = _pays(break_even(*seconds) for seconds in zip(*ours, *theirs, strict=False))
    return made


def _pays(counts: Iterable[float]) -> dict[str, float | None]:
    """Questions of the rounds, None for never."""
    return {name: None if math.isinf(count) else count for name, count in _spread(counts).items()}


def _series(times: Times, name: str) -> Sequence[float] | None:
    found: Sequence[float] | None = getattr(times, name)
    return found


def _spread(values: Iterable[float]) -> dict[str, float]:
    """Median, lowest and highest of the rounds."""
    ordered = sorted(values)
    # The middle of an even number is the upper one where a mean would be between a number and infinity.
    middle = statistics.median(ordered) if all(map(math.isfinite, ordered)) else statistics.median_high(ordered)
    return {"median": middle, "low": ordered[0], "high": ordered[-1]}
