"""A press: text -> tokens -> hidden states -> ratio -> latents -> decoder -> answer. Open this file first.

    press = latentpress.load("semidynamic-smollm2-135m")
    latents = press.compress(document)
    press.ask(latents, "Who signed the treaty?")

`PressModel` (model.py) leads from tokens to latents, in training as here; `Reader` (decoder/reader.py) from there on.
Answers from the text itself, for comparison, are in full_text.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, overload

import torch

from latentpress.arguments import WantedSize, check_batch, checked_text, requested_size
from latentpress.backbone import Backbone, Base
from latentpress.compressors import Length, Ratio, Size
from latentpress.contexts import Context, check_made_by, open_contexts
from latentpress.decoder.chat import Message, chat_rows
from latentpress.decoder.generate import Prompt, Sampling
from latentpress.decoder.prompt import render
from latentpress.decoder.reader import Reader
from latentpress.errors import InputError
from latentpress.focus import check_focus, focused
from latentpress.full_text import FullText
from latentpress.latents import EmbeddingLatents, KVLatents, Latents
from latentpress.loading import load, load_model, shipped_presses
from latentpress.model import PressModel
from latentpress.session import Session
from latentpress.sizes import Sizes, predictions_ahead, tokens_ahead
from latentpress.tokens import TokenizedText, char_span, tokenize
from latentpress.windows import Window, WindowLatents, by_window, cut, passes

__all__ = ["Context", "Message", "Press", "Progress", "Session", "load", "load_model", "shipped_presses"]

Progress = Callable[[int, int], None]
"""Called with tokens read and tokens in all; those that are read twice count twice."""


class Press(FullText):
    """A compressor with its trained weights, and the decoder that reads its latents.

    Args:
        model: the network with its weights.
        base: decoder's base model.
        encoder_base: encoder's, the same if None.
        fingerprint: identity of the press's files.
    """

    def __init__(self, model: PressModel, base: Base, encoder_base: Base | None, fingerprint: str) -> None:
        self.model = model.eval()
        self.config = model.config
        self.base = base
        self.fingerprint = fingerprint
        self._encoder_tokenizer = (encoder_base or base).tokenizer
        about = (base, self.config.prompt, model.policy, model.compressor.count)
        self._reader = Reader(model.decoder, *about)
        self._kind = KVLatents if model.compressor.reads == "keys-values" else EmbeddingLatents
        super().__init__(Reader(Backbone(base.model), *about))

    # ---- text -> latents ----

    @overload
    def compress(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too
        self,
        text: str,
        *,
        ratio: float | None = None,
        length: int | None = None,
        scale: float = 0.0,
        progress: Progress | None = None,
    ) -> Latents: ...
    @overload
    def compress(
        self,
        text: Sequence[str],
        *,
        ratio: float | None = None,
        length: int | None = None,
        scale: float = 0.0,
        progress: Progress | None = None,
    ) -> list[Latents]: ...
    def compress(
        self,
        text: str | Sequence[str],
        *,
        ratio: float | None = None,
        length: int | None = None,
        scale: float = 0.0,
        progress: Progress | None = None,
    ) -> Latents | list[Latents]:
        """Compresses a document, or several.

        Args:
            text: a document of any length, or a list of them; long ones go through in windows, each with a size of its
                own unless the press chooses one for the document (`config.selection`).
            ratio: one of the press's ratios for every window; None lets the press choose.
            length: one of the press's numbers of latents, for a press that has lengths in place of ratios: of every
                window, or of the document, whichever has a size of its own.
            scale: added to the predicted log2 ratio: 1 compresses twice as hard, -1 half.
            progress: called with tokens read and tokens in all, after each pass; a document that is read ahead for the
                choice of its size counts twice.

        Returns:
            Latents on the CPU, a list for a list.

        Raises:
            InputError: an empty or binary text, or two of ratio, length and scale together.
            RatioError: a ratio or length that the press was not trained for, or a scale for one without a selector.
        """
        texts = [text] if isinstance(text, str) else text
        wanted = WantedSize(ratio=ratio, length=length, scale=scale)
        (made,) = self.compress_at(texts, [wanted], progress=progress)
        return made[0] if isinstance(text, str) else made

    def compress_at(
        self, texts: Sequence[str], wanted: Sequence[WantedSize], *, progress: Progress | None = None
    ) -> list[list[Latents]]:
        """Compresses documents at several sizes, reading each once for all of them.

        Of a press that chooses a size for the document, one of several passes is read once before, for the choices.

        Args:
            texts: documents of any length.
            wanted: what `compress` takes, for each size.
            progress: see `compress`.

        Returns:
            For each size the latents of all documents, on the CPU.

        Raises:
            InputError: see `compress`.
            RatioError: see `compress`.
        """
        if not isinstance(texts, list | tuple):
            raise InputError(f"the text is a {type(texts).__name__}; give a text (str), or a list of texts")
        asked = [requested_size(self.model.policy, one.ratio, one.scale, one.length) for one in wanted]
        texts = [checked_text(one, "the text") for one in texts]
        documents = [tokenize(self._encoder_tokenizer, one) for one in texts]
        batches = list(passes(cut(documents, self.config.window_tokens), self.model.compressor.adds))
        chooses = None in asked
        total = sum(len(document.ids) for document in documents) + (tokens_ahead(self.model, batches) if chooses else 0)
        read = _counting(progress, total)
        ahead = predictions_ahead(self.model, batches, read) if chooses else {}
        sizes = [Sizes(self.model, batches, size, one.scale, ahead) for size, one in zip(asked, wanted, strict=True)]
        made: list[list[list[WindowLatents]]] = [[[] for _ in documents] for _ in sizes]
        for batch in batches:
            for own, latents in zip(made, self._compress_pass(batch, sizes), strict=True):
                for window, one in zip(batch, latents, strict=True):
                    own[window.document].append(one)
            read(sum(len(window.ids) for window in batch))
        return [
            [self._assemble(*one, size, how.scale) for one in zip(texts, documents, own, strict=True)]
            for size, how, own in zip(asked, wanted, made, strict=True)
        ]

    @torch.no_grad()
    def _compress_pass(self, windows: list[Window], sizes: Sequence[Sizes]) -> list[list[WindowLatents]]:
        """Hidden states of some windows, and their latents at each of the sizes; positions restart in each window."""
        encoded = self.model.encode([window.ids for window in windows])
        made = []
        for one in sizes:
            chosen = one.of(windows, encoded)
            latents = self.model.latents(encoded, [size for size, _ in chosen])
            made.append(by_window(windows, encoded.parts, latents, chosen, self.model.compressor.count))
        return made

    def _assemble(
        self, text: str, document: TokenizedText, parts: list[WindowLatents], asked: Size | None, scale: float
    ) -> Latents:
        spans = torch.cat([part.token_spans for part in parts])
        return self._kind(
            vectors=torch.cat([part.vectors for part in parts]),
            token_spans=spans,
            char_spans=torch.tensor([char_span(document.offsets, start, end) for start, end in spans.tolist()]),
            windows=tuple(info for part in parts for info in part.infos),
            requested_ratio=float(asked.value) if isinstance(asked, Ratio) else None,
            requested_length=asked.value if isinstance(asked, Length) else None,
            scale=float(scale),
            press=self.config.name,
            press_fingerprint=self.fingerprint,
            base_fingerprint=self.base.fingerprint,
            text_sha256=hashlib.sha256(text.encode()).hexdigest(),
        )

    # ---- latents -> answer ----

    @overload
    def ask(
        self,
        context: Context,
        question: str,
        *,
        focus: int | None = None,
        max_new_tokens: int = 64,
        stream: Literal[False] = False,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str: ...
    @overload
    def ask(
        self,
        context: Context,
        question: str,
        *,
        focus: int | None = None,
        max_new_tokens: int = 64,
        stream: Literal[True],
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[str]: ...
    def ask(
        self,
        context: Context,
        question: str,
        *,
        focus: int | None = None,
        max_new_tokens: int = 64,
        stream: bool = False,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str | Iterator[str]:
        """Answers a question from latents.

        Args:
            context: latents, a text (compressed first), or several of either, read as several documents.
            question: plain text; nothing in it is special.
            focus: read only this many windows of the documents, those that the question is about (see `focus`); None
                reads them all.
            max_new_tokens: most tokens of the answer.
            stream: return an iterator of pieces of the answer.
            temperature: 0 answers greedily.
            seed: of the sampling, if any.

        Raises:
            InputError: an empty question, no context, or a `focus` below 1.
            LatentsError: latents of another press.
            ContextTooLongError: latents, question and answer exceed the decoder's positions.
        """
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        request = self._reader.request(question)
        check_focus(focus, "focus")
        (latents,) = self._open([context])
        latents = self._focused(latents, request, focus)
        return self._reader.answer(self._reader.prompt(latents, request), latents, sampling, stream=stream)

    def ask_many(
        self,
        contexts: Sequence[Context],
        questions: Sequence[str],
        *,
        focus: int | None = None,
        max_new_tokens: int = 64,
        batch_size: int = 16,
    ) -> list[str]:
        """Answers questions about different contexts in batches; each answer is what `ask` alone would give.

        Args:
            contexts: one for each question.
            questions: plain texts.
            focus: see `ask`.
            max_new_tokens: most tokens of each answer.
            batch_size: questions decoded together.

        Raises:
            InputError: the numbers of contexts and questions differ; and as `ask`.
        """
        if isinstance(contexts, str | Latents) or isinstance(questions, str):
            raise InputError("ask_many takes a list of contexts and a list of questions; repeat a context for each")
        check_batch(len(contexts), len(questions), batch_size, "context")
        sampling = Sampling(max_new_tokens=max_new_tokens)
        requests = [self._reader.request(question) for question in questions]
        check_focus(focus, "focus")
        latents = self._open(contexts)
        latents = [self._focused(own, request, focus) for own, request in zip(latents, requests, strict=True)]
        prompts = [self._reader.prompt(own, request) for own, request in zip(latents, requests, strict=True)]
        return self._reader.answer_many(prompts, latents, sampling, batch_size)

    def prompt(self, context: Context, question: str) -> Prompt:
        """The whole prompt that `ask` without `focus` reads; arguments and errors are those of `ask`.

        Returns:
            Input embeddings `[T, D]`; where latents are cache entries a `MixedPrompt`, with these between the
            embeddings of the tokens, which `latentpress.decoder.generate.prefill` reads as it does a tensor.
        """
        request = self._reader.request(question)
        (latents,) = self._open([context])
        return self._reader.embed(self._reader.prompt(latents, request), latents)

    def focus(self, context: Context, question: str, *, windows: int = 2) -> list[Latents]:
        """Chooses the windows of long documents that a question is about, by the decoder's own attention.

        All windows are read with the question, at most eight at a time, and the half at which its last token looks
        least is left out, until no more than asked for are left; so documents may be longer than the decoder has
        positions. Latents are made without the question and serve all questions; what of them is read depends on it.
        Windows are `Latents.windows`, the parts that have a size of their own.

        Args:
            context: as `ask` takes it.
            question: plain text.
            windows: how many are left at most, of all documents together.

        Returns:
            Latents of the windows left, one of each document that has any, in order: a context for `ask`.

        Raises:
            InputError: an empty question, no context, or `windows` below 1.
            LatentsError: latents of another press.
            ContextTooLongError: a window and the question exceed the decoder's positions.
            BaseModelError: the decoder's layers that tell what a question is about see no more than a sliding window.
        """
        request = self._reader.request(question)
        if windows is None:
            raise InputError("windows=None leaves nothing out; give a whole number of at least 1")
        check_focus(windows, "windows")
        (latents,) = self._open([context])
        return self._focused(latents, request, windows)

    def session(self, context: Context) -> Session:
        """Prefills a context once, for many questions; each question starts again from the latents.

        Raises:
            InputError, LatentsError, ContextTooLongError: as `ask`.
        """
        (latents,) = self._open([context])
        return Session(self._reader, self._reader.opening(len(latents)), latents)

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        documents: Latents | Sequence[Latents] = (),
        *,
        max_new_tokens: int = 256,
        stream: Literal[False] = False,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str: ...
    @overload
    def chat(
        self,
        messages: Sequence[Message],
        documents: Latents | Sequence[Latents] = (),
        *,
        max_new_tokens: int = 256,
        stream: Literal[True],
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[str]: ...
    def chat(
        self,
        messages: Sequence[Message],
        documents: Latents | Sequence[Latents] = (),
        *,
        max_new_tokens: int = 256,
        stream: bool = False,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str | Iterator[str]:
        """Continues a conversation that holds latents anywhere, beside verbatim text.

        Args:
            messages: `{"role": ..., "content": ...}`; content is a text with one `PLACEHOLDER` for each
                document, or a list of texts and latents, in which texts are always plain.
            documents: latents for the placeholders, in their order.
            max_new_tokens: most tokens of the answer.
            stream: return an iterator of pieces.
            temperature: 0 answers greedily.
            seed: of the sampling, if any.

        Raises:
            InputError: messages without role or content, or another number of placeholders than of documents.
            LatentsError, ContextTooLongError: as `ask`.
        """
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        given = [documents] if isinstance(documents, Latents) else list(documents)
        rows, latents = chat_rows(messages, given, self.config.prompt.system)
        for one in latents:
            self._check(one)
        return self._reader.answer(render(self._reader.tokenizer, rows), latents, sampling, stream=stream)

    def _focused(self, latents: list[Latents], request: list[int], windows: int | None) -> list[Latents]:
        return latents if windows is None else focused(self._reader, latents, request, windows)

    def _open(self, contexts: Sequence[Context]) -> list[list[Latents]]:
        return open_contexts(contexts, self._check, self.compress)

    def _check(self, latents: Latents) -> None:
        check_made_by(latents, self.config, self.fingerprint)


def _counting(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Takes the tokens of each pass, and tells how many were read by then."""
    done = 0

    def read(tokens: int) -> None:
        nonlocal done
        done += tokens
        if progress is not None:
            progress(done, total)

    return read
