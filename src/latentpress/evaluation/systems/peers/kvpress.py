"""Presses of keys and values: the context is read whole, then most cache entries are dropped (package `kvpress`).

What is dropped is chosen in each layer and head: by the attention of the last tokens (SnapKV, arXiv 2404.14469), by the
attention that questions to come are expected to pay (expected attention, arXiv 2510.00636), by the norm of the keys
(arXiv 2406.11430), or by place (StreamingLLM, arXiv 2309.17453: the first tokens and the last).

The package counts the share removed; here the budget counts what stands for the documents. The prompt's words before
them are entries as well, so that many more are kept in all, and the press may choose among all of them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from latentpress.errors import ContextTooLongError
from latentpress.evaluation.questions import BETWEEN, Answer, Question
from latentpress.evaluation.systems.base import Family, Setup, Size, System, SystemKind
from latentpress.evaluation.systems.batching import Reply, as_answer, batches
from latentpress.evaluation.systems.peers.environments import PACKAGES, Interpreter, find
from latentpress.evaluation.systems.peers.process import Fields
from latentpress.evaluation.systems.peers.sharing import Lease, model_settings
from latentpress.evaluation.systems.timed import Held, Reading

if TYPE_CHECKING:
    from latentpress.evaluation.systems.readers import TextReader

_PACKAGE = PACKAGES["kvpress"]
_WORKER = Path(__file__).parent / "workers" / "kvpress_worker.py"
_WINDOW = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A press of the package."""

    name: str
    """Of the family."""
    press: str
    """Its class in the package."""
    about: str
    """One line for the list of systems."""
    options: Callable[[int], dict[str, Any]] = field(default=lambda keep: {})  # noqa: ARG005
    """Arguments that differ from the package's defaults, for so many entries to keep."""


def _window(keep: int) -> dict[str, Any]:
    """Tokens at the end of the context whose attention judges the others, and which are always kept.

    64 by default, for contexts of thousands of tokens; of a few dozen entries they would leave room for no others, and
    shorter texts are refused. An eighth of the entries at most did better than a quarter or half (80 questions of SQuAD
    at x4, tuned reader: F1 22 and 16 for an eighth and a quarter).
    """
    return {"window_size": max(1, min(_WINDOW, keep // 8))}


METHODS = (
    Method(
        name="snapkv",
        press="SnapKVPress",
        about="cache entries that the last tokens of the text attend to (SnapKV, package kvpress)",
        options=_window,
    ),
    Method(
        name="expected-attention",
        press="ExpectedAttentionPress",
        about="cache entries that later queries are expected to attend to (package kvpress)",
    ),
    Method(name="key-norm", press="KnormPress", about="cache entries whose keys have the least norm (package kvpress)"),
    Method(
        name="streaming-llm",
        press="StreamingLLMPress",
        about="cache entries of the first four tokens and the last ones (StreamingLLM, package kvpress)",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Text:
    """Documents as the worker takes them."""

    tokens: int
    """Of the documents."""
    budget: int
    """Entries that are to stand for them."""
    before: int
    """Tokens of the prompt before them, whose entries stand beside those."""
    request: Fields
    """What the worker is told: the context, and how it is pressed."""

    def kept(self, entries: Sequence[int]) -> int:
        """Entries that stand for the documents, from those of each layer."""
        return round(statistics.mean(entries)) - self.before


class Asked:
    """The contexts asked about last, which the worker has read for all methods and sizes of a reader."""

    def __init__(self) -> None:
        self._contexts = frozenset[tuple[str, ...]]()

    def are_new(self, contexts: Collection[tuple[str, ...]]) -> bool:
        """Whether they are other than those before."""
        before, self._contexts = self._contexts, frozenset(contexts)
        return before != self._contexts


class KvpressSystem(System):
    """A press of keys and values and the model whose they are.

    Args:
        method: the press.
        setup: what it shares with others.
        reader: whose weights and prompt are used.
        size: a ratio.
        interpreter: runs the package.
        model: folder of the weights.
        shares: one for all methods and sizes of the reader.
    """

    kind: SystemKind = "peer"
    sees_question = False
    worker: Lease
    shares: Asked

    def __init__(
        self,
        method: Method,
        setup: Setup,
        reader: TextReader,
        size: Size | None,
        interpreter: Interpreter,
        model: Path,
        shares: Asked,
    ) -> None:
        from latentpress.decoder.reader import Reader

        self.name, self.reader, self.size = method.name, reader.name, size
        self._ratio = (size.ratio or 1.0) if size else 1.0
        self._method, self._interpreter, self._text_reader = method, interpreter, reader
        self._press = press = reader.press
        self._count = setup.press.count_tokens
        network, prompt = press.model, press.config.prompt
        self._reader = Reader(network.decoder, press.base, prompt, network.policy, network.compressor.count)
        self.worker = Lease(_PACKAGE.name, interpreter.python, _WORKER, model_settings(model, network.decoder))
        self.shares = shares

    def identity(self) -> dict[str, Any]:
        """See `System.identity`."""
        return {
            **self._text_reader.identity(),
            "peer": dict(self._interpreter.versions),
            "method": self._method.press,
            "ratio": self._ratio,
        }

    def answer(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
        """See `System.answer`; the model reads a text once for all methods and sizes asked about it in turn."""
        from latentpress.decoder.reader import stop_tokens

        made = {contexts: self._text(contexts) for contexts in dict.fromkeys(one.contexts for one in questions)}
        texts = [made[one.contexts] for one in questions]
        requests = [self._reader.request(one.question) for one in questions]
        used = [len(text.request["context"]) + len(one) for text, one in zip(texts, requests, strict=True)]
        replies: list[Reply] = [self._error(one, max_new_tokens) or "" for one in used]
        kept, nbytes = [text.budget for text in texts], dict[int, int]()
        asked = [i for i, reply in enumerate(replies) if isinstance(reply, str)]
        stops, forget = sorted(stop_tokens(self._press.base)), self.shares.are_new(made)
        for batch in batches([used[i] + max_new_tokens for i in asked]):
            rows = [asked[i] for i in batch]
            done = self.worker.ask(
                do="answer",
                rows=[{**texts[i].request, "question": requests[i]} for i in rows],
                stops=stops,
                max_new_tokens=max_new_tokens,
                forget=forget,
            )
            forget = False
            for i, ids, entries, size in zip(rows, done["answers"], done["kept"], done["bytes"], strict=True):
                replies[i], kept[i], nbytes[i] = self._decoded(ids), texts[i].kept(entries), size
        return [
            as_answer(reply, tokens=texts[i].tokens, kept=kept[i], nbytes=nbytes.get(i))
            for i, reply in enumerate(replies)
        ]

    def timed_hold(self, question: Question) -> Held:
        """See `TimesItself.timed_hold`; the worker holds one text for each system."""
        began = time.perf_counter()
        text = self._text(question.contexts)
        prepared = time.perf_counter() - began
        done = self.worker.ask(do="hold", name=self.label, **text.request)
        return Held(self.label, text.kept(done["kept"]), prepared + done["seconds"])

    def timed_read(self, held: Held, question: Question, tokens: int) -> Reading:
        """See `TimesItself.timed_read`."""
        began = time.perf_counter()
        request = self._reader.request(question.question)
        prepared = time.perf_counter() - began
        done = self.worker.ask(do="read", name=held.what, question=request, tokens=tokens)
        return Reading(prepared + done["first_token"], prepared + done["total"])

    def _text(self, contexts: tuple[str, ...]) -> _Text:
        """Documents of a question."""
        from latentpress.tokens import encode_inert

        documents = encode_inert(self._press.base.tokenizer, BETWEEN.join(contexts))
        before = [i for piece in self._reader.opening(1) if isinstance(piece, list) for i in piece]
        tokens = sum(map(self._count, contexts))
        budget = min(math.ceil(tokens / self._ratio), len(documents))
        keep = len(before) + (len(documents) if self._ratio == 1 else budget)
        request = {
            "context": [*before, *documents],
            "press": self._method.press,
            "options": self._method.options(keep),
            "keep": keep,
        }
        return _Text(tokens=tokens, budget=budget, before=len(before), request=request)

    def _error(self, used: int, new: int) -> ContextTooLongError | None:
        """Why a prompt does not fit the decoder, which has to read all of it before anything is dropped."""
        try:
            self._reader.check_room(used, new, [])
        except ContextTooLongError as error:
            return error
        return None

    def _decoded(self, ids: list[int]) -> str:
        decoded = self._press.base.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(decoded)


_ASKED: WeakValueDictionary[tuple[int, str], Asked] = WeakValueDictionary()


def _family(method: Method) -> Family:
    def make(setup: Setup, reader: str, size: Size | None) -> System:
        from latentpress.base_model import base_folder
        from latentpress.evaluation.systems.peers.merged import merged_folder
        from latentpress.evaluation.systems.readers import ZERO_SHOT, text_reader

        interpreter = find(_PACKAGE.name, setup.python)
        read = text_reader(setup, reader)
        model = base_folder(setup.press.base.id) if reader == ZERO_SHOT else merged_folder(read.press)
        shares = _ASKED.setdefault((id(setup), reader), Asked())
        return KvpressSystem(method, setup, read, size, interpreter, model, shares)

    return Family(name=method.name, kind="peer", about=method.about, make=make, needs=_PACKAGE.requirement)


KVPRESS: dict[str, Family] = {method.name: _family(method) for method in METHODS}
