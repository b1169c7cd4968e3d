"""Data sets as questions: what is kept of a set, how many questions are drawn, and what was left out."""

from __future__ import annotations

import hashlib
import json
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace

from latentpress.data.records import QA, Record
from latentpress.errors import DataError, InputError
from latentpress.evaluation.formats import read_content
from latentpress.evaluation.metrics import contains_cjk, word_tokens
from latentpress.evaluation.questions import BETWEEN, Kind, Question
from latentpress.evaluation.sources import Source

__all__ = ["Dataset", "Dropped", "Selection", "read_dataset"]

_SUMMARY_WORDS = 20
_LETTER = re.compile(r"[A-Z]")
_FIRST_OPTION = "\nA. "
_SEVERAL = "several"  # source of a document whose parts have different ones


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which questions of a set are asked, and of what."""

    min_tokens: int = 0
    """Context tokens below which a question is left out."""
    max_tokens: int | None = None
    """Context tokens above which a question is left out; None for no limit."""
    join: int | None = None
    """Joins neighbouring contexts to documents of up to so many tokens, before their length is judged; None: as is."""
    limit: int | None = None
    """Number of questions drawn; None for all."""
    seed: int = 0
    """Of the draw."""

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            InputError: one is out of range.
        """
        if self.min_tokens < 0 or (self.max_tokens is not None and self.max_tokens < max(1, self.min_tokens)):
            most = "any number of" if self.max_tokens is None else self.max_tokens
            raise InputError(
                f"--min-tokens and --max-tokens: contexts of {self.min_tokens} to {most} tokens are none; "
                "give a minimum of at least 0, and a maximum of at least 1 that is not below the minimum"
            )
        for name, value in (("limit", self.limit), ("join", self.join)):
            if value is not None and value < 1:
                raise InputError(f"{name} {value} is below 1; give a positive number, or leave it out")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """Number of questions that are not asked, by reason."""

    impossible: int = field(default=0, metadata={"reason": "marked as impossible"})
    """The set says that the text does not answer it."""
    unanswered: int = field(default=0, metadata={"reason": "without an answer"})
    """No answer is given to score by."""
    too_short: int = field(default=0, metadata={"reason": "with too short a context"})
    """Fewer context tokens than the minimum."""
    too_long: int = field(default=0, metadata={"reason": "with too long a context"})
    """More context tokens than the maximum."""
    not_drawn: int = field(default=0, metadata={"reason": "beyond the limit"})
    """Good, but not among the first of the draw."""

    def __str__(self) -> str:
        """`12 marked as impossible, 1,340 beyond the limit`, or `none`."""
        counts = ((getattr(self, one.name), one.metadata["reason"]) for one in fields(self))
        return ", ".join(f"{count:,} {reason}" for count, reason in counts if count) or "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A set as it is asked."""

    name: str
    """What reports call it."""
    place: str
    """Where it was read from."""
    questions: tuple[Question, ...]
    """In the order of the draw; those about one context are not side by side."""
    dropped: Dropped
    """What is not asked, and why."""

    @property
    def digest(self) -> str:
        """SHA-256 of the questions' contents in their order: contexts, questions and answers, not ids or the file."""
        found = hashlib.sha256()
        for question in self.questions:
            found.update(json.dumps([question.digest, question.answers]).encode())
        return found.hexdigest()


def read_dataset(source: Source, *, count_tokens: Callable[[str], int], selection: Selection | None = None) -> Dataset:
    """Reads a set and draws its questions.

    The draw gives every question a place by the seed and its contents alone. So a limit of 200 gives the first 200 of a
    limit of 500, a filter leaves the others in their order, and where a file has its rows does not matter.

    A question is a `choice` if each of its answers is one capital letter and it lists options ("A. " begins a line).
    The others of a set are `summary` if the median of their first answers is over 20 words (Chinese: characters), else
    `span`. The language is the record's; where it says none, "zh" if the question holds Chinese (not the answers: an
    English set asks for Chinese names too, and a Chinese one for numbers).

    Args:
        source: the set.
        count_tokens: tokens of a text in the base model's tokenizer; called once a context, and only where the
            selection asks for lengths.
        selection: what is asked of it; None for all.

    Raises:
        DataError: the file cannot be read, or no question has an answer.
        InputError: the selection leaves nothing over; the message says what dropped everything.
    """
    wanted = selection or Selection()
    content = read_content(source.place, hub=source.hub, subset=source.subset)
    every = [qa for record in content.records for qa in record.qas]
    dropped = Counter(impossible=content.impossible, unanswered=content.unanswered)
    if not every:
        raise DataError(
            f"{source.place}: holds {len(content.records):,} contexts and no question with an answer "
            f"(left out: {Dropped(**dropped)}); give questions with their answers, or another set"
        )
    kind = _kind_of_set(every)
    records: Iterable[Record] = content.records
    if wanted.join is not None:
        records = _joined(content.records, count_tokens, wanted.join)
    questions = []
    for record in records:
        reason = _unfit(record, wanted, count_tokens) if record.qas else None
        if reason:
            dropped[reason] += len(record.qas)
        else:
            questions += [_question(source.name, record, qa, kind) for qa in record.qas]
    drawn = _drawn(_with_own_ids(questions), wanted.seed)[: wanted.limit]
    dropped["not_drawn"] = len(questions) - len(drawn)
    if not drawn:
        most = "or more" if wanted.max_tokens is None else f"to {wanted.max_tokens:,}"
        raise InputError(
            f"data set {source.name!r} ({source.place}) has no question left (left out: {Dropped(**dropped)}); "
            f"contexts of {wanted.min_tokens:,} {most} tokens are asked for: widen the limits"
        )
    return Dataset(name=source.name, place=source.place, questions=tuple(drawn), dropped=Dropped(**dropped))


def _kind_of_set(qas: Sequence[QA]) -> Kind:
    """Kind of the questions that are no choice; decided by the whole set, so that no filter changes it."""
    words = [len(word_tokens(qa.answers[0])) for qa in qas if not _is_choice(qa)]
    return "summary" if words and statistics.median(words) > _SUMMARY_WORDS else "span"


def _is_choice(qa: QA) -> bool:
    return _FIRST_OPTION in qa.question and all(_LETTER.fullmatch(answer.strip()) for answer in qa.answers)


def _joined(records: Sequence[Record], count_tokens: Callable[[str], int], limit: int) -> Iterator[Record]:
    """Yields documents of neighbouring contexts, up to `limit` tokens, with all their questions.

    A longer context stays alone; contexts without questions are joined too. Each is counted with the blank line before
    it. The language of a document is the one that all its parts share.
    """
    parts: list[Record] = []
    tokens = 0
    for record in records:
        more = count_tokens(BETWEEN + BETWEEN.join(record.contexts))
        if parts and tokens + more > limit:
            yield _document(parts)
            parts, tokens = [], 0
        parts.append(record)
        tokens += more
    if parts:
        yield _document(parts)


def _document(parts: Sequence[Record]) -> Record:
    languages = {record.lang for record in parts}
    sources = {record.source for record in parts}
    return Record(
        id=parts[0].id,
        contexts=(BETWEEN.join(text for record in parts for text in record.contexts),),
        qas=tuple(qa for record in parts for qa in record.qas),
        summary=None,
        short_summary=None,
        source=sources.pop() if len(sources) == 1 else _SEVERAL,
        lang=languages.pop() if len(languages) == 1 else None,
    )


def _unfit(record: Record, wanted: Selection, count_tokens: Callable[[str], int]) -> str | None:
    """The reason to leave out the questions of a context, a field of `Dropped`; None if they are asked."""
    if not wanted.min_tokens and wanted.max_tokens is None:
        return None
    tokens = sum(count_tokens(text) for text in record.contexts)
    if tokens < wanted.min_tokens:
        return "too_short"
    return "too_long" if wanted.max_tokens is not None and tokens > wanted.max_tokens else None


def _question(dataset: str, record: Record, qa: QA, kind: Kind) -> Question:
    return Question(
        id=qa.id,
        dataset=dataset,
        contexts=record.contexts,
        question=qa.question,
        answers=qa.answers,
        kind="choice" if _is_choice(qa) else kind,
        lang=record.lang or ("zh" if contains_cjk(qa.question) else None),
        source=record.source,
    )


def _with_own_ids(questions: Sequence[Question]) -> list[Question]:
    """The questions with ids that are theirs alone: `a#2` for the second of the id `a`."""
    taken: set[str] = set()
    own = []
    for question in questions:
        name, count = question.id, 1
        while name in taken:
            count += 1
            name = f"{question.id}#{count}"
        taken.add(name)
        own.append(replace(question, id=name))
    return own


def _drawn(questions: Sequence[Question], seed: int) -> list[Question]:
    """All questions in the order of a draw."""

    def place(question: Question) -> bytes:
        return hashlib.sha256(json.dumps([seed, question.digest, question.answers]).encode()).digest()

    return sorted(questions, key=place)
