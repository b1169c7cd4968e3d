"""Records to training examples: a context encoded once, and every request about it as a branch of one packed row.

    [chat template, "Context: ", latents]  |  question 1, answer 1
                                           |  question 2, answer 2
                                           |  quote ...

All branches see the shared part and themselves, and their positions follow the last latent: the loss is what training
them one by one would give, at a fraction of the tokens.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from transformers import PreTrainedTokenizerBase

from latentpress.data.records import Record
from latentpress.decoder.prompt import Piece, PromptSettings, ask_messages, render, split_at_last_slot
from latentpress.errors import DataError
from latentpress.tokens import encode_inert, equal_windows

Kind = Literal["answer", "summary", "quote", "continuation"]
KINDS: tuple[str, ...] = ("answer", "summary", "quote", "continuation")
QUOTE_CUE = 4  # tokens of a passage that are given, so that it can be found


@dataclass(frozen=True, slots=True)
class Branch:
    """One request and its target."""

    kind: Kind
    """What is asked."""
    ids: tuple[int, ...]
    """Tokens of the request and of the target."""
    first_label: int
    """Index in `ids` of the first token that is predicted; all from there on are."""
    source: TokenizedRecord | None = field(default=None, repr=False, compare=False)
    """The record whose own request it is, None for one that was drawn (a quote)."""

    @property
    def labels(self) -> int:
        """Number of predicted tokens."""
        return len(self.ids) - self.first_label


@dataclass(frozen=True, slots=True)
class Example:
    """One packed row before it is encoded."""

    windows: tuple[tuple[int, ...], ...]
    """Encoder windows of all documents, in order."""
    documents: tuple[int, ...]
    """Number of windows of each document."""
    prefix: tuple[Piece, ...]
    """Shared part of the prompt, ending with the last latents."""
    branches: tuple[Branch, ...]
    """Requests."""
    log2_ratios: tuple[float | None, ...]
    """Density label of each window, None where there is none."""

    @property
    def tokens(self) -> int:
        """Context tokens."""
        return sum(map(len, self.windows))

    @property
    def labels(self) -> int:
        """Predicted tokens."""
        return sum(branch.labels for branch in self.branches)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedRecord:
    """A record in tokens, ready to be made into examples again and again."""

    documents: tuple[tuple[int, ...], ...]
    """Tokens of each document."""
    answers: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    """Request and target of each question."""
    summary: tuple[tuple[int, ...], tuple[int, ...]] | None
    """Request and target of the summary."""
    log2_ratio: float | None
    """log2 of context tokens over ultra-concise summary tokens (equation 6)."""
    continuation: tuple[int, ...] = ()
    """Tokens that follow the document and are to be predicted from it, nothing where that is not asked."""
    parts: tuple[TokenizedRecord, ...] = field(default=(), repr=False)
    """The records that were joined to this one; nothing of one that was read as it is."""

    def questions(self) -> list[Branch]:
        """Its questions, each with the record that it is of."""
        own = self.parts or (self,)
        return [
            Branch("answer", request + target, len(request), part) for part in own for request, target in part.answers
        ]

    def branches(self) -> list[Branch]:
        """All requests of a record that was read as it is."""
        return [*self.questions(), *self.others()]

    def others(self) -> list[Branch]:
        """Those of its requests that are no questions."""
        made = []
        if self.summary is not None:
            request, target = self.summary
            made.append(Branch("summary", request + target, len(request), self))
        if self.continuation:
            made.append(Branch("continuation", self.continuation, 1, self))  # its first token is given
        return made

    @property
    def tokens(self) -> int:
        """Context tokens."""
        return sum(map(len, self.documents))

    @property
    def quotable(self) -> bool:
        """Whether a document is long enough to be quoted from."""
        return max(map(len, self.documents)) > QUOTE_CUE


class ExampleMaker:
    """Turns records into examples.

    Args:
        tokenizer: of the encoder and of the decoder (the decoder's; they are the same in training data).
        prompt: the press's prompt texts.
        window_tokens: most tokens of an encoder window.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: PromptSettings, window_tokens: int) -> None:
        self.tokenizer, self.prompt, self.window_tokens = tokenizer, prompt, window_tokens
        self.stop = int(tokenizer.eos_token_id)
        self._prefixes: dict[int, tuple[Piece, ...]] = {}
        # The template's end, behind every request: a request is one inert piece before it, so nothing is rendered per
        # question.
        self._after_request = tuple(split_at_last_slot(render(tokenizer, ask_messages(prompt, 1, "")))[1])
        self._quote = tuple(encode_inert(tokenizer, "\n\nQuote: "))
        self._between_passages = tuple(encode_inert(tokenizer, "\n\n"))

    def tokenize(self, record: Record) -> TokenizedRecord:
        """Tokenises a record; the first acceptable answer of each question is the target.

        Raises:
            DataError: the tokenizer makes no tokens of a document.
        """
        documents = tuple(tuple(encode_inert(self.tokenizer, text)) for text in record.contexts)
        if not all(documents):
            raise DataError(f"record {record.id!r} has a document that the tokenizer makes no tokens of; leave it out")
        answers = tuple(
            (self._request(self.prompt.question.replace("{question}", qa.question)), self._target(qa.answers[0]))
            for qa in record.qas
        )
        summary = (self._request(self.prompt.summary), self._target(record.summary)) if record.summary else None
        label = None
        if record.short_summary and len(documents) == 1:
            label = density_label(len(documents[0]), len(encode_inert(self.tokenizer, record.short_summary)))
        return TokenizedRecord(documents=documents, answers=answers, summary=summary, log2_ratio=label)

    def joined(self, records: Sequence[TokenizedRecord]) -> TokenizedRecord:
        """One long document of several records of one document each, with all their questions.

        Summaries and density labels are of the parts and are left out.
        """
        text: tuple[int, ...] = ()
        for record in records:
            text += (self._between_passages if text else ()) + record.documents[0]
        answers = tuple(pair for record in records for pair in record.answers)
        return TokenizedRecord(documents=(text,), answers=answers, summary=None, log2_ratio=None, parts=tuple(records))

    def _request(self, text: str) -> tuple[int, ...]:
        return (*encode_inert(self.tokenizer, text), *self._after_request)

    def _target(self, text: str) -> tuple[int, ...]:
        return (*encode_inert(self.tokenizer, text), self.stop)

    def prefix(self, documents: int) -> tuple[Piece, ...]:
        """Shared part of the prompt for so many documents."""
        if documents not in self._prefixes:
            shared, _ = split_at_last_slot(render(self.tokenizer, ask_messages(self.prompt, documents, "")))
            self._prefixes[documents] = tuple(shared)
        return self._prefixes[documents]

    def example(
        self, records: Sequence[TokenizedRecord], draw: random.Random, *, questions: int, quotes: int, quote_tokens: int
    ) -> Example:
        """Makes one row of one record, or of several as one row of many documents.

        Args:
            records: their documents follow each other; requests about any of them become branches.
            draw: chooses questions and quotes.
            questions: most questions, drawn from all records'; a document of many windows counts as that many.
            quotes: passages of the text to be continued verbatim, a dense target that only a reader of the latents can
                hit; again as many times as there are windows to a document.
            quote_tokens: length of each, more than `QUOTE_CUE`.
        """
        documents = [document for record in records for document in record.documents]
        windows, counts, labels = [], [], []
        for record in records:
            for document in record.documents:
                spans = equal_windows(len(document), self.window_tokens)
                windows += [document[a:b] for a, b in spans]
                counts.append(len(spans))
                labels += [record.log2_ratio if len(spans) == 1 else None] * len(spans)
        branches = [branch for record in records for branch in record.questions()]
        times = 1 + sum(count - 1 for count in counts)  # what a step asks of a token does not fall with the length
        if len(branches) > questions * times:
            branches = draw.sample(branches, questions * times)
        if len(records) == 1:
            branches += records[0].others()
        quotable = [document for document in documents if len(document) > QUOTE_CUE]
        for _ in range(quotes * times if quotable else 0):
            document = draw.choice(quotable)
            start = draw.randrange(max(1, len(document) - quote_tokens + 1))
            passage = document[start : start + quote_tokens]
            branches.append(Branch("quote", self._quote + passage, len(self._quote) + QUOTE_CUE))
        return Example(tuple(windows), tuple(counts), self.prefix(len(documents)), tuple(branches), tuple(labels))


def density_label(context_tokens: int, summary_tokens: int) -> float:
    """`y* = log2(T / T_summary)`, never below 0 (arXiv 2603.25926, equation 6).

    Raises:
        DataError: an empty context or summary.
    """
    if context_tokens < 1 or summary_tokens < 1:
        raise DataError(
            f"a density label needs a context and a summary, got {context_tokens} and {summary_tokens} tokens; "
            "leave short_summary out"
        )
    return max(0.0, math.log2(context_tokens / summary_tokens))
