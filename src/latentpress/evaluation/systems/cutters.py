"""Ways to cut a text to a budget of tokens.

All keep as many tokens as the budget has, never more. The last token may be missing where it would be part of a
character, and few others where a border changes how the text beside it is cut into tokens.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from latentpress.evaluation.systems.sentences import bm25, sentence_spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_JOINT = "\n"  # between the start of a text and its end


class Cutter(Protocol):
    """Cuts a text to a budget."""

    def __call__(self, text: str, question: str, budget: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> str:
        """What is kept of a text.

        Args:
            text: one with a visible character.
            question: what it will be asked.
            budget: most tokens of what is kept, at least 1.
            tokenizer: whose tokens these are.
            seed: of whatever is drawn.
        """


def nothing(text: str, question: str, budget: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> str:  # noqa: ARG001
    """Nothing, whatever the budget."""
    return ""


def everything(text: str, question: str, budget: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> str:  # noqa: ARG001
    """The whole text, whatever the budget."""
    return text


def head(text: str, question: str, budget: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> str:  # noqa: ARG001
    """The first tokens."""
    offsets = _offsets(tokenizer, text)
    return _fitted(lambda kept: _start(text, offsets, kept), budget, len(offsets), tokenizer)


def head_tail(text: str, question: str, budget: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> str:  # noqa: ARG001
    """Half of the tokens from the start, half from the end, on two lines; the line's break is one of them."""
    offsets = _offsets(tokenizer, text)

    def build(kept: int) -> str:
        last = kept // 2
        end = text[offsets[len(offsets) - last - 1][1] :] if 0 < last < kept < len(offsets) else ""
        start = _start(text, offsets, kept - last if end else kept)
        return f"{start.rstrip()}{_JOINT}{end.lstrip()}" if end else start

    return _fitted(build, budget, len(offsets), tokenizer)


def random_sentences(text: str, question: str, budget: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> str:  # noqa: ARG001
    """Sentences drawn at random; see `fill`."""
    spans = sentence_spans(text)
    order = list(range(len(spans)))
    random.Random(seed).shuffle(order)
    return fill(text, spans, order, budget, tokenizer)


def bm25_sentences(text: str, question: str, budget: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> str:  # noqa: ARG001
    """The sentences that match the question best; equal ones, and those that do not match at all, from the start on."""
    spans = sentence_spans(text)
    scores = bm25(question, [text[start:end] for start, end in spans])
    order = sorted(range(len(spans)), key=lambda i: -scores[i])
    return fill(text, spans, order, budget, tokenizer)


def fill(
    text: str,
    spans: Sequence[tuple[int, int]],
    order: Sequence[int],
    budget: int,
    tokenizer: PreTrainedTokenizerBase,
) -> str:
    """Keeps sentences until the budget is full, and puts them in the order of the text.

    Whole sentences as long as the next one fits, and of the next one as many first tokens as are left.

    Args:
        text: the text.
        spans: characters of its sentences, which tile it.
        order: which sentences come first; all of them.
        budget: most tokens.
        tokenizer: whose tokens these are.
    """
    offsets = _offsets(tokenizer, text)
    ends = [end for _, end in spans]
    owners = [bisect.bisect_right(ends, max(start, end - 1)) for start, end in offsets]  # by a token's last character
    firsts = [bisect.bisect_left(owners, i) for i in range(len(spans) + 1)]

    def build(kept: int) -> str:
        chosen: dict[int, str] = {}
        for i in order:
            start, end = spans[i]
            tokens = firsts[i + 1] - firsts[i]
            if tokens > kept:
                end = max(start, offsets[firsts[i] + kept][0])
            chosen[i] = text[start:end]
            kept -= tokens
            if kept <= 0:
                break
        return "".join(chosen[i] for i in sorted(chosen)).lstrip()

    return _fitted(build, budget, len(offsets), tokenizer)


def _fitted(build: Callable[[int], str], budget: int, tokens: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """A text built of as many tokens as it may be for the budget, counted once it is cut into tokens itself.

    Nearly always as many as the budget has; otherwise found by halves.
    """
    from latentpress.tokens import encode_inert

    fitting, low, high = "", 0, tokens
    kept = min(budget, tokens)
    while low < high:
        text = build(kept)
        room = budget - len(encode_inert(tokenizer, text))
        if room == 0:
            return text
        if room < 0:
            high = kept - 1
        else:
            fitting, low = text, kept
        kept = (low + high + 1) // 2
    return fitting


def _start(text: str, offsets: Sequence[tuple[int, int]], kept: int) -> str:
    """The first tokens, up to where the next one begins: without the character that this one is part of."""
    return text if kept >= len(offsets) else text[: offsets[kept][0]]


def _offsets(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[tuple[int, int], ...]:
    from latentpress.tokens import tokenize

    return tokenize(tokenizer, text).offsets
