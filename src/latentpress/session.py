"""A context read once, for many questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, overload

from latentpress.attention import KeyValueCache
from latentpress.decoder.generate import Sampling, prefill
from latentpress.decoder.prompt import Piece
from latentpress.decoder.reader import Reader
from latentpress.latents import Latents


class Session:
    """A context prefilled once; questions pay for their own tokens only, and do not see each other.

    `Press.session` and `Press.text_session` make them.

    Args:
        reader: what reads the context and answers.
        opening: the prompt up to the question.
        latents: for the slots of the opening.

    Raises:
        ContextTooLongError: the opening alone exceeds the decoder's positions.
    """

    def __init__(self, reader: Reader, opening: Sequence[Piece], latents: Sequence[Latents]) -> None:
        reader.check_room(reader.positions(opening, latents), 0, latents)
        self._reader, self._latents = reader, latents
        self._prefix = KeyValueCache(1)
        prefill(reader.backbone, [reader.embed(opening, latents)], self._prefix)

    @property
    def tokens(self) -> int:
        """Positions that the prefilled context takes in the decoder."""
        return self._prefix.length(0)

    @property
    def nbytes(self) -> int:
        """Bytes of the prefilled keys and values."""
        return self._prefix.nbytes

    @overload
    def ask(
        self,
        question: str,
        *,
        max_new_tokens: int = 64,
        stream: Literal[False] = False,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str: ...
    @overload
    def ask(
        self,
        question: str,
        *,
        max_new_tokens: int = 64,
        stream: Literal[True],
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[str]: ...
    def ask(
        self,
        question: str,
        *,
        max_new_tokens: int = 64,
        stream: bool = False,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str | Iterator[str]:
        """Answers one question; see `Press.ask`."""
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        request = self._reader.request(question)
        self._reader.check_room(self.tokens + len(request), max_new_tokens, self._latents)
        prompt, cache = self._reader.embed([request], []), self._prefix.fork()
        if stream:
            return self._reader.stream(prompt, cache, sampling)
        return self._reader.continued([prompt], cache, sampling)[0]
