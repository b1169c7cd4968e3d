"""Replies to records and rejects, in the order of the corpus."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from latentpress.data.held_out import normalised
from latentpress.synthesis.checks import Checked, QuestionMade, Rejection, check
from latentpress.synthesis.journal import Entry, Journal
from latentpress.synthesis.passages import Passage
from latentpress.synthesis.requests import Planner, Request, record_name
from latentpress.synthesis.settings import ABOUT_ONE, ABOUT_SEVERAL

Row = dict[str, Any]


@dataclass(kw_only=True, slots=True)
class Tally:
    """What an assembly came to."""

    records: int = 0
    """Rows of the data file."""
    by_language: Counter[str] = field(default_factory=Counter)
    """Records by language."""
    by_source: Counter[str] = field(default_factory=Counter)
    """Records by source."""
    replies: Counter[str] = field(default_factory=Counter)
    """Replies that were looked at, by task."""
    made: Counter[str] = field(default_factory=Counter)
    """Questions, summaries and ultra-concise summaries that are in a record, by task."""
    outside: int = 0
    """Questions among them whose answer is not in the context, as the teacher says itself."""
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Rejects by task and reason."""
    not_shorter: int = 0
    """Ultra-concise summaries not shorter than the summary of the same text, as those of dense texts may be."""
    log2_ratios: list[float] = field(default_factory=list)
    """Density labels of the ultra-concise summaries, log2 of the tokens of a text over those of its summary."""


class Assembly:
    """Makes records of what a journal holds.

    Args:
        journal: the replies.
        planner: names the requests that they answer.
        count: tokens of a text.
    """

    def __init__(self, journal: Journal, planner: Planner, count: Callable[[str], int]) -> None:
        self._journal, self._planner, self._count = journal, planner, count
        self._pairs: set[tuple[str, str]] = set()
        self.tally = Tally()
        self.rejects: list[Row] = []

    def rows(self, passages: Iterable[Passage], groups: Iterable[tuple[Passage, ...]]) -> Iterator[Row]:
        """Yields the records; `tally` and `rejects` are complete behind the last one.

        Replies to tasks that were asked for by an earlier run in the folder count too.
        """
        for tasks, texts in ((ABOUT_ONE, [(passage,) for passage in passages]), (ABOUT_SEVERAL, list(groups))):
            for one in texts:
                row = self._row(tasks, one)
                if row is not None:
                    self._note(row)
                    yield row

    def _row(self, tasks: Sequence[str], passages: tuple[Passage, ...]) -> Row | None:
        """The record about passages, None if no reply gave anything."""
        found = {}
        for task in tasks:
            request = self._planner.request(task, passages)
            if (entry := self._journal.reply(request.key)) is not None and entry.reply is not None:
                found[task] = (request, entry, check(request, entry.reply, cut_off=entry.cut_off, count=self._count))
                self.tally.replies[task] += 1
        asked: set[str] = set()
        questions = [(task, made) for task in found for made in self._new_questions(task, *found[task], asked)]
        for request, entry, checked in found.values():
            for rejection in checked.rejections:
                self._reject(request, entry, rejection)
        summaries = {
            task.replace("-", "_"): checked.summary
            for task, (_, _, checked) in found.items()
            if checked.summary is not None
        }
        if not questions and not summaries:
            return None
        if "summary" in summaries and "short_summary" in summaries:
            shorter = self._count(summaries["short_summary"]) < self._count(summaries["summary"])
            self.tally.not_shorter += not shorter
        first = passages[0]
        row: Row = {"id": record_name(passages), "source": first.source, "lang": first.lang}
        row["contexts"] = [passage.text for passage in passages]
        row["qas"] = [_qa(f"{row['id']}-q{number}", task, made) for number, (task, made) in enumerate(questions)]
        return {**row, **summaries}

    def _new_questions(
        self, task: str, request: Request, entry: Entry, checked: Checked, asked: set[str]
    ) -> Iterator[QuestionMade]:
        """Questions of a reply that were not asked about these texts, nor with the same answer about others."""
        for made in checked.questions:
            pair = normalised(made.question), normalised(made.answer)
            if pair[0] in asked or pair in self._pairs:
                reason = "question asked twice" if pair[0] in asked else "question and answer of another text"
                self._reject(request, entry, Rejection(reason=reason, detail=f"{made.question} {made.answer}"))
            else:
                asked.add(pair[0])
                self._pairs.add(pair)
                self.tally.made[task] += 1
                self.tally.outside += not made.in_context
                yield made

    def _reject(self, request: Request, entry: Entry, rejection: Rejection) -> None:
        self.tally.rejected[request.task, rejection.reason] += 1
        self.rejects.append(
            {
                "id": request.record,
                "task": request.task,
                "reason": rejection.reason,
                "detail": rejection.detail,
                "reply": entry.reply,
                "key": entry.key,
            }
        )

    def _note(self, row: Row) -> None:
        tally = self.tally
        tally.records += 1
        tally.by_language[row["lang"]] += 1
        tally.by_source[row["source"]] += 1
        tally.made["summary"] += "summary" in row
        if "short_summary" in row:
            tally.made["short-summary"] += 1
            ratio = self._count(row["contexts"][0]) / self._count(row["short_summary"])
            tally.log2_ratios.append(max(0.0, math.log2(ratio)))


def _qa(identifier: str, task: str, made: QuestionMade) -> Row:
    row: Row = {"id": identifier, "question": made.question, "answers": [made.answer], "task": task}
    if made.passages:
        row["passages"] = list(made.passages)
    return row if made.in_context else {**row, "in_context": False}
