"""Times of compared systems, taken in one process run, in turn, after a warm-up: the file `speed.json`.

Every answer has the same number of tokens, whatever a system would say, so that all write as much. At each length of
text, in each round, every system compresses and answers once, and answers once from what it kept before; so times of
one round belong together (`latentpress.evaluation.timing.interleave`).
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from latentpress.attention import KeyValueCache
from latentpress.decoder.generate import Sampling, generate, prefill
from latentpress.errors import ContextTooLongError, InputError
from latentpress.evaluation.memory import peak_bytes, reset_peak, resident_bytes
from latentpress.evaluation.questions import Question
from latentpress.evaluation.speed_schema import Speed, Times
from latentpress.evaluation.systems.base import System
from latentpress.evaluation.timing import Timings, interleave
from latentpress.tokens import tokenize

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from latentpress.backbone import Backbone

LENGTHS = (512, 2048, 7900)
ANSWER_TOKENS = 16
ROUNDS = 5
_ROOM = 64  # positions of template and question beside the context, at most
_QUESTION = "What is this article about?"


@runtime_checkable
class Timed(Protocol):
    """What a system needs so that its parts can be timed in this process."""

    def hold(self, question: Question) -> Any:
        """What is kept of a question's documents."""

    def prompt(self, held: Any, question: Question) -> tuple[Backbone, Tensor]:
        """What reads, and the input embeddings `[T, D]` of the whole prompt."""

    def kept_of(self, held: Any) -> int:
        """Positions that stand for the documents."""


def measure(
    systems: Sequence[System],
    reference: System,
    tokenizer: PreTrainedTokenizerBase,
    most: int,
    *,
    lengths: Sequence[int] | None = None,
    rounds: int = ROUNDS,
    answer_tokens: int = ANSWER_TOKENS,
    note: Callable[[str], None] = lambda _: None,
    keep: Callable[[Speed], None] = lambda _: None,
) -> Speed:
    """Measures systems at several lengths of text.

    Args:
        systems: what is timed; those that answer in another process, or do not fit, are named in `left_out`.
        reference: the reader of the full text that ratios are taken to.
        tokenizer: by which texts are cut to length.
        most: positions of the decoder; longer texts are left out.
        lengths: tokens of text; `LENGTHS` if None.
        rounds: of each.
        answer_tokens: of every answer.
        note: told what runs.
        keep: given what is measured so far, after each length.

    Raises:
        InputError: no length fits the decoder.
    """
    wanted = LENGTHS if lengths is None else lengths
    fitting = fitting_lengths(most, wanted, answer_tokens)
    every: dict[int, Mapping[str, Times]] = {}
    left_out: dict[int, Mapping[str, str]] = {}
    for length in fitting:
        question = _question(text_of(tokenizer, length))
        timed, why = _usable([reference, *(one for one in systems if one.label != reference.label)], question)
        left_out[length] = why

        def told(line: str, length: int = length) -> None:
            note(f"{length:,} tokens, {line}")

        every[length] = _times(timed, question, rounds, answer_tokens, told)
        found = Speed(
            machine=machine(),
            reference=reference.label,
            answer_tokens=answer_tokens,
            lengths=dict(every),
            left_out=dict(left_out),
        )
        keep(found)
    return found


def fitting_lengths(most: int, lengths: Sequence[int] = LENGTHS, answer_tokens: int = ANSWER_TOKENS) -> list[int]:
    """Lengths of text that fit a decoder of so many positions with question and answer.

    Raises:
        InputError: none does.
    """
    fitting = [length for length in lengths if length + _ROOM + answer_tokens <= most]
    if not fitting:
        raise InputError(
            f"no text of {min(lengths):,} tokens and its answer fit the {most:,} positions of the decoder; "
            "give shorter lengths to time: --speed-lengths 128,256"
        )
    return fitting


def machine() -> str:
    """What this runs on, in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _question(text: str) -> Question:
    return Question(id="speed", dataset="speed", contexts=(text,), question=_QUESTION, answers=("",))


def _usable(systems: Sequence[System], question: Question) -> tuple[dict[str, tuple[Timed, int]], dict[str, str]]:
    """Systems that can be timed with the positions they keep, and why the others cannot; each is warm after it."""
    found: dict[str, tuple[Timed, int]] = {}
    why: dict[str, str] = {}
    for system in systems:
        if not isinstance(system, Timed):
            why[system.label] = "answers in a process of its own"
            continue
        try:
            held = system.hold(question)
            write_answer(*system.prompt(held, question), 2)
            found[system.label] = (system, system.kept_of(held))
        except ContextTooLongError as error:
            why[system.label] = str(error)
    return found, why


def _times(
    systems: Mapping[str, tuple[Timed, int]],
    question: Question,
    rounds: int,
    tokens: int,
    note: Callable[[str], None],
) -> dict[str, Times]:
    """Times of every system with one text."""
    sides: dict[str, Callable[[], Mapping[str, float]]] = {}
    held: dict[str, Any] = {}
    stores: dict[str, bool] = {}
    for label, (system, _) in systems.items():
        held[label] = system.hold(question)
        stores[label] = not getattr(system, "sees_question", False)
        sides[label] = lambda system=system: _pressed(system, question, tokens)  # type: ignore[misc]
        if stores[label]:
            sides[f"{label} stored"] = lambda system=system, one=held[label]: _read(system, one, question, tokens)  # type: ignore[misc]
    times = interleave(sides, rounds=rounds, warm=False, note=note)
    return {
        label: _of(times, label, kept, stores[label], _peak(system, question, tokens))
        for label, (system, kept) in systems.items()
    }


def _of(times: Timings, label: str, kept: int, stores: bool, peak: int | None) -> Times:
    def series(name: str) -> tuple[float, ...]:
        return tuple(times.seconds[name])

    stored = f"{label} stored"
    return Times(
        compress=series(f"{label}: compress") if stores else None,
        first_token=series(f"{label}: first token"),
        total=series(label),
        stored_first_token=series(f"{stored}: first token") if stores else None,
        stored_total=series(stored) if stores else None,
        kept=kept,
        peak_bytes=peak,
    )


def _pressed(system: Timed, question: Question, tokens: int) -> Mapping[str, float]:
    began = time.perf_counter()
    held = system.hold(question)
    compressed = time.perf_counter() - began
    return {"compress": compressed, "first token": compressed + _read(system, held, question, tokens)["first token"]}


def _read(system: Timed, held: Any, question: Question, tokens: int) -> Mapping[str, float]:
    began = time.perf_counter()
    backbone, prompt = system.prompt(held, question)
    return {"first token": write_answer(backbone, prompt, tokens, began)[0]}


def _peak(system: Timed, question: Question, tokens: int) -> int | None:
    """Memory that compressing and answering take beside what was there before; None where the system cannot say."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        _pressed(system, question, tokens)
        return max(0, torch.cuda.max_memory_allocated() - before)
    before = resident_bytes()
    if not reset_peak():
        return None
    _pressed(system, question, tokens)
    return max(0, peak_bytes() - before)


def write_answer(backbone: Backbone, prompt: Tensor, tokens: int, began: float = 0.0) -> tuple[float, list[int]]:
    """Reads a prompt and writes so many tokens, never fewer.

    Args:
        backbone: what reads.
        prompt: input embeddings, `[T, D]`.
        tokens: of the answer.
        began: reading of `time.perf_counter` that the time is counted from.

    Returns:
        Seconds to the first token, and the tokens.
    """
    cache = KeyValueCache(1)
    states = prefill(backbone, [prompt], cache)
    written: list[int] = []
    first = 0.0
    for row in generate(backbone, states, cache, frozenset(), Sampling(max_new_tokens=tokens)):
        written.append(int(row[0] or 0))
        first = first or time.perf_counter() - began
    return first, written


@cache
def sample_text() -> str:
    """The document that comes with the library."""
    return (resources.files("latentpress") / "samples" / "demo_document.txt").read_text(encoding="utf-8")


def text_of(tokenizer: PreTrainedTokenizerBase, tokens: int) -> str:
    """A text of exactly so many tokens: the sample document, repeated and cut.

    Cut at a token's end, a text can have other tokens than the piece it was cut from; then the cut starts elsewhere.

    Raises:
        ValueError: none was found.
    """
    sample = sample_text().strip() + "\n\n"
    whole = sample * (2 + tokens // len(tokenize(tokenizer, sample).offsets))
    offsets = tokenize(tokenizer, whole).offsets
    for first in range(64):
        text = whole[offsets[first][0] : offsets[first + tokens - 1][1]]
        if text.strip() and len(tokenize(tokenizer, text).offsets) == tokens:
            return text
    raise ValueError(f"the sample document gives no text of {tokens} tokens with this tokenizer")
