"""From records to a file of labels, which is there whole or not at all; what is measured is kept beside it meanwhile.

LABELS.jsonl.part    measurements, written as they come; the same command goes on with them
LABELS.jsonl         the labels, once everything is measured
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentpress import __version__
from latentpress.data.labels import FORMAT, VERSION, DensityLabel, label_lines, read_labels, text_digest
from latentpress.data.lines import ResumableLines, Row, Wording, differences, json_line, parse_lines
from latentpress.data.records import Record
from latentpress.errors import DataError, InputError
from latentpress.files import alone, write_whole
from latentpress.labels.base import Item, LabelSource

_BATCH_TOKENS = 2048  # of texts that are measured together: an interruption loses one batch at most
_REMEDY = "give another --out, or remove the file to have its labels made anew"
_WORDING = Wording(kind="labels", other="is of another text than the data and --limit give", remedy=_REMEDY)
_OWN = ("id", "tokens", "sha256", "genre")  # keys of a row that are not the source's
_OF_LABELS = ("source", "log2_ratio")  # and those that only labels have
_FOUND_OUT = ("found", "left_out")  # keys of the head that nothing depends on


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How the labelling went."""

    labels: tuple[DensityLabel, ...]
    """One a text."""
    measured: int
    """Texts measured in this run."""
    measured_tokens: int
    """Their tokens."""
    kept: int
    """Texts whose measurements were there."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Records without a label, by the reason."""
    found: dict[str, Any] = field(default_factory=dict)
    """What was found out from all texts together."""
    beyond: int = 0
    """Labels in the file beyond those that were asked for. It stays as it is, and all that is told here is of all of
    its labels: those of fewer texts may be others (`--calibrate`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a labelling stands."""

    texts: int
    """Texts that are measured."""
    of_texts: int
    """Texts in all."""
    tokens: int
    """Tokens of those that are measured."""
    of_tokens: int
    """Tokens in all."""


def make_labels(
    source: LabelSource,
    records: Sequence[Record],
    out: Path,
    *,
    limit: int | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Outcome:
    """Labels every text once, or goes on where an earlier run stopped.

    Args:
        source: measures and labels.
        records: records of one document each; those about the same text become one, with all their questions.
        out: file of the labels.
        limit: labels the first so many texts that can be labelled; None all.
        progress: told before each batch, and at the end.

    Raises:
        InputError: the file holds labels that were made otherwise, or of other texts, or cannot be read, or another
            labelling is at work on it.
        DataError: none of the records can be labelled.
    """
    if out.is_dir():
        raise InputError(f"{out}: is a folder; give a file for the labels")
    items, left_out = _choose(source, records, limit)
    if not items:
        raise DataError(f"none of {len(records)} records can be labelled by {source.name}: {_told(left_out)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    busy = InputError(f"another labelling is running for {out}; wait, stop it, or give another --out")
    with alone(out.with_name(f".{out.name}.lock"), busy):
        return _make(source, items, left_out, out, progress)


def _make(
    source: LabelSource,
    items: Sequence[Item],
    left_out: dict[str, int],
    out: Path,
    progress: Callable[[Progress], None],
) -> Outcome:
    part = out.with_name(f"{out.name}.part")
    header = {"source": source.name, "version": __version__, "made_by": source.made_by}
    digests = [text_digest(item.text) for item in items]
    there = _take_up(out, part, header, source, items, digests)
    if there < len(items):
        source.check_texts(digests)
    lines = ResumableLines(part, header, digests, key="sha256", wording=_WORDING)
    _check_rows(part, lines.rows, source, items)
    kept = len(lines.rows)
    _measure(source, items, lines, progress)
    if there > len(items):
        outcome = _outcome_of(out, beyond=there - len(items))
    else:
        finished = source.finish(lines.rows)
        pairs = zip(lines.rows, finished.log2_ratios, strict=True)
        outcome = Outcome(
            labels=tuple(_label(source.name, row, value) for row, value in pairs),
            measured=len(items) - kept,
            measured_tokens=sum(len(item.ids) for item in items[kept:]),
            kept=kept,
            left_out=left_out,
            found=dict(finished.found),
        )
        if len(items) > there:
            head = {**header, "settings": source.settings, "found": outcome.found, "left_out": left_out}
            write_whole(out, label_lines(head, outcome.labels))
    if lines.further <= max(0, there - len(items)):  # else it holds measurements that are nowhere else
        part.unlink()
    return outcome


def _outcome_of(out: Path, *, beyond: int) -> Outcome:
    """What a finished file holds."""
    file = read_labels(out)
    labels = tuple(file.labels.values())
    told = {name: dict(file.header.get(name, {})) for name in _FOUND_OUT}
    return Outcome(labels=labels, measured=0, measured_tokens=0, kept=len(labels), beyond=beyond, **told)


def _choose(source: LabelSource, records: Sequence[Record], limit: int | None) -> tuple[list[Item], dict[str, int]]:
    """Items for the texts that can be labelled, and the number of other records by reason."""
    left_out: Counter[str] = Counter()
    texts: dict[str, Record] = {}
    for record in records:
        if len(record.contexts) > 1:
            left_out["of several documents"] += 1
        elif (first := texts.get(record.contexts[0])) is None:
            texts[record.contexts[0]] = record
        else:
            left_out["of a text that came before, their questions added to its"] += 1
            more = tuple(qa for qa in record.qas if qa not in first.qas)
            summary = first.short_summary or record.short_summary
            texts[record.contexts[0]] = dataclasses.replace(first, qas=first.qas + more, short_summary=summary)
    items: list[Item] = []
    for record in texts.values():
        if limit is not None and len(items) == limit:
            break
        prepared = source.prepare(record)
        if isinstance(prepared, Item):
            items.append(prepared)
        else:
            left_out[prepared] += 1
    return items, dict(left_out)


def _told(left_out: dict[str, int]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    return f"{reasons}; give other --data, or another source of labels"


def _take_up(
    out: Path, part: Path, header: Row, source: LabelSource, items: Sequence[Item], digests: Sequence[str]
) -> int:
    """Makes the measurements in a finished file those of this run; returns how many labels it holds.

    Raises:
        InputError: they were made otherwise, or of other texts, or cannot be read.
    """
    if not out.exists():
        return 0
    found, rows = parse_lines(out, out.read_bytes().rstrip(b"\n"), _REMEDY)
    compared = {key: value for key, value in found.items() if key not in _FOUND_OUT}
    wanted = json.loads(json.dumps({FORMAT: VERSION, **header, "settings": source.settings}))
    if differing := differences(compared, wanted):
        raise InputError(f"{out} holds labels made otherwise ({differing}); {_REMEDY}")
    for line, (row, digest) in enumerate(zip(rows, digests, strict=False), 2):
        if row.get("sha256") != digest:
            raise InputError(f"{out}, line {line}, {_WORDING.other}; {_REMEDY}")
    _check_rows(out, rows, source, items)
    if not part.exists():
        measured = [{key: value for key, value in row.items() if key not in _OF_LABELS} for row in rows]
        write_whole(part, "".join(map(json_line, (header, *measured))))
    return len(rows)


def _check_rows(path: Path, rows: Sequence[Row], source: LabelSource, items: Sequence[Item]) -> None:
    """Refuses rows of the same texts with other questions or summaries."""
    for line, (row, item) in enumerate(zip(rows, items, strict=False), 2):
        if not source.is_of(row, item):
            raise InputError(
                f"{path}, line {line}, was measured with another summary or other questions than record "
                f"{item.record.id!r} has now; {_REMEDY}"
            )


def _measure(
    source: LabelSource, items: Sequence[Item], lines: ResumableLines, progress: Callable[[Progress], None]
) -> None:
    total = sum(len(item.ids) for item in items)
    done = sum(len(item.ids) for item in items[: len(lines.rows)])
    for batch in _batches(items[len(lines.rows) :]):
        progress(Progress(texts=len(lines.rows), of_texts=len(items), tokens=done, of_tokens=total))
        measured = zip(batch, source.measure(batch), strict=True)
        lines.add(
            [
                {"id": item.record.id, "genre": item.record.source, "tokens": len(item.ids), **row}
                for item, row in measured
            ]
        )
        done += sum(len(item.ids) for item in batch)
    progress(Progress(texts=len(items), of_texts=len(items), tokens=done, of_tokens=total))


def _batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Items in order, together at most so many tokens unless one alone has more."""
    batch: list[Item] = []
    tokens = 0
    for item in items:
        if batch and tokens + len(item.ids) > _BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(item)
        tokens += len(item.ids)
    if batch:
        yield batch


def _label(source: str, row: Row, log2_ratio: float) -> DensityLabel:
    details = {key: value for key, value in row.items() if key not in _OWN}
    return DensityLabel(source=source, log2_ratio=log2_ratio, details=details, **{key: row[key] for key in _OWN})
