"""A press at one size, as a compared system."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from latentpress.arguments import WantedSize
from latentpress.errors import RatioError
from latentpress.evaluation.questions import Answer, Question
from latentpress.evaluation.systems.base import Size, System, SystemKind
from latentpress.evaluation.systems.batching import Reply, answered, as_answer

if TYPE_CHECKING:
    from latentpress.backbone import Backbone
    from latentpress.decoder.generate import Prompt
    from latentpress.latents import Latents
    from latentpress.press import Press


class Compressions:
    """Latents of one press at several sizes, of the documents asked about last, and what was answered from them.

    Each document is encoded once for all sizes, and a question answered once from the same latents: a selector chooses
    what a fixed ratio or another scale has given already.

    Args:
        press: the press.
        sizes: every size that will be asked for.
    """

    def __init__(self, press: Press, sizes: Sequence[Size]) -> None:
        self.press, self.sizes = press, list(sizes)
        self._made: dict[str, dict[Size, Latents]] = {}
        self._replies: dict[str, Reply] = {}

    def at(self, size: Size, documents: Sequence[str]) -> list[Latents]:
        """Latents of documents at a size."""
        if not all(document in self._made for document in documents):
            made = self.press.compress_at(documents, [_wanted(one) for one in self.sizes])
            by_document = zip(*made, strict=True)
            self._replies.clear()
            self._made = {
                document: dict(zip(self.sizes, own, strict=True))
                for document, own in zip(documents, by_document, strict=True)
            }
        return [self._made[document][size] for document in documents]

    def answered(self, ask: Callable[[list[int]], list[str]], sizes: Sequence[int], keys: Sequence[str]) -> list[Reply]:
        """As `batching.answered`, for questions that have no reply yet.

        Args:
            ask: see there.
            sizes: see there.
            keys: all that the reply to each question depends on.
        """
        new = [i for i, key in enumerate(keys) if key not in self._replies and key not in keys[:i]]
        replies = answered(lambda batch: ask([new[i] for i in batch]), [sizes[i] for i in new])
        self._replies |= dict(zip([keys[i] for i in new], replies, strict=True))
        return [self._replies[key] for key in keys]


def share_compressions(systems: Sequence[System]) -> None:
    """Has all sizes of a press made from one reading of a text."""
    groups: dict[int, list[PressSystem]] = {}
    for system in systems:
        if isinstance(system, PressSystem):
            groups.setdefault(id(system.press), []).append(system)
    for group in groups.values():
        shared = Compressions(group[0].press, list(dict.fromkeys(system.size for system in group)))
        for system in group:
            system.shares = shared


class PressSystem(System):
    """Compresses each document of a question and asks its latents.

    Args:
        press: the press.
        size: one of its candidate ratios, or the choice of its selector.
        name: what it is called, if not by the press's own name.
        focus: windows that it reads for a question, see `Press.focus`; None: all.

    Raises:
        RatioError: the press was not trained for the size.
    """

    kind: SystemKind = "press"
    sees_question = False
    size: Size
    shares: Compressions

    def __init__(self, press: Press, size: Size, *, name: str | None = None, focus: int | None = None) -> None:
        check_size(press, size)
        self.reader = "own" if focus is None else f"focus{focus}"
        self._focus = focus
        self.press = press
        self.size = size
        self.name = name or press.config.name
        self.shares = Compressions(press, [size])

    def identity(self) -> dict[str, Any]:
        """See `System.identity`; prompt and settings are in the press's fingerprint."""
        return {
            "press": self.press.fingerprint,
            "base": self.press.base.fingerprint,
            "dtype": str(self.press.model.decoder.dtype).removeprefix("torch."),
            "ratio": self.size.ratio,
            "scale": self.size.scale,
            **({} if self.size.length is None else {"length": self.size.length}),
            **({} if self._focus is None else {"focus": self._focus}),
        }

    def answer(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
        """See `System.answer`; each distinct document is compressed once."""
        documents = list(dict.fromkeys(context for one in questions for context in one.contexts))
        latents = dict(zip(documents, self.shares.at(self.size, documents), strict=True))
        tokens = {document: self.press.count_tokens(document) for document in documents}
        contexts = [[latents[context] for context in one.contexts] for one in questions]
        kept = [sum(map(len, own)) for own in contexts]

        def ask(batch: list[int]) -> list[str]:
            return self.press.ask_many(
                [contexts[i] for i in batch],
                [questions[i].question for i in batch],
                focus=self._focus,
                max_new_tokens=max_new_tokens,
                batch_size=len(batch),
            )

        asked = [self.press.count_tokens(one.question) for one in questions]
        sizes = [count + more + max_new_tokens for count, more in zip(kept, asked, strict=True)]
        keys = [
            _key(own, one.question, max_new_tokens, self._focus) for own, one in zip(contexts, questions, strict=True)
        ]
        return [
            as_answer(
                reply,
                tokens=sum(tokens[context] for context in one.contexts),
                kept=count,
                nbytes=sum(map(stored_bytes, own)),
            )
            for one, reply, own, count in zip(
                questions, self.shares.answered(ask, sizes, keys), contexts, kept, strict=True
            )
        ]

    def hold(self, question: Question) -> list[Latents]:
        """See `Timed.hold`: the latents."""
        (made,) = self.press.compress_at(question.contexts, [_wanted(self.size)])
        return made

    def prompt(self, held: list[Latents], question: Question) -> tuple[Backbone, Prompt]:
        """See `Timed.prompt`."""
        if self._focus is not None:
            held = self.press.focus(held, question.question, windows=self._focus)
        return self.press.model.decoder, self.press.prompt(held, question.question)

    def kept_of(self, held: list[Latents]) -> int:
        """See `Timed.kept_of`."""
        return sum(map(len, held))


def _wanted(size: Size) -> WantedSize:
    return WantedSize(ratio=size.ratio, length=size.length, scale=size.scale)


def _key(contexts: Sequence[Latents], question: str, max_new_tokens: int, focus: int | None) -> str:
    """All that an answer of a press depends on: its documents' vectors, the question, and how they are read."""
    import torch

    hashed = hashlib.sha256()
    for latents in contexts:
        hashed.update(f"{tuple(latents.vectors.shape)} {latents.vectors.dtype}".encode())
        hashed.update(latents.vectors.contiguous().view(torch.uint8).numpy().data)
    windows = None if focus is None else [[window.latents for window in latents.windows] for latents in contexts]
    hashed.update(f"{max_new_tokens} {focus} {windows} {question}".encode())
    return hashed.hexdigest()


def check_size(press: Press, size: Size) -> None:
    """Makes sure that a press can compress at a size.

    Raises:
        RatioError: a ratio or length that is no candidate, or a selector's choice where there is no selector.
    """
    from latentpress.arguments import requested_size

    policy = press.model.policy
    listed = ", ".join(map(str, policy.candidates))
    try:
        requested_size(policy, size.ratio, size.scale, size.length)
    except RatioError as error:
        raise RatioError(f"press {press.config.name!r}: {error}") from error
    if size.chosen and not policy.predicts:
        raise RatioError(
            f"press {press.config.name!r}: size {size} is its selector's choice, and it has none; "
            f"choose one of {listed}"
        )


def stored_bytes(latents: Latents) -> int:
    """Bytes of the tensors that a latents file holds: vectors and spans, without its header of about a kilobyte."""
    tensors = (latents.vectors, latents.token_spans, latents.char_spans)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
