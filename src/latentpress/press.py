"""A press: text -> tokens -> hidden states -> ratio -> latents -> decoder -> answer. Open this file first.

    press = latentpress.load("semidynamic-smollm2-135m")
    latents = press.compress(document)
    press.ask(latents, "Who signed the treaty?")
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from latentpress.attention import KeyValueCache
from latentpress.backbone import Backbone, Base
from latentpress.compressors import Size
from latentpress.decoder.generate import Sampling, embed_pieces, generate, prefill
from latentpress.decoder.prompt import Content, Piece, Slot, ask_messages, render, split_at_last_slot, split_placeholders
from latentpress.errors import ContextTooLongError, InputError, LatentsError
from latentpress.latents import EmbeddingLatents, WindowInfo
from latentpress.loading import load, load_model, shipped_presses
from latentpress.model import PressModel
from latentpress.tokens import TokenizedText, char_span, encode_inert, equal_windows, tokenize

__all__ = ["Press", "Session", "load", "load_model", "shipped_presses"]

Progress = Callable[[int, int], None]
Message = dict[str, Any]
# Encoder tokens of one pass: enough to keep the processor busy, few enough to bound memory whatever the document.
_PASS_TOKENS = 4096


class Press:
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
        self._tokenizer = base.tokenizer
        self._encoder_tokenizer = (encoder_base or base).tokenizer
        self._plain = Backbone(base.model)

    # ---- text -> latents ----

    @overload
    def compress(self, text: str, *, ratio: float | None = None, scale: float = 0.0, progress: Progress | None = None) -> EmbeddingLatents: ...
    @overload
    def compress(self, text: Sequence[str], *, ratio: float | None = None, scale: float = 0.0, progress: Progress | None = None) -> list[EmbeddingLatents]: ...
    def compress(
        self, text: str | Sequence[str], *, ratio: float | None = None, scale: float = 0.0, progress: Progress | None = None
    ) -> EmbeddingLatents | list[EmbeddingLatents]:
        """Compresses a document, or several.

        Args:
            text: a document of any length, or a list of them; long ones go through in windows, their ratio chosen in each.
            ratio: one of the press's candidates for every window; None lets the selector choose.
            scale: added to the predicted log2 ratio: 1 compresses twice as hard, -1 half.
            progress: called with tokens done and tokens in all.

        Returns:
            Latents on the CPU, a list for a list.

        Raises:
            InputError: an empty or binary text.
            RatioError: a ratio that is no candidate, or a scale together with a ratio.
        """
        if isinstance(text, str):
            return self.compress([text], ratio=ratio, scale=scale, progress=progress)[0]
        fixed = self._fixed_size(ratio, scale)
        documents = [tokenize(self._encoder_tokenizer, one) for one in text]
        windows = [(i, a, b) for i, one in enumerate(documents) for a, b in equal_windows(len(one.ids), self.config.window_tokens)]
        made: dict[tuple[int, int], tuple[Tensor, Tensor, WindowInfo]] = {}
        total, done = sum(b - a for _, a, b in windows), 0
        for batch in _passes(windows):
            results = self._compress_windows([documents[i].ids[a:b] for i, a, b in batch], fixed, scale)
            for (i, a, b), (vectors, spans, size, predicted) in zip(batch, results, strict=True):
                info = WindowInfo(start=a, tokens=b - a, latents=len(vectors), ratio=float(size.value), log2_ratio=predicted)
                made[i, a] = (vectors, spans + a, info)
                done += b - a
            if progress is not None:
                progress(done, total)
        return [
            self._assemble(one, source, [made[key] for key in sorted(made) if key[0] == i], ratio, scale)
            for i, (one, source) in enumerate(zip(documents, text, strict=True))
        ]

    def _fixed_size(self, ratio: float | None, scale: float) -> Size | None:
        if ratio is None:
            return None
        size = self.model.policy.fixed(ratio)
        if scale:
            raise InputError(f"ratio={ratio:g} and scale={scale:g} contradict each other: scale shifts the selector's choice; give one of them")
        return size

    @torch.no_grad()
    def _compress_windows(self, windows: list[tuple[int, ...]], fixed: Size | None, scale: float) -> list[tuple[Tensor, Tensor, Size, float | None]]:
        encoded = self.model.encode(windows)
        predicted = [None] * len(windows) if encoded.log2_ratios is None else encoded.log2_ratios.tolist()
        sizes = [fixed or self.model.policy.choose(y, scale) for y in predicted]
        extracted = self.model.latents(encoded, sizes)
        vectors, spans = extracted.vectors.cpu().split(extracted.counts), extracted.spans.cpu().split(extracted.counts)
        return list(zip(vectors, spans, sizes, [None] * len(windows) if fixed else predicted, strict=True))

    def _assemble(
        self, document: TokenizedText, text: str, parts: list[tuple[Tensor, Tensor, WindowInfo]], ratio: float | None, scale: float
    ) -> EmbeddingLatents:
        spans = torch.cat([part[1] for part in parts])
        characters = torch.tensor([char_span(document.offsets, a, b) for a, b in spans.tolist()])
        return EmbeddingLatents(
            vectors=torch.cat([part[0] for part in parts]),
            token_spans=spans,
            char_spans=characters,
            windows=tuple(part[2] for part in parts),
            requested_ratio=ratio,
            scale=scale,
            press=self.config.name,
            press_fingerprint=self.fingerprint,
            base_fingerprint=self.base.fingerprint,
            text_sha256=hashlib.sha256(text.encode()).hexdigest(),
        )

    # ---- latents -> answer ----

    @overload
    def ask(self, context: Context, question: str, *, max_new_tokens: int = 64, stream: Literal[False] = False, temperature: float = 0.0, seed: int = 0) -> str: ...
    @overload
    def ask(self, context: Context, question: str, *, max_new_tokens: int = 64, stream: Literal[True], temperature: float = 0.0, seed: int = 0) -> Iterator[str]: ...
    def ask(
        self, context: Context, question: str, *, max_new_tokens: int = 64, stream: bool = False, temperature: float = 0.0, seed: int = 0
    ) -> str | Iterator[str]:
        """Answers a question from latents.

        Args:
            context: latents, a text (compressed first), or several of either, read as several documents.
            question: plain text; nothing in it is special.
            max_new_tokens: most tokens of the answer.
            stream: return an iterator of pieces of the answer.
            temperature: 0 answers greedily.
            seed: of the sampling, if any.

        Raises:
            InputError: an empty question, or no context.
            LatentsError: latents of another press.
            ContextTooLongError: latents, question and answer exceed the decoder's positions.
        """
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        pieces = self._iterate(self.session(context), question, sampling)
        return pieces if stream else "".join(pieces)

    def ask_many(self, contexts: Sequence[Context], questions: Sequence[str], *, max_new_tokens: int = 64, batch_size: int = 16) -> list[str]:
        """Answers questions about different contexts in batches; each answer is what `ask` alone would give.

        Args:
            contexts: one for each question.
            questions: plain texts.
            max_new_tokens: most tokens of each answer.
            batch_size: questions decoded together.

        Raises:
            InputError: the numbers of contexts and questions differ; and as `ask`.
        """
        if len(contexts) != len(questions):
            raise InputError(f"{len(contexts)} contexts for {len(questions)} questions; give one context a question, repeating it if need be")
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size} must be at least 1")
        sampling = Sampling(max_new_tokens=max_new_tokens)
        prompts = [self._prompt([*self._context(c)], q, max_new_tokens) for c, q in zip(contexts, questions, strict=True)]
        answers: list[str] = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for batch in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
            cache = KeyValueCache(len(batch))
            states = prefill(self.model.decoder, [prompts[i] for i in batch], cache)
            tokens: list[list[int]] = [[] for _ in batch]
            for row in generate(self.model.decoder, states, cache, self._stops, sampling):
                for mine, token in zip(tokens, row, strict=True):
                    if token is not None:
                        mine.append(token)
            for i, mine in zip(batch, tokens, strict=True):
                answers[i] = self._text(mine)
        return answers

    def session(self, context: Context) -> Session:
        """Prefills a context once, for many questions; each question starts again from the latents."""
        latents = self._context(context)
        shared, _ = split_at_last_slot(render(self._tokenizer, ask_messages(self.config.prompt, len(latents), "?")))
        self._check_length(_count(shared, latents), 0, latents)
        prompt = embed_pieces(self.model.decoder, shared, [one.vectors for one in latents])
        return Session(self, self.model.decoder, prompt, latents)

    def chat(
        self,
        messages: Sequence[Message],
        documents: Sequence[EmbeddingLatents] = (),
        *,
        max_new_tokens: int = 256,
        stream: bool = False,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str | Iterator[str]:
        """Continues a conversation that holds latents anywhere, beside verbatim text.

        Args:
            messages: `{"role": ..., "content": ...}`; content is a text with one `PLACEHOLDER` for each document, in the order of
                `documents`, or a list of texts and latents, in which texts are always plain.
            documents: latents for the placeholders.
            max_new_tokens: most tokens of the answer.
            stream: return an iterator of pieces.
            temperature: 0 answers greedily.
            seed: of the sampling, if any.

        Raises:
            InputError: messages without role or content, or as many placeholders as there are no documents.
            LatentsError, ContextTooLongError: as `ask`.
        """
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        rendered, latents = self._chat_prompt(messages, list(documents))
        self._check_length(_count(rendered, latents), max_new_tokens, latents)
        prompt = embed_pieces(self.model.decoder, rendered, [one.vectors for one in latents])
        pieces = self._stream(self.model.decoder, prompt, KeyValueCache(1), sampling)
        return pieces if stream else "".join(pieces)

    def _chat_prompt(self, messages: Sequence[Message], documents: list[EmbeddingLatents]) -> tuple[list[Piece], list[EmbeddingLatents]]:
        used: list[EmbeddingLatents] = []
        rows: list[tuple[str, Content]] = []
        written = 0
        for number, message in enumerate(messages):
            role, content = message.get("role"), message.get("content")
            if not isinstance(role, str) or not isinstance(content, str | list | tuple):
                raise InputError(f"message {number} needs a role and a content (a text, or a list of texts and latents), got {sorted(message)}")
            parts: list[str | Slot] = []
            for part in split_placeholders(content, -1) if isinstance(content, str) else content:
                if isinstance(part, Slot):
                    if written == len(documents):
                        raise InputError(f"the messages hold more placeholders than the {len(documents)} documents given; write one for each")
                    part, written = documents[written], written + 1
                if isinstance(part, EmbeddingLatents):
                    used.append(part)
                    parts.append(Slot(len(used) - 1))
                elif isinstance(part, str):
                    parts.append(part)
                else:
                    raise InputError(f"message {number} holds a {type(part).__name__}; give texts and latents")
            rows.append((role, parts))
        if not rows:
            raise InputError("there are no messages; give at least one from the user")
        if written != len(documents):
            raise InputError(f"{len(documents)} documents for {written} placeholders; write one placeholder for each document")
        if rows[0][0] != "system":
            rows.insert(0, ("system", [self.config.prompt.system]))
        self._check_latents(used)
        return render(self._tokenizer, rows), used

    # ---- the full text, for comparison ----

    def ask_text(self, text: str, question: str, *, max_new_tokens: int = 64) -> str:
        """Answers from the full text with the base model as it is, without adapters."""
        return self.text_session(text).ask(question, max_new_tokens=max_new_tokens)

    def text_session(self, text: str) -> Session:
        """Prefills a full text for the base model as it is, for many questions."""
        ids = list(tokenize(self._tokenizer, text).ids)
        shared, _ = split_at_last_slot(render(self._tokenizer, ask_messages(self.config.prompt, 1, "?")))
        rows = [piece if isinstance(piece, list) else ids for piece in shared]
        self._check_length(sum(map(len, rows)), 0, [])
        return Session(self, self._plain, embed_pieces(self._plain, rows, []), [])

    def count_tokens(self, text: str) -> int:
        """Tokens of a text in the decoder's tokenizer."""
        return len(encode_inert(self._tokenizer, text))

    # ---- shared ----

    @property
    def _stops(self) -> frozenset[int]:
        named = getattr(self.base.model.generation_config, "eos_token_id", None)
        ids = {self._tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
        return frozenset(int(i) for i in ids if i is not None)

    def _context(self, context: Context) -> list[EmbeddingLatents]:
        parts = [context] if isinstance(context, str | EmbeddingLatents) else list(context)
        if not parts:
            raise InputError("no context: give latents, a text, or a list of them")
        latents = [self.compress(part) if isinstance(part, str) else part for part in parts]
        self._check_latents(latents)
        return latents

    def _check_latents(self, latents: Sequence[EmbeddingLatents]) -> None:
        for one in latents:
            if not isinstance(one, EmbeddingLatents):
                raise InputError(f"the context holds a {type(one).__name__}; give latents or texts")
            if one.base_fingerprint != self.base.fingerprint:
                raise LatentsError(
                    f"these latents are for a base model with fingerprint {one.base_fingerprint[:12]}, press {self.config.name!r} runs on "
                    f"{self.config.base.id!r} ({self.base.fingerprint[:12]}); compress the text again with this press"
                )
            if one.press_fingerprint != self.fingerprint:
                raise LatentsError(
                    f"these latents were made by press {one.press!r} ({one.press_fingerprint[:12]}), this is {self.config.name!r} "
                    f"({self.fingerprint[:12]}); ask the press that made them, or compress the text again"
                )

    def _request(self, question: str) -> list[int]:
        if not question.strip():
            raise InputError("the question is empty; ask something")
        request = self.config.prompt.question.replace("{question}", question)
        return split_at_last_slot(render(self._tokenizer, ask_messages(self.config.prompt, 1, request)))[1]

    def _prompt(self, latents: list[EmbeddingLatents], question: str, max_new_tokens: int) -> Tensor:
        shared, _ = split_at_last_slot(render(self._tokenizer, ask_messages(self.config.prompt, len(latents), "?")))
        pieces: list[Piece] = [*shared, self._request(question)]
        self._check_length(_count(pieces, latents), max_new_tokens, latents)
        return embed_pieces(self.model.decoder, pieces, [one.vectors for one in latents])

    def _check_length(self, used: int, new: int, latents: Sequence[EmbeddingLatents]) -> None:
        limit = self.base.max_positions
        if used + new <= limit:
            return
        held, tokens = sum(len(one) for one in latents), sum(one.context_tokens for one in latents)
        remedy = "shorten the text, or compress it"
        if held:
            room = limit - new - (used - held)
            fitting = [c for c in self.model.policy.candidates if -(-tokens // c) + len(latents) <= room]
            remedy = f"compress at ratio={fitting[0]} or more" if fitting else f"no candidate ratio fits {tokens} tokens; split the documents"
        raise ContextTooLongError(f"the prompt takes {used} positions and the answer up to {new}, the decoder has {limit}; {remedy}")

    def _iterate(self, session: Session, question: str, sampling: Sampling) -> Iterator[str]:
        return session._answer(question, sampling)

    def _stream(self, backbone: Backbone, prompt: Tensor, cache: KeyValueCache, sampling: Sampling) -> Iterator[str]:
        states = prefill(backbone, [prompt], cache)
        tokens: list[int] = []
        shown = ""
        for row in generate(backbone, states, cache, self._stops, sampling):
            tokens.append(row[0])  # type: ignore[arg-type]
            text = self._text(tokens)
            if not text.endswith("\ufffd"):  # a character whose bytes are not complete yet
                yield text[len(shown) :]
                shown = text
        rest = self._text(tokens)[len(shown) :]
        if rest:
            yield rest

    def _text(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


class Session:
    """A context prefilled once; questions pay for their own tokens only, and do not see each other."""

    def __init__(self, press: Press, backbone: Backbone, prompt: Tensor, latents: list[EmbeddingLatents]) -> None:
        self._press, self._backbone, self._latents = press, backbone, latents
        self._prefix = KeyValueCache(1)
        prefill(backbone, [prompt], self._prefix)

    @property
    def tokens(self) -> int:
        """Positions that the prefilled context takes in the decoder."""
        return self._prefix.length(0)

    @property
    def nbytes(self) -> int:
        """Bytes of the prefilled keys and values."""
        return self._prefix.nbytes

    @overload
    def ask(self, question: str, *, max_new_tokens: int = 64, stream: Literal[False] = False, temperature: float = 0.0, seed: int = 0) -> str: ...
    @overload
    def ask(self, question: str, *, max_new_tokens: int = 64, stream: Literal[True], temperature: float = 0.0, seed: int = 0) -> Iterator[str]: ...
    def ask(
        self, question: str, *, max_new_tokens: int = 64, stream: bool = False, temperature: float = 0.0, seed: int = 0
    ) -> str | Iterator[str]:
        """Answers one question; see `Press.ask`."""
        pieces = self._answer(question, Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed))
        return pieces if stream else "".join(pieces)

    def _answer(self, question: str, sampling: Sampling) -> Iterator[str]:
        request = self._press._request(question)
        self._press._check_length(self.tokens + len(request), sampling.max_new_tokens, self._latents)
        prompt = embed_pieces(self._backbone, [request], [])
        return self._press._stream(self._backbone, prompt, self._prefix.fork(), sampling)


Context = str | EmbeddingLatents | Sequence[str | EmbeddingLatents]


def _count(pieces: Sequence[Piece], latents: Sequence[EmbeddingLatents]) -> int:
    return sum(len(latents[piece.document]) if isinstance(piece, Slot) else len(piece) for piece in pieces)


def _passes(windows: list[tuple[int, int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Batches of windows, at most `_PASS_TOKENS` tokens each unless one window alone is longer."""
    batch: list[tuple[int, int, int]] = []
    used = 0
    for window in windows:
        size = window[2] - window[1]
        if batch and used + size > _PASS_TOKENS:
            yield batch
            batch, used = [], 0
        batch.append(window)
        used += size
    if batch:
        yield batch
