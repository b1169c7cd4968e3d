"""Training data as a function of the step: batch i depends on the seed, i and the data, not on what happened before.

So a run continues after any interruption with the batches it would have had, and every process of a distributed run
sees the same batch and takes its share of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import random
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from latentpress.compressors import Size
from latentpress.data.held_out import without_held_out
from latentpress.data.labels import LabelFile
from latentpress.data.records import Record, read_records
from latentpress.data.rows import Example, ExampleMaker, TokenizedRecord
from latentpress.errors import DataError
from latentpress.tokens import equal_windows
from latentpress.training.labelling import Labelling, LabelUse
from latentpress.training.recipes import Recipe
from latentpress.training.related import RelatedTexts


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One batch, of all processes together."""

    number: int
    """Index of the step, from 0."""
    size: Size
    """Size of all its rows."""
    examples: tuple[Example, ...]
    """Its rows."""

    @property
    def tokens(self) -> int:
        """Context tokens."""
        return sum(example.tokens for example in self.examples)

    @property
    def labels(self) -> int:
        """Predicted tokens."""
        return sum(example.labels for example in self.examples)

    @property
    def labelled(self) -> int:
        """Windows with a density label."""
        return sum(label is not None for example in self.examples for label in example.log2_ratios)

    @property
    def questions(self) -> int:
        """Answers trained on."""
        return sum(branch.kind == "answer" for example in self.examples for branch in example.branches)


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
        asked = _asked(record, recipe) or record.summary is not None
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


def _asked(record: TokenizedRecord, recipe: Recipe) -> bool:
    """Whether rows ask questions about the record."""
    return bool(record.answers) and recipe.questions > 0


def unigram_counts(records: Iterable[TokenizedRecord], vocabulary: int) -> Tensor:
    """How often each vocabulary entry occurs in the contexts, `[V]` int64."""
    counts = torch.zeros(vocabulary, dtype=torch.int64)
    for record in records:
        for document in record.documents:
            counts += torch.bincount(torch.tensor(document), minlength=vocabulary)
    return counts


@dataclass(frozen=True, slots=True)
class Row:
    """What one row of a step is made of."""

    records: tuple[int, ...]
    """Indices of its records."""
    joined: bool = False
    """Whether their texts are one long document, not a document each."""


class StepStream(Dataset[Step]):
    """The steps of a training, by index.

    Each epoch is a permutation of the records drawn from the seed and the epoch's number, dealt out into rows (of one
    record, of the next few as documents, or of several texts joined to a long one, the next or those that are related
    to the first) and then into steps.
    """

    def __init__(self, records: Sequence[TokenizedRecord], maker: ExampleMaker, recipe: Recipe) -> None:
        self.records, self.maker, self.recipe = records, maker, recipe
        self._policy = recipe.ratio_policy()
        wanted = recipe.long_documents and recipe.related_documents
        self._related = RelatedTexts([record.documents for record in records]) if wanted else None
        self._starts = [0]  # first step of each epoch planned so far
        self._plan: tuple[int, list[list[Row]]] = (-1, [])

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, index: int) -> Step:
        if not 0 <= index < self.recipe.steps:
            raise IndexError(index)
        draw = random.Random(f"{self.recipe.seed}/step/{index}")
        size = self._policy.draw(draw, self.recipe.ratio_weights_at(index))
        quotes = self.recipe.quotes_at(index)
        return Step(
            number=index, size=size, examples=tuple(self._example(row, draw, quotes) for row in self.rows(index))
        )

    def _example(self, row: Row, draw: random.Random, quotes: int) -> Example:
        records = [self.records[i] for i in row.records]
        if row.joined:
            records = [self.maker.joined(records)]
        asked = any(_asked(record, self.recipe) for record in records)
        if not asked and not (len(records) == 1 and (records[0].summary or records[0].continuation)):
            quotes = max(1, quotes)  # a row without a branch would train nothing
        return self.maker.example(
            records, draw, questions=self.recipe.questions, quotes=quotes, quote_tokens=self.recipe.quote_tokens
        )

    def rows(self, index: int) -> list[Row]:
        """Rows of a step."""
        while self._starts[-1] <= index:
            epoch = len(self._starts) - 1
            self._plan = (epoch, self.epoch(epoch))
            self._starts.append(self._starts[-1] + len(self._plan[1]))
        epoch = bisect_right(self._starts, index) - 1
        if self._plan[0] != epoch:
            self._plan = (epoch, self.epoch(epoch))
        return self._plan[1][index - self._starts[epoch]]

    def epoch(self, number: int) -> list[list[Row]]:
        """Steps of an epoch, each a list of rows; every record is in exactly one."""
        draw = random.Random(f"{self.recipe.seed}/epoch/{number}")
        order = list(range(len(self.records)))
        draw.shuffle(order)
        left = OrderedDict.fromkeys(order)  # those without a row yet, in this order
        steps: list[list[Row]] = [[]]
        tokens = 0
        while left:
            row = self._row(left, draw)
            for index in row.records:
                del left[index]
            if tokens >= self.recipe.tokens_per_step:
                steps.append([])
                tokens = 0
            steps[-1].append(row)
            tokens += sum(self.records[i].tokens for i in row.records)
        return steps

    def _row(self, left: OrderedDict[int, None], draw: random.Random) -> Row:
        """Takes the next record, or with the recipe's shares others with it, as documents or as one long document."""
        first, *others = itertools.islice(left, 4)
        limit, joined, related = self.recipe.max_context_tokens, False, False
        joins = self._joins(self.records[first])
        candidates: Iterable[int] = ()
        if self.recipe.long_documents and draw.random() < self.recipe.long_documents:
            joined, candidates = True, itertools.islice(left, 1, None)
            limit = round(math.exp(draw.uniform(math.log(limit), math.log(self.recipe.long_document_tokens))))
            if self._related is not None and draw.random() < self.recipe.related_documents and joins:
                related, ranked = True, self._related.ranked(first)
                candidates = (i for i in ranked if i in left and self._joins(self.records[i]))
        elif draw.random() < self.recipe.multi_document:
            candidates = others[: draw.randint(2, 4) - 1]
        row, length, texts = [first], self.records[first].tokens, {self.records[first].documents}
        for index in candidates if joins else ():
            record = self.records[index]
            if related and record.documents in texts:  # itself, or the same text once more
                continue
            if not self._joins(record) or length + record.tokens > limit:
                break
            row.append(index)
            length += record.tokens
            texts.add(record.documents)
        if related:
            draw.shuffle(row)  # or likeness would fall from the beginning to the end
        return Row(tuple(row), joined and len(row) > 1)

    def _joins(self, record: TokenizedRecord) -> bool:
        """Whether a record may share a row: it has one document, and something to train on beside a summary."""
        alone = len(record.documents) > 1 or record.continuation
        return not alone and (record.quotable or _asked(record, self.recipe))
