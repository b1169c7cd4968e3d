"""Text to tokens, and long documents to windows.

Text of a user is inert: what looks like a special token of the chat template in it is tokenised as the characters it is.
"""

from __future__ import annotations

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
        InputError: the text is empty, only white space, or holds NUL characters (a binary file read as text).
    """
    if not text.strip():
        raise InputError(f"the text is empty ({len(text)} characters, none of them visible); give a document with at least one word")
    if "\x00" in text:
        raise InputError(f"the text holds a NUL character at position {text.index(chr(0))}: it looks binary; convert the document to plain text first")
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False)
    return TokenizedText(ids=tuple(encoded["input_ids"]), offsets=tuple((int(a), int(b)) for a, b in encoded["offset_mapping"]))


def encode_inert(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of user text inside a prompt (a question, an answer), special tokens inert; may be empty."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])


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
