"""LLMLingua and LongLLMLingua: drop tokens of the text that a small language model finds likely (package `llmlingua`).

arXiv 2310.05736 and 2310.06839, in version 0.2.2 of their authors' package, with the arguments of its README. The small
model is the base model of the comparison, so that the peer has as much to judge tokens with as the presses have.

LLMLingua is given one text. LongLLMLingua is given the documents, split at blank lines: it ranks them by the question,
drops the last and puts the best first.

The package aims at a number of tokens and misses it. In a text of several segments its threshold for the later ones
counts in what it has kept of the earlier ones, so that it keeps too little (its issues 61 and 195: at x4, about 70% of
the budget for 1,300 tokens). Here it is asked again for more, or less, until what it keeps is close to the budget, and
what is above is cut off: it hands on about as many tokens as every other system, never more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from latentpress.evaluation.questions import BETWEEN, Answer, Question
from latentpress.evaluation.systems.base import Family, Setup, Size, System, SystemKind
from latentpress.evaluation.systems.bounds import CutSystem
from latentpress.evaluation.systems.cutters import everything, head
from latentpress.evaluation.systems.peers.environments import PACKAGES, Interpreter, find
from latentpress.evaluation.systems.peers.sharing import Lease, model_settings

if TYPE_CHECKING:
    from latentpress.evaluation.systems.readers import TextReader

_PACKAGE = PACKAGES["llmlingua"]
_WORKER = Path(__file__).parent / "workers" / "llmlingua_worker.py"
_TRIES = 3
_LEAST, _MOST = 0.9, 1.05  # of the budget; the little above it is cut off
# What the package's README gives for each.
_BLIND: dict[str, Any] = {"rank_method": "llmlingua"}
_QUESTION: dict[str, Any] = {
    "rank_method": "longllmlingua",
    "condition_in_question": "after_condition",
    "reorder_context": "sort",
    "dynamic_context_compression_ratio": 0.3,
    "condition_compare": True,
    "context_budget": "+100",
}

_Key = tuple[tuple[str, ...], str | None, int]
Compress = Callable[[float], str]
"""What the peer keeps of a text when it is asked for so many tokens."""


class Kept:
    """What is left of the texts asked about last, by text, question if it is seen, and budget; for all readers.

    All sizes are asked about a text in turn, since the worker remembers what it has computed of it.
    """

    def __init__(self) -> None:
        self._texts: dict[Size | None, dict[_Key, str]] = {}

    def only(self, size: Size | None, contexts: Collection[tuple[str, ...]]) -> dict[_Key, str]:
        """What is left at a size; forgets the texts of other contexts there: other sizes may be behind or ahead."""
        texts = self._texts.get(size, {})
        self._texts[size] = {key: text for key, text in texts.items() if key[0] in contexts}
        return self._texts[size]


class LlmLinguaSystem(CutSystem):
    """LLMLingua, and a reader of what it keeps.

    Args:
        family: its name, and whether it sees the question.
        setup: what it shares with others.
        reader: what reads.
        size: a ratio.
        interpreter: runs the package.
        model: folder of the small model.
        shares: one for all readers and sizes.
    """

    kind: SystemKind = "peer"
    worker: Lease
    shares: Kept

    def __init__(
        self,
        family: Family,
        setup: Setup,
        reader: TextReader,
        size: Size | None,
        interpreter: Interpreter,
        model: Path,
        shares: Kept,
    ) -> None:
        super().__init__(family, everything, setup, reader, size)
        self._versions = dict(interpreter.versions)
        self._options = _QUESTION if family.sees_question else _BLIND
        settings = model_settings(model, setup.press.model.decoder)
        self.worker = Lease(_PACKAGE.name, interpreter.python, _WORKER, settings)
        self.shares = shares
        self._made: dict[_Key, str] | None = None

    def identity(self) -> dict[str, Any]:
        """See `System.identity`."""
        return {**super().identity(), "peer": self._versions, "options": self._options}

    def answer(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
        """See `System.answer`; a text is compressed once for all of these and all readers."""
        self._made = self.shares.only(self.size, {one.contexts for one in questions})
        try:
            return super().answer(questions, max_new_tokens)
        finally:
            self._made = None

    def kept(self, question: Question, budget: int) -> str:
        """What is left of a question's documents, of at most so many tokens."""
        if self._made is None:
            return self._compressed(question, budget)
        key = (question.contexts, question.question if self.sees_question else None, budget)
        if key not in self._made:
            self._made[key] = self._compressed(question, budget)
        return self._made[key]

    def _compressed(self, question: Question, budget: int) -> str:
        count, text = self._press.count_tokens, question.text.strip()
        if count(text) <= budget:
            return text
        documents, asked = [text], None
        if self.sees_question:
            documents = [part.strip() for part in text.split(BETWEEN) if part.strip()]
            asked = question.question

        forget = self._made is None  # alone, as where it is timed: nothing that an earlier call computed is used

        def compress(target: float) -> str:
            nonlocal forget
            answer = self.worker.ask(
                documents=documents, question=asked, target=target, options=self._options, forget=forget
            )
            forget = False
            return str(answer["kept"])

        kept = nearest(compress, budget, lambda one: count(one) if one.strip() else 0)
        return head(kept, "", budget, self._press.base.tokenizer, 0) if kept.strip() else ""


def nearest(compress: Compress, budget: int, count: Callable[[str], int]) -> str:
    """Asks a compressor that misses its target for other numbers of tokens until it keeps about as many as wanted.

    Args:
        compress: given a number of tokens to aim at.
        budget: tokens wanted.
        count: tokens of a text.

    Returns:
        Of what it kept in at most `_TRIES` tries, what comes nearest to the budget, above or below.
    """
    target, tried = float(budget), dict[int, str]()
    for _ in range(_TRIES):
        text = compress(target)
        kept = count(text)
        tried.setdefault(kept, text)
        if _LEAST * budget <= kept <= _MOST * budget:
            break
        target *= min(max(budget / kept, 0.5), 2.0) if kept else 2.0
    return tried[min(tried, key=lambda kept: (abs(kept - budget), kept))]


def _family(name: str, about: str, *, sees_question: bool) -> Family:
    shared: WeakValueDictionary[int, Kept] = WeakValueDictionary()

    def make(setup: Setup, reader: str, size: Size | None) -> System:
        from latentpress.base_model import base_folder
        from latentpress.evaluation.systems.readers import text_reader

        interpreter = find(_PACKAGE.name, setup.python)
        model = base_folder(setup.press.base.id)
        kept = shared.setdefault(id(setup), Kept())
        return LlmLinguaSystem(family, setup, text_reader(setup, reader), size, interpreter, model, kept)

    family = Family(
        name=name, kind="peer", about=about, make=make, sees_question=sees_question, needs=_PACKAGE.requirement
    )
    return family


LLMLINGUA: dict[str, Family] = {
    family.name: family
    for family in (
        _family("llmlingua", "tokens of the text that the base model finds unlikely (LLMLingua)", sees_question=False),
        _family(
            "llmlingua-question",
            "tokens of the text that the question makes likelier (LongLLMLingua)",
            sees_question=True,
        ),
    )
}
