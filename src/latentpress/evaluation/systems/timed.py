"""How the parts of a system are timed: what it makes of a text, and its answer from that.

Every answer has the same number of tokens, whatever a system would say, so that all write as much.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from latentpress.evaluation.questions import Question

if TYPE_CHECKING:
    from latentpress.attention import KeyValueCache
    from latentpress.backbone import Backbone
    from latentpress.decoder.generate import Prompt


@dataclass(frozen=True, slots=True)
class Held:
    """What a system keeps of a question's documents."""

    what: Any
    """Whatever `timed_read` needs."""
    kept: int
    """Positions that stand for the documents."""
    seconds: float
    """From the documents to this."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Times of an answer, counted from what is kept and the question."""

    first_token: float
    """Seconds to the first token."""
    total: float
    """Seconds to the last one."""


@runtime_checkable
class Timed(Protocol):
    """What a system needs so that its parts can be timed in this process; see `Here`."""

    def hold(self, question: Question) -> Any:
        """What is kept of a question's documents."""

    def prompt(self, held: Any, question: Question) -> tuple[Backbone, Prompt]:
        """What reads, and the whole prompt."""

    def kept_of(self, held: Any) -> int:
        """Positions that stand for the documents."""


@runtime_checkable
class TimesItself(Protocol):
    """What a system needs that takes the times of its parts itself.

    One that answers in another process does so by that process's own clock. What is done here for a part (cutting texts
    into tokens) is added; the way of requests and answers between the processes is not.
    """

    def timed_hold(self, question: Question) -> Held:
        """Compresses a question's documents; what was held before may be gone then."""

    def timed_read(self, held: Held, question: Question, tokens: int) -> Reading:
        """Answers in so many tokens, never fewer, and leaves what is held as it was."""


class Here:
    """Times a system by the clock of this process; see `TimesItself`."""

    def __init__(self, system: Timed) -> None:
        self._system = system

    def timed_hold(self, question: Question) -> Held:
        """See `TimesItself.timed_hold`."""
        began = time.perf_counter()
        held = self._system.hold(question)
        seconds = time.perf_counter() - began
        return Held(held, self._system.kept_of(held), seconds)

    def timed_read(self, held: Held, question: Question, tokens: int) -> Reading:
        """See `TimesItself.timed_read`."""
        began = time.perf_counter()
        first, _ = write_answer(*self._system.prompt(held.what, question), tokens, began)
        return Reading(first, time.perf_counter() - began)


def write_answer(
    backbone: Backbone, prompt: Prompt, tokens: int, began: float = 0.0, cache: KeyValueCache | None = None
) -> tuple[float, list[int]]:
    """Reads a prompt and writes so many tokens, never fewer.

    Args:
        backbone: what reads.
        prompt: what it reads.
        tokens: of the answer.
        began: reading of `time.perf_counter` that the time is counted from.
        cache: keys and values of what stands before the prompt, if anything does; extended.

    Returns:
        Seconds to the first token, and the tokens.
    """
    from latentpress.attention import KeyValueCache
    from latentpress.decoder.generate import Sampling, generate, prefill

    cache = cache or KeyValueCache(1)
    states = prefill(backbone, [prompt], cache)
    written: list[int] = []
    first = 0.0
    for row in generate(backbone, states, cache, frozenset(), Sampling(max_new_tokens=tokens)):
        written.append(int(row[0] or 0))
        first = first or time.perf_counter() - began
    return first, written
