"""Documents cut into passages of a length, at the ends of paragraphs and sentences."""

from __future__ import annotations

import math
import random
import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from latentpress.evaluation.systems.sentences import sentence_spans
from latentpress.tokens import encode_inert, tokenize

_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")
# A passage by itself may be a few tokens longer than inside its document, where white space went with a neighbour.
_SLACK = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A text that requests are about."""

    id: str
    """Name of the record that is made of it: its document's and a digest of its text."""
    text: str
    """The text, as it stands in its document."""
    tokens: int
    """Its length."""
    lang: str
    """Its language."""
    source: str
    """Where it comes from."""


class Cutter:
    """Cuts documents into passages.

    A document that is short enough is one passage. Those of a longer one are each filled up to a length that is drawn,
    log-uniform between the shortest and the longest: readers shall see all lengths. A passage ends with the last
    paragraph that leaves it at least half as long as that, else with the last sentence, else, where one sentence is
    longer than a passage may be, with a token.

    Args:
        tokenizer: whose tokens are counted.
        shortest: tokens of a passage.
        longest: tokens of a passage.
        seed: of the lengths.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, shortest: int, longest: int, seed: int) -> None:
        self._tokenizer, self._seed = tokenizer, seed
        self._shortest, self._longest = shortest, longest
        self._cut_at = max(shortest, longest - _SLACK)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text."""
        return encode_inert(self._tokenizer, text)

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.ids(text))

    def cut(self, text: str, name: str) -> list[str]:
        """Passages of a document in order; a piece shorter than a passage may be is left out.

        Args:
            text: the document, not blank.
            name: its name, on which the lengths depend, so that they do not on the documents before it.

        Raises:
            InputError: a text that no tokenizer takes.
        """
        tokens = tokenize(self._tokenizer, text)
        if len(tokens.ids) <= self._longest:
            pieces = [text.strip()]
        else:
            pieces = self._cut(text, [start for start, _ in tokens.offsets], name)
        return [piece for piece in pieces if piece and self._shortest <= self.count(piece) <= self._longest]

    def _cut(self, text: str, starts: list[int], name: str) -> list[str]:
        """Pieces of a document that is too long, from the characters at which its tokens start."""
        ends = _ends(text)
        draw = random.Random(f"{self._seed} {name}")
        pieces, start = [], 0
        while start < len(text):
            end = self._end(ends, starts, start, draw)
            pieces.append(text[start:end].strip())
            start = end
        return pieces

    def _end(self, ends: _Ends, starts: list[int], start: int, draw: random.Random) -> int:
        """Where the passage ends that begins at a character."""
        first = bisect_left(starts, start)
        left = len(starts) - first
        drawn = math.exp(draw.uniform(math.log(self._shortest), math.log(self._cut_at)))
        target = min(self._cut_at, max(self._shortest, round(drawn)))
        if left <= self._cut_at and left - target < self._shortest:  # what would remain is no passage
            return ends.text
        furthest = starts[first + target] if target < left else ends.text
        nearest = starts[min(first + self._shortest, len(starts) - 1)]
        half = starts[min(first + max(self._shortest, target // 2), len(starts) - 1)]
        for borders, least in ((ends.paragraphs, half), (ends.sentences, nearest)):
            at = bisect_right(borders, furthest) - 1
            if at >= 0 and borders[at] >= least:
                return borders[at]
        last = starts[first + self._cut_at] if self._cut_at < left else ends.text
        at = bisect_right(ends.sentences, furthest)
        if at < len(ends.sentences) and ends.sentences[at] <= last:
            return ends.sentences[at]
        return max(last, start + 1)  # tokens of one character may share its offset


@dataclass(frozen=True, slots=True)
class _Ends:
    """Where a document may be cut, in characters."""

    paragraphs: list[int]
    """Behind each blank line, and at the end."""
    sentences: list[int]
    """Behind each sentence, which the end of a paragraph also is."""
    text: int
    """Behind the last character."""


def _ends(text: str) -> _Ends:
    paragraphs = [match.end() for match in _BLANK_LINE.finditer(text)]
    sentences = {end for _, end in sentence_spans(text)}
    return _Ends([*paragraphs, len(text)], sorted(sentences.union(paragraphs, {len(text)})), len(text))
