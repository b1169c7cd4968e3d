"""Batches whose keys and values fit the memory, in which a question that does not fit the decoder fails alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from latentpress.errors import ContextTooLongError
from latentpress.evaluation.questions import Answer

MOST_QUESTIONS = 32
MOST_POSITIONS = 16_000
"""Positions of a batch, whose keys and values are in memory together."""

Reply = str | ContextTooLongError
"""An answer, or why there is none."""


def answered(ask: Callable[[list[int]], list[str]], sizes: Sequence[int]) -> list[Reply]:
    """Has questions answered in bounded batches.

    Args:
        ask: answers the questions of some numbers together; raises ContextTooLongError, before it reads anything, when
            one of them does not fit.
        sizes: positions that each question takes with its context and answer; near enough is good enough.
    """
    replies: dict[int, Reply] = {}
    for batch in batches(sizes):
        replies |= _asked(ask, batch)
    return [replies[i] for i in range(len(sizes))]


def batches(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of questions of like size, of `MOST_POSITIONS` together; a question of more is alone."""
    batch: list[int] = []
    used = 0
    for i in sorted(range(len(sizes)), key=sizes.__getitem__):
        if batch and (len(batch) == MOST_QUESTIONS or used + sizes[i] > MOST_POSITIONS):
            yield batch
            batch, used = [], 0
        batch.append(i)
        used += sizes[i]
    if batch:
        yield batch


def _asked(ask: Callable[[list[int]], list[str]], batch: list[int]) -> dict[int, Reply]:
    try:
        return dict(zip(batch, ask(batch), strict=True))
    except ContextTooLongError as error:
        if len(batch) == 1:
            return {batch[0]: error}
    half = len(batch) // 2
    return _asked(ask, batch[:half]) | _asked(ask, batch[half:])


def as_answer(reply: Reply, *, tokens: int, kept: int, nbytes: int | None) -> Answer:
    """A reply with what its context took; see `Answer`."""
    if isinstance(reply, ContextTooLongError):
        return Answer(text="", tokens=tokens, kept=kept, nbytes=nbytes, error=str(reply))
    return Answer(text=reply, tokens=tokens, kept=kept, nbytes=nbytes)
