"""Texts of very different lengths beside equal ones of the same total."""

from __future__ import annotations

from benchmarks.documents import equal_lengths, log_uniform, nearest_ratio, text_of
from benchmarks.results import Report, Result, Settings, Side, Target
from benchmarks.work import compress_work
from latentpress.evaluation.timing import interleave
from latentpress.press import Press


def run(press: Press, settings: Settings) -> list[Report]:
    """Times `press.compress` of both; the totals are equal, so the ratio of times is that of tokens a second."""
    count, low, high = (8, 16, 100) if settings.quick else (64, 32, 1300)
    ratio = nearest_ratio(press, 8)
    lengths = {"texts of log-uniform length": log_uniform(count, low, high)}
    ragged, equal = "texts of log-uniform length", "texts of equal length"
    lengths[equal] = equal_lengths(count, sum(lengths[ragged]))
    texts = {name: [text_of(press.base.tokenizer, n) for n in each] for name, each in lengths.items()}
    times = interleave(
        {name: lambda each=each: _compress(press, each, ratio) for name, each in texts.items()},  # type: ignore[misc]
        rounds=2 if settings.quick else 3,
        seconds=35,
        note=settings.note,
    )
    dtype = press.model.decoder.dtype
    least = {name: compress_work(press, n, ratio).seconds(settings.machine, dtype) for name, n in lengths.items()}
    total = sum(lengths[equal])
    return [
        Result(
            name=f"tokens/s of {count} texts of {low} to {high} tokens over {count} equal ones, {total:,} tokens each",
            measured=times.ratio(equal, ragged),
            floor=least[equal] / least[ragged],
            target=Target("at least", 0.8),
            sides=tuple(Side(name=name, measured=times.spread(name), floor=least[name]) for name in texts),
        )
    ]


def _compress(press: Press, texts: list[str], ratio: int) -> None:
    press.compress(texts, ratio=ratio)
