"""A folder of results as it is read: settings, questions, and the predictions of every system on every set.

    settings.json                         what was asked, and the sets with what was dropped of them
    questions/<set>.jsonl                 questions with their answers
    predictions/<set>/<label>.jsonl[.xz]  what made them in the first line, then a prediction a question
    failed.json                           why a system could not go on with a set, if any could not
    speed.json                            times, if they were measured

What is computed from them lies beside them: metrics.json, report.md and the pictures.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from latentpress.errors import InputError
from latentpress.evaluation.predictions import parse
from latentpress.evaluation.questions import Kind
from latentpress.evaluation.speed_schema import Speed
from latentpress.evaluation.systems.base import Size, SystemKind

FORMAT = 1
"""Of the folder, in `settings.json`."""
_KINDS: tuple[Kind, ...] = get_args(Kind)
_REMEDY = "run the comparison again, or give another folder"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A question as the folder holds it: without its context."""

    id: str
    """Name, unique in its set."""
    question: str
    """The question."""
    answers: tuple[str, ...]
    """Every answer that counts as right."""
    kind: Kind
    """How its answer is judged."""
    lang: str | None
    """Language code, if known."""
    digest: str
    """Identity of the question with its context."""
    context: str | None
    """Identity of its context, the same for all questions about it; None if the folder does not say."""
    source: str | None
    """Where its record comes from, such as a genre; None if the folder does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionSet:
    """One set of questions."""

    name: str
    """Of the set."""
    kind: Kind
    """How most of its answers are judged."""
    digest: str
    """Identity of the set."""
    questions: tuple[Asked, ...]
    """In the order in which they are asked."""
    dropped: Mapping[str, int]
    """How many questions were left out, by reason."""

    @property
    def kinds(self) -> dict[Kind, int]:
        """How many questions there are of each kind that comes."""
        counts = {kind: sum(one.kind == kind for one in self.questions) for kind in _KINDS}
        return {kind: count for kind, count in counts.items() if count} or {self.kind: 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """What the header of a file of predictions says of the system."""

    label: str
    """Name, size and reader; unique in the folder."""
    name: str
    """Of the family or press."""
    kind: SystemKind
    """`press`, `bound` or `peer`."""
    reader: str
    """What reads the context."""
    size: Size | None
    """How much it was asked to keep; None where that is no question."""
    sees_question: bool
    """It knows the question while it compresses."""
    identity: Mapping[str, Any]
    """Whatever else its answers depend on."""


@dataclass(frozen=True, slots=True)
class Folder:
    """Everything that scores are computed from."""

    settings: Mapping[str, Any]
    """As `settings.json` holds them."""
    sets: tuple[QuestionSet, ...]
    """In the order of the settings."""
    systems: Mapping[str, Described]
    """By label."""
    predictions: Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]]
    """Rows by set and label, each by the place of its question in the set."""
    asked: Mapping[tuple[str, str], int]
    """How many questions of a set a system is asked, whether it has answered yet or not; by set and label."""
    failed: Mapping[tuple[str, str], str]
    """Why a system could not go on with a set, by set and label."""
    speed: Speed | None
    """Times, if they were measured."""


def read_folder(out: Path) -> Folder:
    """Reads a folder of results; half a line at the end of an interrupted file is passed over.

    Raises:
        InputError: a file is missing, cannot be read, or answers other questions than the folder's.
    """
    path = out / "settings.json"
    try:
        settings = json.loads(path.read_bytes())
        if settings["format"] != FORMAT:
            raise InputError(f"{path} is of format {settings['format']!r}, not {FORMAT}; {_REMEDY}")
        sets = tuple(_read_set(out, one) for one in settings["sets"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read ({error!r}), so {out} is no folder of results; {_REMEDY}") from error
    systems: dict[str, Described] = {}
    predictions: dict[tuple[str, str], Mapping[int, Mapping[str, Any]]] = {}
    asked: dict[tuple[str, str], int] = {}
    for one in sets:
        for file, header, rows in _files(out / "predictions" / one.name):
            described, count = _described(file, header)
            if systems.setdefault(described.label, described) != described:
                raise InputError(
                    f"{file} and the predictions of {described.label!r} on another set were made otherwise; {_REMEDY}"
                )
            if (one.name, described.label) in predictions:
                raise InputError(f"{file} is a second file of {described.label!r} on {one.name}; remove one of them")
            predictions[one.name, described.label] = _placed(file, one, rows)
            asked[one.name, described.label] = count
    speed = out / "speed.json"
    times = Speed.read(speed) if speed.exists() else None
    return Folder(settings, sets, systems, predictions, asked, _read_failed(out / "failed.json"), times)


def _read_set(out: Path, about: Mapping[str, Any]) -> QuestionSet:
    path = out / "questions" / f"{about['name']}.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_bytes().decode().split("\n") if line]
        questions = tuple(
            Asked(
                id=row["id"],
                question=row["question"],
                answers=tuple(row["answers"]),
                kind=_kind(row["kind"]),
                lang=row.get("lang"),
                digest=row["digest"],
                context=row.get("context"),
                source=row.get("source") or None,
            )
            for row in rows
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error!r}); {_REMEDY}") from error
    return QuestionSet(
        name=about["name"],
        kind=_kind(about["kind"]),
        digest=about["digest"],
        questions=questions,
        dropped=dict(about.get("dropped", {})),
    )


def _kind(word: str) -> Kind:
    """A kind of question by name.

    Raises:
        ValueError: there is none.
    """
    for kind in _KINDS:
        if kind == word:
            return kind
    raise ValueError(f"kind {word!r} is none of {', '.join(_KINDS)}")


def _read_failed(path: Path) -> Mapping[tuple[str, str], str]:
    try:
        content = json.loads(path.read_bytes()) if path.exists() else {}
        return {(name, label): str(why) for name, every in content.items() for label, why in every.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} cannot be read ({error!r}); {_REMEDY}") from error


def _files(folder: Path) -> Iterator[tuple[Path, Mapping[str, Any], Sequence[Mapping[str, Any]]]]:
    """Files of predictions of a set, each with its header and its whole lines."""
    for path in sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.xz")]):
        try:
            content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        except (OSError, lzma.LZMAError) as error:
            raise InputError(f"{path} cannot be read ({error}); {_REMEDY}") from error
        whole, _, _ = content.rpartition(b"\n")
        if whole:
            yield path, *parse(path, whole)


def _described(path: Path, header: Mapping[str, Any]) -> tuple[Described, int]:
    """The system that a header names, and how many questions it is asked."""
    try:
        system = dict(header["system"])
        size = system["size"]
        described = Described(
            label=system["label"],
            name=system["name"],
            kind=system["kind"],
            reader=system["reader"],
            size=Size.parse(size) if size else None,
            sees_question=system["sees_question"],
            identity=dict(system["identity"]),
        )
        return described, int(header["asked"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} does not say what made its predictions ({error!r}); {_REMEDY}") from error


def _placed(path: Path, one: QuestionSet, rows: Sequence[Mapping[str, Any]]) -> Mapping[int, Mapping[str, Any]]:
    """Rows by the place of their question."""
    places = {question.id: place for place, question in enumerate(one.questions)}
    placed: dict[int, Mapping[str, Any]] = {}
    for line, row in enumerate(rows, 2):
        place = places.get(row.get("id", ""))
        if place is None or row.get("question") != one.questions[place].digest:
            raise InputError(f"{path}, line {line}, answers a question that is not in questions/{one.name}; {_REMEDY}")
        if place in placed:
            raise InputError(f"{path}, line {line}, answers question {row['id']!r} a second time; {_REMEDY}")
        if row.get("error") is None and not {"prediction", "tokens", "kept"} <= row.keys():
            raise InputError(f"{path}, line {line}, lacks prediction, tokens or kept; {_REMEDY}")
        placed[place] = row
    return placed
