"""Section of a report on measured times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from latentpress.evaluation.markdown import NONE, spread, table

_PARTS = ("total", "first_token", "stored_total", "stored_first_token", "compress")
_SPREAD = ("median", "low", "high")
_HEADER = (
    "system",
    "from text: answer",
    "from text: first token",
    "stored: answer",
    "stored: first token",
    "compress",
    "peak memory",
    "pays from question",
    "the same, text cached",
)


def speed_tables(content: Mapping[str, Any]) -> Iterator[str]:
    """A table for each length of text; nothing where no times were measured."""
    speed = content["speed"]
    if speed is None:
        return
    yield "## Speed"
    yield (
        f"{speed['machine']}; answers of {speed['answer_tokens']} tokens. All systems took turns in one run, warm. "
        f"Numbers are ratios to `{speed['reference']}`, below 1 is quicker: the median of the rounds, with the lowest "
        "and highest. First tokens are compared with its first token, all else with its whole answer."
    )
    yield (
        "`from text` begins with text and question, compressing included; `stored` begins with the question, with the "
        "context compressed before. `pays from question`: how many questions about one text it takes until compressing "
        "it once, and answering from what is stored, has taken less time than reading the text for each; `text "
        "cached`: than reading it once and keeping its keys and values in memory"
        + (f" (`{speed['cached']}`)." if speed["cached"] else ", which was not measured.")
    )
    if speed["elsewhere"]:
        yield _other_processes(speed["elsewhere"])
    for tokens, every in speed["lengths"].items():
        answer, first = (every[speed["reference"]][name]["seconds"]["median"] for name in ("total", "first_token"))
        yield f"### {int(tokens):,} tokens"
        yield f"`{speed['reference']}` takes {answer:.2f} s, {first:.2f} s of them to the first token."
        yield table(_HEADER, [_row(label, one) for label, one in every.items()])
        left_out = speed["left_out"].get(tokens, {})
        if left_out:
            yield "\n".join(f"- Not measured: `{label}`, {why}." for label, why in left_out.items())


def _other_processes(elsewhere: Mapping[str, str]) -> str:
    """What runs outside of the comparison's process, a line for systems of which the same does."""
    labels: dict[str, list[str]] = {}
    for label, what in elsewhere.items():
        labels.setdefault(what, []).append(f"`{label}`")
    lines = (f"- {', '.join(those)}: {what}." for what, those in labels.items())
    return (
        "Some systems run in part outside of this process, on the code of their own packages, with as many threads and "
        "by their own clock where they answer there too. Of their difference to the others, a part is software and not "
        "method:\n\n" + "\n".join(lines)
    )


def _row(label: str, one: Mapping[str, Any]) -> list[str]:
    ratios = [spread(one[part] and one[part]["ratio"]) for part in _PARTS]
    peak = one["peak_ratio"]
    return [
        f"`{label}`",
        *ratios,
        NONE if peak is None else f"{peak:.2f}",
        *map(_pays, (one["break_even"], one["break_even_cached"])),
    ]


def _pays(questions: Mapping[str, float | None] | None) -> str:
    """Median of the rounds, with the lowest and highest where they differ."""
    if questions is None:
        return NONE
    middle, *ends = ("never" if questions[name] is None else f"{questions[name]:,.0f}" for name in _SPREAD)
    return middle if len({middle, *ends}) == 1 else f"{middle} ({ends[0]} to {ends[1]})"
