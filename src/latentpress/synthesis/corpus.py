"""Corpora to distinct passages."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from latentpress.data.records import (
    DATA_SUFFIXES,
    HUB_ID,
    Record,
    RowReader,
    file_rows,
    hub_rows,
    hub_stem,
    iter_records,
)
from latentpress.data.texts import decode
from latentpress.errors import DataError, InputError
from latentpress.synthesis.likeness import SeenTexts, language_of
from latentpress.synthesis.passages import Cutter, Passage
from latentpress.synthesis.settings import Plan

_TEXT_SUFFIXES = (".txt", ".md")


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Passages, and what did not become one."""

    passages: tuple[Passage, ...]
    """In the order of the corpora."""
    documents: int
    """Documents that were read."""
    left_out: dict[str, int]
    """Pieces and documents that were left out, by reason."""


def corpus_names(plan: Plan) -> list[str]:
    """What the corpora are called wherever their folders lie."""
    return [Path(corpus).name if Path(corpus).exists() else corpus for corpus in plan.corpora]


def read_corpus(plan: Plan, cutter: Cutter) -> Corpus:
    """Reads corpora until there are as many passages as are wanted.

    Raises:
        DataError: a row or text file that cannot be read (encoding, missing field), or no passage in any of them.
        InputError: a text that no tokenizer takes.
    """
    passages: list[Passage] = []
    documents = 0
    left_out: Counter[str] = Counter()
    seen = SeenTexts()
    for corpus in plan.corpora:
        with closing(_records(corpus, plan.field)) as records:
            for record in records:
                for number, text in enumerate(record.contexts, 1):
                    name = record.id if len(record.contexts) == 1 else f"{record.id}.{number}"
                    documents += 1
                    for passage in _passages(text, name, record, plan, cutter, left_out):
                        if repeated := seen.find(passage.text):
                            left_out[repeated] += 1
                        else:
                            passages.append(passage)
                        if len(passages) == plan.limit:
                            return Corpus(passages=tuple(passages), documents=documents, left_out=dict(left_out))
    if not passages:
        raise DataError(
            f"{', '.join(plan.corpora)}: none of {documents} documents gives a passage of "
            f"{plan.min_passage_tokens} to {plan.max_passage_tokens} tokens; lower --min-passage-tokens, or give "
            "longer texts"
        )
    return Corpus(passages=tuple(passages), documents=documents, left_out=dict(left_out))


def _passages(
    text: str, name: str, record: Record, plan: Plan, cutter: Cutter, left_out: Counter[str]
) -> Iterator[Passage]:
    pieces = cutter.cut(text, name)
    if not pieces:
        left_out["documents without a passage of the length"] += 1
    lang = plan.lang or record.lang
    for piece in pieces:
        digest = hashlib.sha256(piece.encode()).hexdigest()[:10]
        yield Passage(
            id=f"{name}-{digest}",
            text=piece,
            tokens=cutter.count(piece),
            lang=lang or language_of(piece),
            source=record.source,
        )


def _records(corpus: str, field: str | None) -> Generator[Record, None, None]:
    """The documents of one corpus, each with an id and a source."""
    path = Path(corpus)
    if corpus.casefold().endswith(_TEXT_SUFFIXES) and not path.is_dir():
        yield _text_file(path)
    elif field is None:
        yield from iter_records(corpus)
    else:
        yield from _field_records(corpus, field)


def _text_file(path: Path) -> Record:
    try:
        text = decode(path.read_bytes(), str(path))
    except InputError as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); give a text file") from error
    stem = path.stem
    return Record(id=stem, contexts=(text,), qas=(), summary=None, short_summary=None, source=stem, lang=None)


def _field_records(corpus: str, field: str) -> Generator[Record, None, None]:
    """Rows whose text stands in a field of another name."""
    path = Path(corpus)
    hub = HUB_ID.fullmatch(corpus) and not corpus.casefold().endswith(DATA_SUFFIXES) and not path.exists()
    stem = hub_stem(corpus) if hub else path.name.partition(".")[0]
    found = False
    for number, row in hub_rows(corpus) if hub else file_rows(path):
        found = True
        where = f"{corpus}:{number}"
        if not isinstance(row, dict) or row.get(field) is None:
            there = ", ".join(sorted(map(str, row)))[:200] if isinstance(row, dict) else "no object"
            raise DataError(f"{where}: field {field!r} is missing (there: {there}); give another --field")
        values = {"text": row[field]} | {key: row[key] for key in ("id", "lang") if isinstance(row.get(key), str | int)}
        if isinstance(row.get("source"), str) and row["source"].strip():
            values["source"] = row["source"]
        record = RowReader(values=values, where=where, default_id=f"{stem}-{number}", default_source=stem).record()
        yield dataclasses.replace(record, qas=())
    if not found:
        raise DataError(f"{corpus}: holds no rows; give one JSON object a line")
