"""Times of compared systems, taken in one run, in turn, after a warm-up: the file `speed.json`.

At each length of text, in each round, every system compresses and answers once, and answers once from what it kept
before; so times of one round belong together (`latentpress.evaluation.timing.interleave`). A system with a process of
its own takes its turn like all others, and its process waits while they have theirs.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import torch

from latentpress.errors import ContextTooLongError, InputError, PeerError
from latentpress.evaluation.memory import give_back_freed, peak_bytes, reset_peak, resident_bytes
from latentpress.evaluation.questions import Question
from latentpress.evaluation.speed_schema import Speed, Times
from latentpress.evaluation.systems.base import System
from latentpress.evaluation.systems.timed import Held, Here, Timed, TimesItself
from latentpress.evaluation.timing import Timings, interleave
from latentpress.tokens import tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LENGTHS = (512, 2048, 7900)
ANSWER_TOKENS = 16
ROUNDS = 5
_ROOM = 64  # positions of template and question beside the context, at most
_QUESTION = "What is this article about?"


def measure(
    systems: Sequence[System],
    reference: System,
    tokenizer: PreTrainedTokenizerBase,
    most: int,
    *,
    cached: System | None = None,
    lengths: Sequence[int] | None = None,
    rounds: int = ROUNDS,
    answer_tokens: int = ANSWER_TOKENS,
    note: Callable[[str], None] = lambda _: None,
    keep: Callable[[Speed], None] = lambda _: None,
) -> Speed:
    """Measures systems at several lengths of text.

    Args:
        systems: what is timed; those that cannot be, or do not fit, are named in `left_out`.
        reference: the reader of the full text that ratios are taken to.
        tokenizer: by which texts are cut to length.
        most: positions of the decoder; longer texts are left out.
        cached: the same reader, which keeps what it has read between questions.
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
    elsewhere: dict[str, str] = {}
    for length in fitting:
        question = _question(text_of(tokenizer, length))
        beside = [] if cached is None else [cached]
        wanting = [reference, *beside, *(one for one in systems if one.label != reference.label)]
        subjects, left_out[length] = _usable(wanting, question, answer_tokens)
        elsewhere |= {label: one.elsewhere for label, one in subjects.items() if one.elsewhere}

        def told(line: str, length: int = length) -> None:
            note(f"{length:,} tokens, {line}")

        every[length] = _times(subjects, rounds, told)
        found = Speed(
            machine=machine(),
            reference=reference.label,
            cached=None if cached is None else cached.label,
            answer_tokens=answer_tokens,
            lengths=dict(every),
            left_out=dict(left_out),
            elsewhere=dict(elsewhere),
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Subject:
    """A system with one text, warm."""

    system: System
    parts: TimesItself
    """Its parts."""
    question: Question
    tokens: int
    """Of every answer."""
    held: Held
    """What it keeps of the text."""
    elsewhere: str
    """What of it runs in a process of its own, in words; empty for nothing."""

    def from_text(self) -> Mapping[str, float]:
        """Compresses and answers."""
        held = self.parts.timed_hold(self.question)
        read = self.parts.timed_read(held, self.question, self.tokens)
        return {
            "compress": held.seconds,
            "first token": held.seconds + read.first_token,
            "total": held.seconds + read.total,
        }

    def from_stored(self) -> Mapping[str, float]:
        """Answers from what was kept before."""
        read = self.parts.timed_read(self.held, self.question, self.tokens)
        return {"first token": read.first_token, "total": read.total}

    def peak(self) -> int | None:
        """Memory that `from_text` takes beside what was there before, in the process that takes most; None if unknown.

        A system's processes work in turn, so they do not need theirs at once.
        """
        worker = self.system.worker
        if torch.cuda.is_available():
            if worker is not None:  # what it takes of the device is not known here
                return None
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self.from_text()
            return max(0, torch.cuda.max_memory_allocated() - before)
        give_back_freed()
        if worker is not None:
            worker.give_back_freed()
        processes = ["self"] if worker is None else ["self", str(worker.pid)]
        if not all(map(reset_peak, processes)):
            return None
        before_each = list(map(resident_bytes, processes))
        self.from_text()
        return max(0, *(peak_bytes(one) - before for one, before in zip(processes, before_each, strict=True)))


def _usable(systems: Sequence[System], question: Question, tokens: int) -> tuple[dict[str, _Subject], dict[str, str]]:
    """Systems that can be timed, each warm, and why the others cannot."""
    found: dict[str, _Subject] = {}
    why: dict[str, str] = {}
    for system in systems:
        if isinstance(system, TimesItself):
            parts: TimesItself = system
        elif isinstance(system, Timed):
            parts = Here(system)
        else:
            why[system.label] = "it does not say how its parts are timed"
            continue
        try:
            held = parts.timed_hold(question)
            parts.timed_read(held, question, 2)
            found[system.label] = _Subject(
                system=system, parts=parts, question=question, tokens=tokens, held=held, elsewhere=_elsewhere(system)
            )
        except (ContextTooLongError, PeerError) as error:
            why[system.label] = str(error)
    return found, why


def _elsewhere(system: System) -> str:
    """What of a system runs in a process of its own, on which code; empty for nothing."""
    if system.worker is None:
        return ""
    does = "compresses" if isinstance(system, Timed) else "compresses and answers"
    packages = [f"{name} {version}" for name, version in system.worker.versions.items() if name != "python"]
    return f"{does} in a process of its own ({', '.join(packages)})"


def _times(subjects: Mapping[str, _Subject], rounds: int, note: Callable[[str], None]) -> dict[str, Times]:
    """Times of every system with one text."""
    sides: dict[str, Callable[[], Mapping[str, float]]] = {}
    for label, one in subjects.items():
        sides[label] = one.from_text
        if not one.system.sees_question:
            sides[f"{label} stored"] = one.from_stored
    taken = interleave(sides, rounds=rounds, warm=False, note=note)
    return {label: _of(taken, label, one) for label, one in subjects.items()}


def _of(taken: Timings, label: str, subject: _Subject) -> Times:
    def series(name: str) -> tuple[float, ...]:
        return tuple(taken.seconds[name])

    stored = None if subject.system.sees_question else f"{label} stored"
    return Times(
        compress=series(f"{label}: compress"),
        first_token=series(f"{label}: first token"),
        total=series(f"{label}: total"),
        stored_first_token=series(f"{stored}: first token") if stored else None,
        stored_total=series(f"{stored}: total") if stored else None,
        kept=subject.held.kept,
        peak_bytes=subject.peak(),
    )


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
