"""Data of a training: read, split into what is trained on and what is held back, and cut to what can be a row."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from latentpress.data.held_out import without_held_out
from latentpress.data.labels import LabelFile
from latentpress.data.records import Record, read_records
from latentpress.data.rows import ExampleMaker, TokenizedRecord
from latentpress.errors import DataError
from latentpress.tokens import equal_windows
from latentpress.training.labelling import Labelling, LabelUse
from latentpress.training.recipes import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """Records of a training, in tokens, and which of them are held back."""

    train: tuple[TokenizedRecord, ...]
    """Records to train on."""
    dev: tuple[TokenizedRecord, ...]
    """Records to evaluate on."""
    dev_sources: tuple[Record, ...]
    """The same records as they were read, for the texts of all acceptable answers."""
    left_out: int
    """Records with questions that were longer than the recipe takes, or with nothing to train on."""
    digest: str
    """SHA-256 over all records, and over the labels of a file, hex."""
    held_out: int = 0
    """Records left out because selector heads are judged on them, or because they hold a text of theirs."""
    labels: LabelUse | None = None
    """What became of the labels of a file; None without one."""


def read_data(
    paths: Sequence[str],
    dev: str | None,
    recipe: Recipe,
    maker: ExampleMaker,
    labels: LabelFile | None = None,
    hold_out: str | None = None,
) -> TrainingData:
    """Reads, splits and tokenises the data of a training.

    Args:
        paths: files or hub ids.
        dev: file or hub id to evaluate on; records are held back from the data if None.
        recipe: what is left out, and how long a row may be.
        maker: tokenises.
        labels: density labels in place of those that `short_summary` gives.
        hold_out: file or hub id of passages a fifth of which, by their ids, stays out of the data, with every record
            that holds a text of theirs; see `latentpress.data.held_out`.

    Raises:
        DataError: a file cannot be read, nothing is left to train or to evaluate on, or the labels do not fit.
    """
    records = [
        record
        for path in paths
        for record in read_records(path)
        if not record.source.startswith(recipe.exclude_sources)
    ]
    read = len(records)
    if hold_out is not None and not (records := without_held_out(records, read_records(hold_out))):
        raise DataError(
            f"{', '.join(paths)}: none of {read} records is left to train on once a fifth of {hold_out} is held out; "
            "give more --data, or leave --hold-out away"
        )
    held_out = read - len(records)
    digest = hashlib.sha256()
    for record in records:
        digest.update(_content(record))
    if labels is not None:
        digest.update(f"labels {labels.digest}".encode())
    if dev is None:
        records, held = _hold_back(records, recipe.dev_records)
    else:
        held = read_records(dev)
        digest.update(b"dev")
        for record in held:
            digest.update(_content(record))
    labelling = None if labels is None else Labelling(labels, recipe.ratio_policy(), clamp=recipe.clamp_labels)
    use = None if labelling is None else labelling.check([*records, *held])

    def tokenize(record: Record) -> TokenizedRecord:
        made = maker.tokenize(record)
        return made if labelling is None else labelling.labelled(record, made)

    made = [_usable(tokenize(record), recipe) for record in records]
    train = tuple(piece for pieces in made for piece in pieces)
    if not train:
        raise DataError(
            f"{', '.join(paths)}: none of {len(records)} records can be trained on; raise "
            f"max_context_tokens={recipe.max_context_tokens} or give records with questions or text"
        )
    kept = [
        (record, pieces[0])
        for record in held
        # Of a long text its first passage stands for it, unless questions are asked, which may be about the others.
        if len(pieces := _usable(tokenize(record), recipe)) == 1 or (pieces and recipe.questions == 0)
    ]
    if dev is not None and not kept:
        raise DataError(
            f"{dev}: none of {len(held)} records can be evaluated on, those longer than max_context_tokens="
            f"{recipe.max_context_tokens} or too short are left out; give another --dev, or none to hold some of the "
            "data back"
        )
    dev_pieces, sources = tuple(piece for _, piece in kept), tuple(record for record, _ in kept)
    return TrainingData(
        train=train,
        dev=dev_pieces,
        dev_sources=sources,
        left_out=sum(not pieces for pieces in made),
        digest=digest.hexdigest(),
        held_out=held_out,
        labels=use,
    )


def _content(record: Record) -> bytes:
    """What a training sees of a record; ids and sources may come from the name of its file."""
    asked = [(qa.question, qa.answers) for qa in record.qas]
    return repr((record.contexts, asked, record.summary, record.short_summary, record.lang)).encode()


def _hold_back(records: list[Record], count: int) -> tuple[list[Record], list[Record]]:
    """Holds back the last records by the hash of their contexts, at most a tenth; no context lies on both sides."""
    hashes = [hashlib.sha256("\0".join(record.contexts).encode()).hexdigest() for record in records]
    last = sorted(set(hashes))
    held = set(last[len(last) - min(count, len(last) // 10) :])
    sides: tuple[list[Record], list[Record]] = ([], [])
    for record, name in zip(records, hashes, strict=True):
        sides[name in held].append(record)
    return sides


def _usable(record: TokenizedRecord, recipe: Recipe) -> list[TokenizedRecord]:
    """The record if it can be a row, passages of it if it is a long plain text, else nothing."""
    limit = recipe.max_context_tokens
    if recipe.continue_tokens and recipe.questions == 0 and len(record.documents) == 1:
        return _continued(record.documents[0], limit, recipe.continue_tokens)
    if record.tokens <= limit:
        asked = is_asked(record, recipe) or record.summary is not None
        return [record] if asked or record.quotable else []
    if record.answers or record.summary is not None or len(record.documents) > 1:
        return []
    text = record.documents[0]
    spans = equal_windows(len(text), limit)
    # The density label is of the whole text; a passage has none.
    cut = [dataclasses.replace(record, documents=(text[a:b],), log2_ratio=None) for a, b in spans]
    return [passage for passage in cut if passage.quotable]


def _continued(text: tuple[int, ...], limit: int, most: int) -> list[TokenizedRecord]:
    """Passages of `limit` tokens, each with the `most` behind it to be predicted; what is left is a shorter one."""
    made = []
    whole = limit + min(most, limit // 4)
    for start in range(0, len(text), whole):
        end = min(start + whole, len(text))
        behind = min(most, (end - start) // 5)
        if behind > 1:  # the first is given
            cut = end - behind
            made.append(
                TokenizedRecord(
                    documents=(text[start:cut],),
                    answers=(),
                    summary=None,
                    log2_ratio=None,
                    continuation=text[cut:end],
                )
            )
    return made


def is_asked(record: TokenizedRecord, recipe: Recipe) -> bool:
    """Whether rows ask questions about the record."""
    return bool(record.answers) and recipe.questions > 0


_LITTLE = 50.0
"""Occurrences that say as much of a token as what is known of all."""


def unigram_counts(records: Iterable[TokenizedRecord], vocabulary: int) -> Tensor:
    """How often each vocabulary entry occurs in the contexts, `[V]` int64."""
    counts = torch.zeros(vocabulary, dtype=torch.int64)
    for record in records:
        for document in record.documents:
            counts += torch.bincount(torch.tensor(document), minlength=vocabulary)
    return counts


def answer_rates(records: Iterable[TokenizedRecord], counts: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """How often each vocabulary entry occurs in answers for each time that it occurs in contexts, `[V]` float64.

    Entries that differ in white space around them alone, as at the start of an answer, count as one. One that is seen
    little is taken to be asked for as often as all are together. Without any questions all rates are 1.

    Args:
        records: with their questions.
        counts: what `unigram_counts` gives for them.
        tokenizer: of the records.
    """
    kinds: dict[str, int] = {}
    names = tokenizer.batch_decode([[i] for i in range(min(len(counts), len(tokenizer)))])
    group = torch.arange(len(counts), device=counts.device) + len(names)
    group[: len(names)] = torch.tensor([kinds.setdefault(name.strip(), len(kinds)) for name in names])
    answered = torch.zeros(len(counts), dtype=torch.int64)
    for record in records:
        for _, target in record.answers:
            answered += torch.bincount(torch.tensor(target), minlength=len(counts))
    seen = torch.zeros(len(counts) + len(names), dtype=torch.float64, device=counts.device)
    asked = seen.index_add(0, group, answered.to(seen))
    seen = seen.index_add(0, group, counts.to(seen))
    if not bool(asked.sum()):
        return torch.ones_like(counts, dtype=torch.float64)
    usual = asked.sum() / seen.sum().clamp_min(1)
    return ((asked + _LITTLE * usual) / (seen + _LITTLE)).clamp_max(1)[group]
