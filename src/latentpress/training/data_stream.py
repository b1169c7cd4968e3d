"""Training data as a function of the step: batch i depends on the seed, i and the data, not on what happened before.

So a run continues after any interruption with the batches it would have had, and every process of a distributed run
sees the same batch and takes its share of it.
"""

from __future__ import annotations

import itertools
import math
import random
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset

from latentpress.compressors import Size
from latentpress.data.rows import Example, ExampleMaker, TokenizedRecord
from latentpress.training.reading import is_asked
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
        asked = any(is_asked(record, self.recipe) for record in records)
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
        return not alone and (record.quotable or is_asked(record, self.recipe))
