"""Answers from the full text: the base model as it is, without adapters, which a press's own are compared with."""

from __future__ import annotations

from collections.abc import Sequence

from latentpress.arguments import check_batch, checked_text
from latentpress.decoder.generate import Sampling
from latentpress.decoder.prompt import Piece
from latentpress.decoder.reader import Reader
from latentpress.errors import InputError
from latentpress.session import Session
from latentpress.tokens import encode_inert, tokenize


class FullText:
    """The part of a `Press` that reads texts themselves.

    Args:
        reader: the base model as it is, with the prompt and the tokenizer of the press.
    """

    def __init__(self, reader: Reader) -> None:
        self._plain_reader = reader

    def ask_text(self, text: str, question: str, *, max_new_tokens: int = 64) -> str:
        """Answers from the full text with the base model as it is, without adapters."""
        self._plain_reader.request(question)  # a mistake in it shows before the text is read
        return self.text_session(text).ask(question, max_new_tokens=max_new_tokens)

    def ask_texts(
        self, texts: Sequence[str], questions: Sequence[str], *, max_new_tokens: int = 64, batch_size: int = 16
    ) -> list[str]:
        """Answers questions about different full texts in batches; each answer is what `ask_text` alone would give.

        Args:
            texts: one for each question.
            questions: plain texts.
            max_new_tokens: most tokens of each answer.
            batch_size: questions decoded together.

        Raises:
            InputError: the numbers of texts and questions differ, or any of them is empty.
            ContextTooLongError: any text, with its question and answer, exceeds the decoder's positions.
        """
        if isinstance(texts, str) or isinstance(questions, str):
            raise InputError("ask_texts takes a list of texts and a list of questions; repeat a text for each")
        check_batch(len(texts), len(questions), batch_size, "text")
        sampling = Sampling(max_new_tokens=max_new_tokens)
        requests = [self._plain_reader.request(question) for question in questions]
        checked = [checked_text(text, "the text") for text in texts]
        openings = {text: self._text_opening(text) for text in dict.fromkeys(checked)}
        prompts = [[*openings[text], request] for text, request in zip(checked, requests, strict=True)]
        return self._plain_reader.answer_many(prompts, [[]] * len(prompts), sampling, batch_size)

    def text_session(self, text: str) -> Session:
        """Prefills a full text for the base model as it is, for many questions."""
        return Session(self._plain_reader, self._text_opening(checked_text(text, "the text")), [])

    def count_tokens(self, text: str) -> int:
        """Tokens of a text in the decoder's tokenizer."""
        return len(encode_inert(self._plain_reader.tokenizer, checked_text(text, "the text")))

    def _text_opening(self, text: str) -> list[Piece]:
        ids = list(tokenize(self._plain_reader.tokenizer, text).ids)
        return [piece if isinstance(piece, list) else ids for piece in self._plain_reader.opening(1)]
