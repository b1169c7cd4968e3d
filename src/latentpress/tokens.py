"""Text to tokens, and long documents to windows.

Text of a user is inert: what looks like a special token of the chat template in it is tokenised as the characters it
is.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from latentpress.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedText:
    """Tokens of a text and the characters each stands for."""

    ids: tuple[int, ...]
    """Token ids."""
    offsets: tuple[tuple[int, int], ...]
    """Half-open character span of each token."""


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> TokenizedText:
    """Tokenises a document, special tokens inert.

    Raises:
        InputError: the text is empty, only white space, or holds what no text holds (a binary file read as text).
    """
    if not text.strip():
        raise InputError(
            f"the text is empty ({len(text)} characters, none of them visible); give a document with at least one word"
        )
    if "\x00" in text:
        raise InputError(
            f"the text holds a NUL character at position {text.index(chr(0))}: it looks binary; "
            "convert the document to plain text first"
        )
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    for start, part in _inert_parts(tokenizer, text):
        encoded = tokenizer(
            part, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        )
        ids += encoded["input_ids"]
        offsets += [(start + a, start + b) for a, b in encoded["offset_mapping"]]
    if not ids:
        raise InputError(f"the tokenizer makes no tokens of this text of {len(text)} characters; give one with words")
    return TokenizedText(ids=tuple(ids), offsets=tuple(offsets))


def encode_inert(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of user text inside a prompt (a question, an answer), special tokens inert; may be empty."""
    ids: list[int] = []
    for _, part in _inert_parts(tokenizer, text):
        ids += tokenizer(part, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return ids


def _inert_parts(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[int, str]]:
    """Cuts a text inside whatever the chat template means as a token although the tokenizer does not call it special.

    Tokenizers leave such added tokens (Qwen's `<think>`) whole even when special ones are split.

    Returns:
        Start and characters of each part; nearly always the whole text.

    Raises:
        InputError: the text holds half a surrogate pair, which no tokenizer takes.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text holds half a character (a lone surrogate) at position {error.start}; "
            "decode the document again, with errors='replace'"
        ) from error
    template = str(tokenizer.chat_template or "")
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if not token.special)
    cuts = {0}
    for token in added:
        if len(token.strip()) > 1 and token in template:
            at = text.find(token)
            while at >= 0:
                cuts.add(at + 1)
                at = text.find(token, at + 1)
    edges = [*sorted(cuts), len(text)]
    return [(a, text[a:b]) for a, b in itertools.pairwise(edges)]


def encode_template(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a piece of the chat template itself, whose special tokens are meant."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []


def equal_windows(tokens: int, limit: int) -> list[tuple[int, int]]:
    """Cuts a document into the fewest windows of at most `limit` tokens, equal within one token.

    Returns:
        Half-open spans that tile `range(tokens)`; the longer windows come first.
    """
    count = -(-tokens // limit)
    size, longer = divmod(tokens, count)
    spans, start = [], 0
    for i in range(count):
        end = start + size + (i < longer)
        spans.append((start, end))
        start = end
    return spans


def char_span(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """Characters covered by the tokens `start:end`."""
    return min(a for a, _ in offsets[start:end]), max(b for _, b in offsets[start:end])
