"""Contexts with their questions and summaries, read from JSON lines (plain, .xz, .gz) or from the hub.

A row is `{context | contexts: [...], qas: [{question, answers, id?}], summary?, short_summary?, source?, id?, lang?}`
or, for plain text, `{text, source?, lang?}`. `answers` is a list of strings or one string. Other keys are ignored.
"""

import gzip
import json
import lzma
import re
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from latentpress.errors import DataError, InputError

__all__ = ["QA", "Record", "iter_records", "read_records"]

HUB_ID = re.compile(r"(?P<dataset>[A-Za-z0-9][\w.-]*/(?P<stem>[\w.-]+))(@(?P<config>[\w.-]+))?(:(?P<split>[^/\\]+))?")
DATA_SUFFIXES = (".jsonl", ".json", ".xz", ".gz")
_XZ_MAGIC, _GZIP_MAGIC = b"\xfd7zXZ\x00", b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors start UTF-8 files with it; JSON does not allow it
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error)


@dataclass(frozen=True, kw_only=True, slots=True)
class QA:
    """A question about the contexts of its record, with every answer that counts as right."""

    id: str
    """Name of the question; made from the record's and the question's place when the row gives none."""
    question: str
    """The question, never blank."""
    answers: tuple[str, ...]
    """Acceptable answers, at least one and none blank; the first is the one to train on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One row of data: contexts, and what is known about them."""

    id: str
    """Name of the row; made from the file's name and the line when the row gives none."""
    contexts: tuple[str, ...]
    """The documents that the questions are about, at least one and none blank."""
    qas: tuple[QA, ...]
    """Questions with their answers; empty for plain text."""
    summary: str | None
    """Normal summary of the contexts, a dense training target."""
    short_summary: str | None
    """Ultra-concise summary, whose length labels the density; None: the row has no label."""
    source: str
    """Where the row comes from: its `source`, else its `genre`, else the file's name."""
    lang: str | None
    """Language code such as "en" or "zh"; None: not said."""


def read_records(path: str | Path, *, limit: int | None = None) -> list[Record]:
    """Reads the rows of a JSON-lines file or of a dataset on the hub.

    Args:
        path: file (.jsonl or .json with one object a line, plain or compressed with xz or gzip), or hub id
            "org/name[@configuration][:split]"; the split is "train" unless said. What exists on disk is never looked
            up on the hub.
        limit: reads at most that many rows; None reads all.

    Raises:
        DataError: names file:line, the field and the remedy; or the file when it is missing, a folder, empty,
            truncated or no text.
        InputError: limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit} is below 1: give the number of rows to read, or None for all")
    with closing(iter_records(path)) as records:  # closes the file at the limit, not when collected
        return list(islice(records, limit))


def iter_records(path: str | Path) -> Generator[Record, None, None]:
    """Yields the rows one at a time, holding one in memory; arguments and errors are those of `read_records`."""
    file = Path(path)
    name = str(path)
    hub_shaped = isinstance(path, str) and HUB_ID.fullmatch(name) and not name.endswith(DATA_SUFFIXES)
    if hub_shaped and not file.exists() and not file.parent.is_dir():
        rows, stem = hub_rows(name), hub_stem(name)
    else:
        rows, stem = file_rows(file), file.name.partition(".")[0] or file.name
    found = False
    for number, row in rows:
        found = True
        yield RowReader(
            values=row, where=f"{name}:{number}", default_id=f"{stem}-{number}", default_source=stem
        ).record()
    if not found:
        raise DataError(f"{name}: holds no rows; give one JSON object a line")


def file_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yields (line number from 1, parsed value) for every line that is not blank."""
    if not file.exists():
        raise DataError(
            f"{file}: no such file; give a .jsonl file (plain, .xz or .gz) or a hub id "
            "(org/name[@configuration][:split])"
        )
    if file.is_dir():
        inside = sorted(child.name for child in file.iterdir() if child.name.endswith(DATA_SUFFIXES))
        raise DataError(f"{file}: is a folder; give one of its data files ({', '.join(inside[:5]) or 'it holds none'})")
    number = 0
    try:
        with open_binary(file) as lines:
            for number, line in enumerate(lines, start=1):
                text = _decoded(line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line, f"{file}:{number}")
                if text.strip():
                    yield number, _parsed(text, f"{file}:{number}")
    except UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(
            f"{file}:{number + 1}: cannot be read ({reason}); "
            "if the file is compressed it is truncated or damaged: copy or fetch it again"
        ) from error


@contextmanager
def open_binary(file: Path) -> Iterator[Iterable[bytes]]:
    """Opens a plain or compressed file by what it starts with, so that a renamed file is read too.

    A suffix that promises compression is held to it. The start is only peeked at, so that a pipe can be given.
    """
    with file.open("rb") as raw:
        start = raw.peek(len(_XZ_MAGIC))
        if start.startswith(_XZ_MAGIC) or (start and file.suffix == ".xz"):
            with lzma.open(raw, "rb") as lines:
                yield lines
        elif start.startswith(_GZIP_MAGIC) or (start and file.suffix == ".gz"):
            with gzip.open(raw, "rb") as lines:
                yield lines
        else:
            yield raw


def _decoded(line: bytes, where: str) -> str:
    if b"\x00" in line:
        raise DataError(f"{where}: holds a zero byte, so it is binary or UTF-16; give JSON lines in UTF-8")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8") from error


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: not JSON ({error.msg} at column {error.colno}); "
            "write one JSON object a line, not one over several lines"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: JSON that cannot be used ({error}); shorten the number or the nesting") from error


def hub_stem(name: str) -> str:
    """What a data set on the hub is called without its owner, configuration and split."""
    known = HUB_ID.fullmatch(name)
    return known["stem"] if known else name


def hub_rows(name: str) -> Iterator[tuple[int, Any]]:
    """Yields (row number from 1, row) of a data set on the hub, "org/name[@configuration][:split]", streamed."""
    known = HUB_ID.fullmatch(name)
    if known is None:
        raise DataError(f"{name}: no such file, and no id of the hub; write org/name[@configuration][:split]")
    split = known["split"] or "train"
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(
            f"{name}: no such file, and reading it from the hub needs the package `datasets`: "
            "pip install 'latentpress[hub]'"
        ) from error
    number = 0
    try:
        for number, row in enumerate(load_dataset(known["dataset"], known["config"], split=split, streaming=True), 1):
            yield number, row
    except (
        Exception
    ) as error:  # datasets lets errors of its readers, of the hub and of the network through, of no common class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{name}:{number + 1}: no such file, and split {split!r} could not be read from the hub "
            f"({reason}); check the path, the name org/name@configuration:split and the connection"
        ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class RowReader:
    """A parsed line and what its errors are called."""

    values: Any
    """The parsed line, still of any type."""
    where: str
    """file:line, the start of every message."""
    default_id: str
    """Identifier of a row that gives none."""
    default_source: str
    """Source of a row that gives none."""

    def record(self) -> Record:
        """Checks every field and returns the record."""
        if not isinstance(self.values, dict):
            raise DataError(f"{self.where}: is {_kind(self.values)}; write one JSON object a line")
        identifier = self._identifier(self.values, "id", self.default_id)
        source = self._optional_text("source") or self._optional_text("genre") or self.default_source
        return Record(
            id=identifier,
            contexts=self._contexts(),
            qas=self._questions(identifier),
            summary=self._optional_text("summary"),
            short_summary=self._optional_text("short_summary"),
            source=source,
            lang=self._optional_text("lang"),
        )

    def _contexts(self) -> tuple[str, ...]:
        one, several = self.values.get("context"), self.values.get("contexts")
        if one is not None and several is not None:
            raise self._error("contexts", "stands beside 'context'", "keep one of the two")
        if several is not None:
            return self._texts("contexts", several, "context")
        field = "context" if one is not None or self.values.get("text") is None else "text"
        if self.values.get(field) is None:
            raise self._error("context", "is missing", "give 'context', 'contexts' or, for plain text, 'text'")
        return (self._text(field, self.values[field]),)

    def _questions(self, identifier: str) -> tuple[QA, ...]:
        rows = self.values.get("qas")
        if rows is None:
            return ()
        if not isinstance(rows, list):
            raise self._error("qas", f"is {_kind(rows)}", "give a list of {question, answers}")
        questions = []
        for index, row in enumerate(rows):
            field = f"qas[{index}]"
            if not isinstance(row, dict):
                raise self._error(field, f"is {_kind(row)}", "give an object with question and answers")
            for key in ("question", "answers"):
                if row.get(key) is None:
                    raise self._error(f"{field}.{key}", "is missing", "give it, or leave the question out")
            answers = row["answers"] if isinstance(row["answers"], list) else [row["answers"]]
            questions.append(
                QA(
                    id=self._identifier(row, f"{field}.id", f"{identifier}-q{index}"),
                    question=self._text(f"{field}.question", row["question"]),
                    answers=self._texts(f"{field}.answers", answers, "answer"),
                )
            )
        return tuple(questions)

    def _texts(self, field: str, values: Any, item: str) -> tuple[str, ...]:
        if not isinstance(values, list):
            raise self._error(field, f"is {_kind(values)}", f"give a list with at least one {item}")
        if not values:
            raise self._error(field, "is empty", f"give at least one {item}, or leave it out with what belongs to it")
        return tuple(self._text(f"{field}[{index}]", value) for index, value in enumerate(values))

    def _text(self, field: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self._error(field, f"is {_kind(value)}", "give text in quotes")
        if not value.strip():
            raise self._error(field, "is empty or white space", "give text, or leave it out with what belongs to it")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            remedy = "write the character itself or both halves of its escape"
            raise self._error(field, f"holds half a surrogate pair at character {error.start + 1}", remedy) from error
        return value

    def _optional_text(self, field: str) -> str | None:
        value = self.values.get(field)
        return None if value is None else self._text(field, value)

    def _identifier(self, row: dict[str, Any], field: str, default: str) -> str:
        value = row.get("id")
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return default if value is None else self._text(field, value)

    def _error(self, field: str, problem: str, remedy: str) -> DataError:
        return DataError(f"{self.where}: field '{field}' {problem}; {remedy}")


def _kind(value: Any) -> str:
    """Names the type of a JSON value in a user's words."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
