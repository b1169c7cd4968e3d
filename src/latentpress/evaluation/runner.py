"""A comparison: every system answers every set, into a folder that an interrupted run goes on with.

settings.json                    what was asked: sets with their digests, seed, answer length, base model
questions/<set>.jsonl            the questions with their answers, without their contexts
predictions/<set>/<label>.jsonl  what a system answered, written as it comes
failed.json                      why a system could not go on with a set, if any could not
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentpress.errors import InputError, LatentpressError, PeerGoneError
from latentpress.evaluation.datasets import Dataset
from latentpress.evaluation.predictions import Predictions
from latentpress.evaluation.questions import Answer, Question
from latentpress.evaluation.results import FORMAT
from latentpress.evaluation.systems.base import System
from latentpress.files import write_whole

BATCH = 32
"""Questions that a system is given at once."""


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
    asked_how: Mapping[str, Any] = field(default_factory=dict)
    """What else the report says of how it was asked; of the last run in the folder."""
    answer_tokens: Mapping[str, int]
    """Most tokens of an answer, by kind of question."""
    peer_limit: int | None = None
    """Questions of each set that peers are asked, the first of the draw; None for all."""
    cut_limit: int | None = None
    """The same for bounds that read part of a text."""
    begun: Mapping[str, Any] | None = None
    """When and where: written into new files of predictions, see `latentpress.evaluation.origin`."""


@dataclass(slots=True)
class Outcome:
    """How a comparison went."""

    answered: int = 0
    """Questions answered in this run."""
    kept: int = 0
    """Questions whose answers were there."""
    failed: dict[str, dict[str, str]] = field(default_factory=dict)
    """Why a system could not go on, by set and label."""


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


def run(
    comparison: Comparison, progress: Callable[[Progress], None] = lambda _: None, *, close: bool = True
) -> Outcome:
    """Has every question answered that has no answer yet.

    A question that alone makes a system fail is recorded with its error. A system that fails on all of a batch about
    several texts, or because a peer's process has gone, is left out of the rest of the set and named in the outcome,
    to be asked again by the next run, and the others go on.

    Args:
        comparison: what is asked of whom.
        progress: told before each batch.
        close: gives each system's processes back once it has answered.

    Raises:
        InputError: the folder holds a comparison made with other settings, or predictions made otherwise.
    """
    prepare(comparison)
    files: dict[tuple[System, str], Predictions] = {}
    total = 0
    for system, one in itertools.product(comparison.systems, comparison.sets):
        asked = _asked(comparison, system, one)
        files[system, one.name] = _predictions(comparison, system, one, asked)
        total += len(asked)
    _write_settings(comparison)
    outcome = Outcome(kept=sum(len(file.rows) for file in files.values()))
    done = outcome.kept
    for systems in _in_turn(comparison.systems):
        for one in comparison.sets:
            open_files = {system: files[system, one.name] for system in systems if files[system, one.name].missing}
            while open_files:
                for system, file in list(open_files.items()):
                    progress(Progress(label=system.label, dataset=one.name, done=done, total=total))
                    batch = _batch(file.missing)
                    try:
                        answers = _answers(system, batch, comparison.answer_tokens[batch[0].kind])
                    except LatentpressError as error:
                        outcome.failed.setdefault(one.name, {})[system.label] = str(error)
                        done += len(file.missing)
                        del open_files[system]
                        continue
                    file.add([_row(answer) for answer in answers])
                    outcome.answered += len(batch)
                    done += len(batch)
                    if not file.missing:
                        del open_files[system]
        if close:
            for system in systems:
                system.close()
    _write_failed(comparison, outcome.failed)
    return outcome


def _in_turn(systems: Sequence[System]) -> list[list[System]]:
    """Systems that share work next to each other; any other alone."""
    groups: dict[int, list[System]] = {}
    for system in systems:
        groups.setdefault(id(system if system.shares is None else system.shares), []).append(system)
    return list(groups.values())


def _batch(missing: Sequence[Question]) -> list[Question]:
    """The next questions, of one kind: kinds have answers of different lengths."""
    return list(itertools.takewhile(lambda question: question.kind == missing[0].kind, missing[:BATCH]))


def _answers(system: System, batch: Sequence[Question], most: int) -> Sequence[Answer]:
    """Answers of a batch; where it fails as a whole, of each question alone.

    Raises:
        LatentpressError: every question fails, and they are about several texts, or a peer's process has gone.
    """
    try:
        answers = system.answer(batch, most)
    except LatentpressError as error:
        alone = [_alone(system, question, most) for question in batch]
        failed = [one for one in alone if isinstance(one, LatentpressError)]
        several = len({question.contexts for question in batch}) > 1
        if len(failed) == len(batch) and (several or any(isinstance(one, PeerGoneError) for one in failed)):
            raise error
        return [_failed(one) if isinstance(one, LatentpressError) else one for one in alone]
    if len(answers) != len(batch):
        raise InputError(
            f"{system.label} gave {len(answers)} answers to {len(batch)} questions, so whose they are is not known; "
            "its adapter must give one for each"
        )
    return answers


def _alone(system: System, question: Question, most: int) -> Answer | LatentpressError:
    try:
        return system.answer([question], most)[0]
    except LatentpressError as error:
        return error


def _failed(error: LatentpressError) -> Answer:
    return Answer(text="", tokens=0, kept=0, error=str(error))


def _write_failed(comparison: Comparison, failed: Mapping[str, Mapping[str, str]]) -> None:
    """Keeps the reasons of systems that are not part of this run."""
    path = comparison.out / "failed.json"
    before = _reasons(path)
    here = {system.label for system in comparison.systems}
    every: dict[str, dict[str, str]] = {
        name: {label: why for label, why in there.items() if label not in here} for name, there in before.items()
    }
    for name, reasons in failed.items():
        every.setdefault(name, {}).update(reasons)
    if every := {name: reasons for name, reasons in every.items() if reasons}:
        write_whole(path, json.dumps(every, indent=1, ensure_ascii=False) + "\n")
    else:
        path.unlink(missing_ok=True)


def _reasons(path: Path) -> dict[str, dict[str, str]]:
    """What stands in failed.json; nothing if it cannot be read: it is written anew."""
    try:
        return {name: dict(there) for name, there in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


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
    if out.is_file() or (out.is_dir() and any(there.name != "questions" for there in out.iterdir())):
        raise InputError(f"{out} holds something else than a comparison; give an empty or a new folder as --out")
    (out / "questions").mkdir(parents=True, exist_ok=True)
    for one in comparison.sets:
        lines = [json.dumps(_published(question), ensure_ascii=False) for question in one.questions]
        write_whole(out / "questions" / f"{one.name}.jsonl", "\n".join(lines) + "\n")
    _write_settings(comparison)


def _write_settings(comparison: Comparison) -> None:
    settings = json.dumps(_settings(comparison), indent=1, ensure_ascii=False)
    write_whole(comparison.out / "settings.json", settings + "\n")


def grouped(questions: Sequence[Question]) -> list[Question]:
    """Questions of a kind together, in it those about the same documents, in the order in which they first come."""
    places: dict[tuple[str, tuple[str, ...]], int] = {}
    kinds: dict[str, int] = {}
    for question in questions:
        places.setdefault((question.kind, question.contexts), len(places))
        kinds.setdefault(question.kind, len(kinds))
    return sorted(questions, key=lambda question: (kinds[question.kind], places[question.kind, question.contexts]))


def _asked(comparison: Comparison, system: System, one: Dataset) -> list[Question]:
    limit = None
    if system.kind == "peer":
        limit = comparison.peer_limit
    elif system.kind == "bound" and system.size is not None:
        limit = comparison.cut_limit
    return grouped(one.questions[:limit])


def _predictions(comparison: Comparison, system: System, one: Dataset, asked: Sequence[Question]) -> Predictions:
    about = {
        "name": system.name,
        "kind": system.kind,
        "reader": system.reader,
        "size": None if system.size is None else str(system.size),
        "label": system.label,
        "sees_question": system.sees_question,
        "identity": system.identity(),
    }
    path = comparison.out / "predictions" / one.name / f"{system.label.replace('/', '_')}.jsonl"
    made_by = {"system": about, "asked": len(asked), "max_new_tokens": comparison.answer_tokens}
    return Predictions(path, made_by, asked, begun=comparison.begun)


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
            "kind": Counter(question.kind for question in one.questions).most_common(1)[0][0],
            "dropped": {name: count for name, count in dataclasses.asdict(one.dropped).items() if count},
        }
        for one in comparison.sets
    ]
    settings = {
        "format": FORMAT,
        **comparison.settings,
        "answer_tokens": comparison.answer_tokens,
        "sets": sets,
        "asked_how": comparison.asked_how,
    }
    return dict(json.loads(json.dumps(settings)))


def _check_same(path: Path, wanted: Mapping[str, Any]) -> None:
    try:
        there = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}); give another --out") from error
    for key in sorted({*there, *wanted} - {"asked_how"}):
        if there.get(key) == wanted.get(key):
            continue
        old, new = (_described(every.get(key)) for every in (there, wanted))
        raise InputError(
            f"{path.parent} holds a comparison with other settings ({key}: {old} there, {new} now), and results are "
            "not mixed; give the same settings, or another --out"
        )


def _described(value: Any) -> str:
    """A setting in a message: sets by name, number, kind, digest and what was left out."""
    if not isinstance(value, list):
        return json.dumps(value)
    return ", ".join(
        f"{one['name']} ({one['questions']} questions, {one['kind']}, {one['digest'][:8]}, left out "
        f"{sum(one['dropped'].values())})"
        for one in value
    )


def _published(question: Question) -> dict[str, Any]:
    """A question as a folder of results holds it: contexts are not ours to publish."""
    context = hashlib.sha256(json.dumps(question.contexts).encode()).hexdigest()[:16]
    return {
        "id": question.id,
        "question": question.question,
        "answers": question.answers,
        "kind": question.kind,
        "lang": question.lang,
        "source": question.source,
        "context": context,
        "digest": question.digest,
    }
