"""Cost against length: seconds and peak memory of compressing documents of 1,000 to 64,000 tokens."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import latentpress
from benchmarks import child
from benchmarks.documents import nearest_ratio, text_of
from benchmarks.results import Report, Result, Settings, Side, Target
from benchmarks.work import compress_work, window_bytes
from latentpress.evaluation.memory import peak_bytes, reset_peak, resident_bytes
from latentpress.evaluation.timing import Spread, interleave
from latentpress.press import Press
from latentpress.tokens import equal_windows

LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
_QUICK = (64, 128, 256)
# Short documents are run again until so many tokens, so that the longest take most of the time.
_TOKENS_A_LENGTH = 24_000


def measure(press: str, lengths: Sequence[int], ratio: int) -> dict[str, Any]:
    """Loads a press and compresses a document of each length; for a process of its own.

    Returns:
        `seconds` of the runs by length, `peak` bytes by length above what was resident before, and `latents` by length.
    """
    return measure_loaded(latentpress.load(press, device="cpu"), lengths, ratio)


def measure_loaded(press: Press, lengths: Sequence[int], ratio: int) -> dict[str, Any]:
    """See `measure`."""
    texts = {n: text_of(press.base.tokenizer, n) for n in lengths}
    latents = {}

    def compress(n: int) -> None:
        latents[n] = len(press.compress(texts[n], ratio=ratio))

    press.compress(text_of(press.base.tokenizer, min(64, *lengths)), ratio=ratio)
    before, peaks, first = resident_bytes(), {}, {}
    for n in sorted(
        lengths
    ):  # ascending: what a long document leaves behind in the heap must not hide a short one's peak
        print(f"           {n:,} tokens, once, with its peak memory", file=sys.stderr, flush=True)
        reset_peak()
        first[n] = interleave({"once": lambda n=n: compress(n)}, rounds=1, warm=False).seconds["once"]  # type: ignore[misc]
        peaks[n] = peak_bytes() - before
    more = {str(n): min(4, _TOKENS_A_LENGTH // n) for n in lengths}
    again = interleave(
        {name: lambda n=int(name): compress(n) for name, count in more.items() if count},  # type: ignore[misc]
        rounds=more,
        warm=False,
        note=lambda line: print(f"           again, {line}", file=sys.stderr, flush=True),
    )
    seconds = {n: first[n] + again.seconds.get(str(n), []) for n in lengths}
    return {"seconds": seconds, "peak": peaks, "latents": latents, "loaded": before}


def run(press: Press, settings: Settings) -> list[Report]:
    """Measures in a process of its own; see `measure`."""
    lengths = _QUICK if settings.quick else LENGTHS
    ratio = nearest_ratio(press, 8)
    settings.note("in a process of its own")
    return reports(
        press,
        settings,
        lengths,
        ratio,
        child.call("benchmarks.length:measure", press=settings.press, lengths=lengths, ratio=ratio),
    )


def reports(
    press: Press, settings: Settings, lengths: Sequence[int], ratio: int, found: Mapping[str, Any]
) -> list[Report]:
    """The slope of time over length, and what longer documents add to the peak of memory."""
    seconds = {n: found["seconds"][_key(found, n)] for n in lengths}
    peaks = {n: max(1, found["peak"][_key(found, n)]) for n in lengths}  # 0 where what is loaded has room left
    least = {n: compress_work(press, [n], ratio).seconds(settings.machine, press.model.decoder.dtype) for n in lengths}
    times = [Side(name=f"{n:,} tokens", measured=Spread.of(seconds[n]), floor=least[n]) for n in lengths]
    longest = lengths[-1]
    full = [n for n in lengths if n >= 8192] or list(lengths[-2:])  # from here on every pass is full
    return [
        Result(
            name=f"log-log slope of seconds over {lengths[0]:,} to {longest:,} tokens, ratio {ratio}",
            measured=slope(lengths, seconds),
            floor=slope(lengths, {n: [least[n]] for n in lengths}).median,
            target=Target("at most", 1.05),
            sides=tuple(times),
            says="lowest and highest: with one length left out",
        ),
        Result(
            name=f"the same from {full[0]:,} tokens on",
            measured=slope(full, seconds),
            floor=slope(full, {n: [least[n]] for n in full}).median,
            target=Target("at most", 1.05),
            says="where every pass of the encoder is full",
        ),
        _memory(press, lengths, ratio, peaks, full[0]),
    ]


def _memory(press: Press, lengths: Sequence[int], ratio: int, peaks: Mapping[int, int], full: int) -> Result:
    """What the longest document adds to the peak of one of so many tokens."""
    longest = lengths[-1]
    kept = _kept_bytes(press, longest, ratio) - _kept_bytes(press, full, ratio)
    sides = [
        Side(
            name=f"peak at {n:,} tokens, above the loaded press",
            measured=Spread.of([peaks[n] / 1e6]),
            floor=_least_bytes(press, n, ratio) / 1e6,
            unit="MB",
        )
        for n in lengths
    ]
    return Result(
        name=f"peak memory at {longest:,} over {full:,} tokens, above the loaded press",
        measured=Spread.of([peaks[longest] / peaks[full]]),
        floor=(peaks[full] + kept) / peaks[full],
        target=Target("at most", 1.25),
        sides=tuple(sides),
        says="floor: only latents, spans and token ids are added",
    )


def _key(found: Mapping[str, Any], length: int) -> Any:
    return length if length in found["peak"] else str(length)  # JSON has no numbers as keys


def slope(lengths: Sequence[int], seconds: Mapping[int, Sequence[float]]) -> Spread:
    """Least-squares slope of log median seconds over log length; lowest and highest with one length left out."""
    points = [(math.log(n), math.log(statistics.median(seconds[n]))) for n in lengths]
    every = _fit(points)
    without = [_fit(points[:i] + points[i + 1 :]) for i in range(len(points))] if len(points) > 2 else [every]
    return Spread(every, min(every, *without), max(every, *without), len(points))


def _fit(points: Sequence[tuple[float, float]]) -> float:
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def _least_bytes(press: Press, length: int, ratio: int) -> int:
    """What is held at the end of a document's last window: see `_kept_bytes` and `window_bytes`."""
    window = max(end - start for start, end in equal_windows(length, press.config.window_tokens))
    return _kept_bytes(press, length, ratio) + window_bytes(press, window)


def _kept_bytes(press: Press, length: int, ratio: int) -> int:
    """Latents with their spans, and the token ids as 64-bit numbers; the text was there before."""
    latents = -(-length // ratio)
    return latents * (press.model.latent_width * press.model.decoder.dtype.itemsize + 4 * 8) + length * 8
