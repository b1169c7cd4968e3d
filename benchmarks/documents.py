"""Texts to measure with: the packaged sample document, repeated and cut to a number of tokens."""

from __future__ import annotations

import random
from functools import cache
from importlib import resources

from transformers import PreTrainedTokenizerBase

from latentpress.press import Press
from latentpress.tokens import tokenize

QUESTION = "What is this article about?"


@cache
def sample_text() -> str:
    """The document that comes with the library."""
    return (resources.files("latentpress") / "samples" / "demo_document.txt").read_text(encoding="utf-8")


def text_of(tokenizer: PreTrainedTokenizerBase, tokens: int) -> str:
    """A text of exactly so many tokens.

    Cut at a token's end, a text can have other tokens than the piece it was cut from; then the cut starts elsewhere.

    Raises:
        ValueError: none was found.
    """
    sample = sample_text().strip() + "\n\n"
    whole = sample * (2 + tokens // len(tokens_of(tokenizer, sample)))
    offsets = tokens_of(tokenizer, whole)
    for first in range(64):
        text = whole[offsets[first][0] : offsets[first + tokens - 1][1]]
        if text.strip() and len(tokens_of(tokenizer, text)) == tokens:
            return text
    raise ValueError(f"the sample document gives no text of {tokens} tokens with this tokenizer")


def tokens_of(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[tuple[int, int], ...]:
    """Character span of each token."""
    return tokenize(tokenizer, text).offsets


def log_uniform(count: int, low: int, high: int) -> list[int]:
    """Lengths at the quantiles of the log-uniform distribution between two bounds, in a fixed random order."""
    lengths = [round(low * (high / low) ** ((i + 0.5) / count)) for i in range(count)]
    random.Random(0).shuffle(lengths)
    return lengths


def equal_lengths(count: int, total: int) -> list[int]:
    """So many lengths of the same total, equal within one."""
    size, longer = divmod(total, count)
    return [size + (i < longer) for i in range(count)]


def nearest_ratio(press: Press, wanted: int) -> int:
    """The press's candidate ratio nearest to one."""
    return min(press.model.policy.candidates, key=lambda ratio: abs(ratio - wanted))
