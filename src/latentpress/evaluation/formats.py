"""Rows of data sets to records, whatever they were published in.

Told by what a row holds, not by the file's name:

    {context | contexts, qas: [{question, answers, id?}]}                           this library's rows
    {header: ...}, then {context, qas: [{qid, question, answers}]}                  MRQA 2019
    {data: [{paragraphs: [{context, qas: [{id, question, answers: [{text}]}]}]}]}   SQuAD 1.1 and 2
    {context | contexts, question, answer | answers, id?}                           one question a row; most hub sets

Files hold one JSON value a line, or are one JSON object over several lines; plain, .xz or .gz.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latentpress.data.records import (
    BYTE_ORDER_MARK,
    QA,
    UNREADABLE,
    Record,
    RowReader,
    file_rows,
    hub_rows,
    hub_stem,
    open_binary,
)
from latentpress.errors import DataError

__all__ = ["Content", "read_content"]

# Stand where a question has no answer until its row is checked, so that messages and ids count all questions of a row.
_IMPOSSIBLE, _UNANSWERED = "\0impossible", "\0unanswered"


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What a file or a set of the hub holds."""

    records: tuple[Record, ...]
    """Different contexts in order, each with all its questions that have an answer."""
    impossible: int
    """Questions that are marked as having no answer in the text; left out."""
    unanswered: int
    """Other questions without an answer; left out."""


def read_content(place: str, *, hub: bool = False, subset: str | None = None) -> Content:
    """Reads a whole set.

    Args:
        place: file, or hub id "org/name[@configuration][:split]".
        hub: the place is a hub id.
        subset: takes only rows whose field `subset` says so, case aside; None takes all.

    Raises:
        DataError: names file:line, the field and the remedy; or the file when it is missing, a folder, empty,
            truncated or no text.
    """
    stem = hub_stem(place) if hub else Path(place).name.partition(".")[0] or place
    rows = ((f"{place}:{number}", value) for number, value in (hub_rows(place) if hub else _rows_of_file(Path(place))))
    records = []
    found = False
    for number, (where, values) in enumerate(_single_rows(rows, subset), start=1):
        found = True
        row = RowReader(values=_answers_listed(values), where=where, default_id=f"{stem}-{number}", default_source=stem)
        records.append(row.record())
    if not found:
        rows_of = f"no rows of subset {subset!r}" if subset else "no rows"
        raise DataError(f"{place}: holds {rows_of}; give contexts with questions and answers, one JSON object a line")
    marks = [qa.answers[0] for record in records for qa in record.qas]
    return Content(
        records=tuple(_merged(records)),
        impossible=marks.count(_IMPOSSIBLE),
        unanswered=marks.count(_UNANSWERED),
    )


def _rows_of_file(file: Path) -> Iterator[tuple[int, Any]]:
    """Yields (line number from 1, value) for every line that is not blank, or a file's only value."""
    rows = file_rows(file)
    try:
        first = next(rows, None)
    except DataError:
        whole = _only_object(file)
        if whole is None:
            raise
        first = (1, whole)
        rows = iter(())
    if first:
        yield first
        yield from rows


def _only_object(file: Path) -> dict[str, Any] | None:
    """The JSON object that is the whole file, over several lines; None where there is no such thing."""
    try:
        with open_binary(file) as lines:
            value = json.loads(b"".join(lines).removeprefix(BYTE_ORDER_MARK))
    except (*UNREADABLE, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _single_rows(rows: Iterable[tuple[str, Any]], subset: str | None) -> Iterator[tuple[str, Any]]:
    """Yields rows of one record each: without headers, SQuAD's opened, the question of a flat row in `qas`."""
    for where, value in rows:
        if not isinstance(value, dict):
            yield where, value
        elif subset and str(value.get("subset")).casefold() != subset.casefold():
            continue
        elif isinstance(value.get("data"), list):
            yield from _squad_rows(where, value["data"])
        elif "question" in value and "qas" not in value:
            shared = {key: value[key] for key in ("id", "context", "contexts", "source", "lang") if key in value}
            yield where, {**shared, "qas": [value]}
        elif "header" not in value or not {"context", "contexts", "text"}.isdisjoint(value):
            yield where, value


def _squad_rows(where: str, articles: list[Any]) -> Iterator[tuple[str, Any]]:
    for i, article in enumerate(articles):
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            raise DataError(
                f"{where}: data[{i}] has no list 'paragraphs'; give SQuAD's JSON, "
                '{"data": [{"paragraphs": [{"context", "qas"}]}]}'
            )
        yield from ((f"{where}, data[{i}].paragraphs[{j}]", value) for j, value in enumerate(paragraphs))


def _answers_listed(row: Any) -> Any:
    """The row with the ids and answers of its questions as this library has them; what is no question stays."""
    if not isinstance(row, dict) or not isinstance(row.get("qas"), list):
        return row
    named = {key: value for key, value in row.items() if (key, value) != ("id", "")}  # MRQA's are empty
    return {**named, "qas": [_question(one) if isinstance(one, dict) else one for one in row["qas"]]}


def _question(row: dict[str, Any]) -> dict[str, Any]:
    answers = next(
        filter(None, (_texts(row.get(key)) for key in ("answers", "answer", "detected_answers"))), [_UNANSWERED]
    )
    identifier = next((row[key] for key in ("id", "qid") if row.get(key) not in (None, "")), None)
    return {
        "id": identifier,
        "question": row.get("question"),
        "answers": [_IMPOSSIBLE] if row.get("is_impossible") is True else answers,
    }


def _texts(given: Any) -> list[Any]:
    """The different answers of a string, a list, SQuAD's list of objects or the hub's {text: [...]}; blank ones not."""
    if isinstance(given, dict):
        given = given.get("text")
    items = given if isinstance(given, list) else [given]
    texts = [item.get("text") if isinstance(item, dict) else item for item in items]
    kept = [text for text in texts if text is not None and not (isinstance(text, str) and not text.strip())]
    return [text for i, text in enumerate(kept) if text not in kept[:i]]


def _merged(records: Iterable[Record]) -> Iterator[Record]:
    """Records of different contexts, in order of their first, with all their questions that have an answer."""
    questions: dict[tuple[str, ...], tuple[Record, list[QA]]] = {}
    for record in records:
        _, known = questions.setdefault(record.contexts, (record, []))
        known += [qa for qa in record.qas if qa.answers[0] not in (_IMPOSSIBLE, _UNANSWERED)]
    return (replace(record, qas=tuple(qas)) for record, qas in questions.values())
