"""Bounds: what is left of a text after a rule has cut it, or all of it, or nothing, and a reader of that."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from latentpress.evaluation.questions import Answer, Question
from latentpress.evaluation.systems.base import Family, Setup, Size, System, SystemKind
from latentpress.evaluation.systems.batching import as_answer
from latentpress.evaluation.systems.cutters import (
    Cutter,
    bm25_sentences,
    everything,
    head,
    head_tail,
    nothing,
    random_sentences,
)
from latentpress.evaluation.systems.timed import Held, Reading, write_answer

if TYPE_CHECKING:
    from latentpress.attention import KeyValueCache
    from latentpress.backbone import Backbone
    from latentpress.decoder.generate import Prompt
    from latentpress.evaluation.systems.readers import TextReader


class CutSystem(System):
    """A cutter of texts and a reader of what is left.

    Documents of a question are cut as one text, blank lines between them. Their tokens, over which the ratio is taken,
    are counted without these lines; what is kept of the lines counts as kept.

    Args:
        family: its name, and whether its cutter sees the question.
        cutter: what cuts.
        setup: what it shares with others.
        reader: what reads.
        size: a ratio; None where the cutter asks for no budget.
    """

    kind: SystemKind = "bound"

    def __init__(self, family: Family, cutter: Cutter, setup: Setup, reader: TextReader, size: Size | None) -> None:
        self.name, self.sees_question = family.name, family.sees_question
        self.reader, self.size = reader.name, size
        self._cutter, self._reader = cutter, reader
        self._press, self._seed = setup.press, setup.seed

    @property
    def _ratio(self) -> float:
        return self.size.ratio or 1.0 if self.size else 1.0

    def identity(self) -> dict[str, Any]:
        """See `System.identity`; the seed is part of it where something is drawn."""
        drawn = {"seed": self._seed} if self._cutter is random_sentences else {}
        return {**self._reader.identity(), "cut": self.name, "ratio": self._ratio, **drawn}

    def answer(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
        """See `System.answer`."""
        counted = functools.cache(self._press.count_tokens)
        tokens = [sum(map(counted, one.contexts)) for one in questions]
        texts = [self._cut(one, count) for one, count in zip(questions, tokens, strict=True)]
        replies = self._reader.answer(texts, [one.question for one in questions], max_new_tokens)
        return [
            as_answer(reply, tokens=count, kept=self._press.count_tokens(text), nbytes=self._stored_bytes(text))
            for reply, count, text in zip(replies, tokens, texts, strict=True)
        ]

    def hold(self, question: Question) -> str:
        """See `Timed.hold`: the text that is left."""
        return self._cut(question, sum(map(self._press.count_tokens, question.contexts)))

    def prompt(self, held: str, question: Question) -> tuple[Backbone, Prompt]:
        """See `Timed.prompt`."""
        return self._reader.prompt(held, question.question)

    def kept_of(self, held: str) -> int:
        """See `Timed.kept_of`."""
        return self._press.count_tokens(held)

    def kept(self, question: Question, budget: int) -> str:
        """What is left of a question's documents; drawn anew for each question, whatever stands beside it."""
        seed = self._seed + int(question.digest, 16)
        return self._cutter(question.text, question.question, budget, self._press.base.tokenizer, seed)

    def _cut(self, question: Question, tokens: int) -> str:
        """What is left at the ratio of a question's documents, which have so many tokens."""
        return self.kept(question, math.ceil(tokens / self._ratio))

    def _stored_bytes(self, text: str) -> int | None:
        """Bytes of the text in UTF-8; whatever sees the question must go back to the whole text for the next one."""
        return None if self.sees_question or not text else len(text.encode())


class CachedText(CutSystem):
    """The whole text, whose keys and values stay in memory between questions: how text is asked about repeatedly.

    It is timed, and gives the answers of `full`, which is its family.

    Args:
        setup: what it shares with others.
        reader: name of what reads.
    """

    def __init__(self, setup: Setup, reader: str) -> None:
        from latentpress.evaluation.systems.readers import text_reader

        super().__init__(BOUNDS["full"], everything, setup, text_reader(setup, reader), None)
        self.name = "full-cached"

    def timed_hold(self, question: Question) -> Held:
        """See `TimesItself.timed_hold`: reads the text."""
        began = time.perf_counter()
        text = self.hold(question)
        cache = self._reader.opened(text)
        return Held(cache, self.kept_of(text), time.perf_counter() - began)

    def timed_read(self, held: Held, question: Question, tokens: int) -> Reading:
        """See `TimesItself.timed_read`: reads the question alone."""
        cache: KeyValueCache = held.what
        before = cache.length(0)
        began = time.perf_counter()
        first, _ = write_answer(*self._reader.question(question.question), tokens, began, cache)
        total = time.perf_counter() - began
        cache.rewind([before])
        return Reading(first, total)


def _family(name: str, about: str, cutter: Cutter, **fields: Any) -> Family:
    def make(setup: Setup, reader: str, size: Size | None) -> System:
        from latentpress.evaluation.systems.readers import text_reader

        return CutSystem(family, cutter, setup, text_reader(setup, reader), size)

    family = Family(name=name, kind="bound", about=about, make=make, **fields)
    return family


_WHOLE: dict[str, Any] = {"readers": ("zero-shot", "tuned", "prompt-tuned"), "sized": False}
BOUNDS: dict[str, Family] = {
    family.name: family
    for family in (
        _family("none", "the question alone, no context", nothing, **_WHOLE),
        _family("full", "the whole text", everything, **_WHOLE),
        _family("head", "the first tokens of the text", head),
        _family("head-tail", "tokens of the text, half from its start and half from its end", head_tail),
        _family("random-sentences", "sentences drawn at random, in the order of the text", random_sentences),
        _family(
            "bm25-sentences",
            "the sentences that match the question best (BM25), in the order of the text",
            bm25_sentences,
            sees_question=True,
        ),
    )
}
