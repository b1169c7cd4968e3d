"""A comparison: every system answers every set, into a folder that an interrupted run goes on with.

settings.json                    what was asked: sets with their digests, seed, answer length, base model
questions/<set>.jsonl            the questions with their answers, without their contexts
predictions/<set>/<label>.jsonl  what a system answered, written as it comes
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentpress.errors import InputError, LatentpressError
from latentpress.evaluation.datasets import Dataset
from latentpress.evaluation.predictions import Predictions
from latentpress.evaluation.questions import Answer, Question
from latentpress.evaluation.results import write_whole
from latentpress.evaluation.systems.base import System

BATCH = 32
"""Questions that a system is given at once."""
_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What is asked of whom."""

    out: Path
    """Folder of results."""
    sets: Sequence[Dataset]
    """Questions, in the order of their draw."""
    systems: Sequence[System]
    """Who answers."""
    settings: Mapping[str, Any]
    """Whatever else answers or scores depend on, the same for all: seed, protocol, base model."""
    answer_tokens: Mapping[str, int]
    """Most tokens of an answer, by kind of question."""
    peer_limit: int | None = None
    """Questions of each set that peers are asked, the first of the draw; None for all."""


@dataclass(slots=True)
class Outcome:
    """How a comparison went."""

    answered: int = 0
    """Questions answered in this run."""
    kept: int = 0
    """Questions whose answers were there."""
    failed: list[str] = field(default_factory=list)
    """A line for each system that could not go on with a set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a comparison stands."""

    label: str
    """System at work."""
    dataset: str
    """Set it answers."""
    done: int
    """Questions of all systems and sets that are answered."""
    total: int
    """Questions of all systems and sets."""


def run(comparison: Comparison, progress: Callable[[Progress], None] = lambda _: None) -> Outcome:
    """Has every question answered that has no answer yet.

    A system that cannot go on with a set is named in the outcome, and the others go on.

    Raises:
        InputError: the folder holds a comparison made with other settings, or predictions made otherwise.
    """
    prepare(comparison)
    jobs = [(system, one, _asked(comparison, system, one)) for system in comparison.systems for one in comparison.sets]
    files = [_predictions(comparison, system, one, asked) for system, one, asked in jobs]
    outcome = Outcome(kept=sum(len(file.rows) for file in files))
    total = sum(len(asked) for _, _, asked in jobs)
    done = outcome.kept
    for number, ((system, one, _), file) in enumerate(zip(jobs, files, strict=True)):
        most = comparison.answer_tokens[one.questions[0].kind]
        try:
            while batch := file.missing[:BATCH]:
                progress(Progress(label=system.label, dataset=one.name, done=done, total=total))
                answers = system.answer(batch, most)
                file.add([_row(answer) for answer in answers])
                outcome.answered += len(batch)
                done += len(batch)
        except LatentpressError as error:
            outcome.failed.append(f"{system.label} on {one.name}: {error}")
            done += len(file.missing)
        if number + 1 == len(jobs) or jobs[number + 1][0] is not system:
            system.close()
    return outcome


def prepare(comparison: Comparison) -> None:
    """Begins a folder of results, or makes sure that one was begun with the same settings.

    Raises:
        InputError: it holds a comparison made with other settings, or something else.
    """
    out, wanted = comparison.out, _settings(comparison)
    path = out / "settings.json"
    if path.exists():
        _check_same(path, wanted)
        return
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"{out} holds something else than a comparison; give an empty or a new folder as --out")
    (out / "questions").mkdir(parents=True, exist_ok=True)
    for one in comparison.sets:
        lines = [json.dumps(_published(question), ensure_ascii=False) for question in one.questions]
        write_whole(out / "questions" / f"{one.name}.jsonl", "\n".join(lines) + "\n")
    write_whole(path, json.dumps(wanted, indent=1, ensure_ascii=False) + "\n")


def grouped(questions: Sequence[Question]) -> list[Question]:
    """Questions with those about the same documents side by side, in the order in which these first come."""
    places: dict[tuple[str, ...], int] = {}
    for question in questions:
        places.setdefault(question.contexts, len(places))
    return sorted(questions, key=lambda question: places[question.contexts])


def _asked(comparison: Comparison, system: System, one: Dataset) -> list[Question]:
    limit = comparison.peer_limit if system.kind == "peer" else None
    return grouped(one.questions[:limit])


def _predictions(comparison: Comparison, system: System, one: Dataset, asked: Sequence[Question]) -> Predictions:
    about = {
        "name": system.name,
        "kind": system.kind,
        "reader": system.reader,
        "size": None if system.size is None else str(system.size),
        "label": system.label,
        "sees_question": system.sees_question,
        **system.identity(),
    }
    path = comparison.out / "predictions" / one.name / f"{system.label.replace('/', '_')}.jsonl"
    made_by = {"system": about, "max_new_tokens": comparison.answer_tokens[one.questions[0].kind]}
    return Predictions(path, made_by, asked)


def _row(answer: Answer) -> dict[str, Any]:
    row = {"prediction": answer.text, "tokens": answer.tokens, "kept": answer.kept, "bytes": answer.nbytes}
    return row if answer.error is None else row | {"error": answer.error}


def _settings(comparison: Comparison) -> dict[str, Any]:
    """Plain data, as JSON gives it back."""
    sets = [
        {
            "name": one.name,
            "digest": one.digest,
            "questions": len(one.questions),
            "kind": one.questions[0].kind,
            "dropped": {name: count for name, count in dataclasses.asdict(one.dropped).items() if count},
        }
        for one in comparison.sets
    ]
    settings = {"format": _FORMAT, **comparison.settings, "answer_tokens": comparison.answer_tokens, "sets": sets}
    return dict(json.loads(json.dumps(settings)))


def _check_same(path: Path, wanted: Mapping[str, Any]) -> None:
    try:
        there = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}); give another --out") from error
    for key in sorted({*there, *wanted}):
        if there.get(key) == wanted.get(key):
            continue
        old, new = _described(there.get(key)), _described(wanted.get(key))
        raise InputError(
            f"{path.parent} holds a comparison with other settings ({key}: {old} there, {new} now), and results are "
            "not mixed; give the same settings, or another --out"
        )


def _described(value: Any) -> str:
    """A setting in a message: sets by name, number and digest."""
    if isinstance(value, list):
        return ", ".join(f"{one['name']} ({one['questions']} questions, {one['digest'][:8]})" for one in value)
    return json.dumps(value)


def _published(question: Question) -> dict[str, Any]:
    """A question as a folder of results holds it: contexts are not ours to publish."""
    context = hashlib.sha256(json.dumps(question.contexts).encode()).hexdigest()[:16]
    return {
        "id": question.id,
        "question": question.question,
        "answers": question.answers,
        "lang": question.lang,
        "context": context,
        "digest": question.digest,
    }
