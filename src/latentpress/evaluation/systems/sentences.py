"""Sentences of a text in English or Chinese, and how well each matches a question."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from latentpress.evaluation.metrics import word_tokens

# "What?" he said. | 他说：“什么？”然后走了。 | a blank line
_STOP = re.compile(r"""[.!?]+["'”’)\]]*(?=\s)|[。！？]+[”’」』）]*|(?=\n[^\S\n]*\n)""")
_LAST_WORD = re.compile(r"[\w.]+$")
_ABBREVIATION = re.compile(
    "mr|mrs|ms|dr|prof|rev|gen|col|lt|sgt|st|mt|vol|fig|vs|cf|inc|ltd|co|corp|jr|sr|dept|approx", re.IGNORECASE
)
_DOTTED = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")  # "J", "U.S", "e.g", "p.m"
_MOST_LETTERS = 24  # of a word that may be an abbreviation, to look back no further


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Half-open spans of characters that tile a text, a sentence each, with the white space before it.

    A sentence ends at `.`, `!` or `?` before white space, at `。`, `！` or `？`, closing quotes and brackets included,
    and before a blank line. It goes on after `.`, `!` or `?` if a small letter follows, and after the `.` of single
    letters ("J.", "U.S.") and of usual abbreviations ("Dr.").
    """
    borders = [0]
    for stop in _STOP.finditer(text):
        inside = text[borders[-1] : stop.end()]
        if inside.strip() and not _goes_on(text, stop, borders[-1]):
            borders.append(stop.end())
    if len(borders) > 1 and not text[borders[-1] :].strip():
        borders.pop()  # white space behind the last sentence
    return list(zip(borders, [*borders[1:], len(text)], strict=True)) if text else []


def _goes_on(text: str, stop: re.Match[str], start: int) -> bool:
    if stop.group()[:1] not in (".", "!", "?"):
        return False
    if text[stop.end() : stop.end() + 8].lstrip()[:1].islower():
        return True
    before = _LAST_WORD.search(text, max(start, stop.start() - _MOST_LETTERS), stop.start())
    if stop.group() != "." or before is None:
        return False
    word = before.group()
    return bool(_DOTTED.fullmatch(word) or _ABBREVIATION.fullmatch(word))


def bm25(question: str, sentences: Sequence[str], *, k1: float = 1.5, b: float = 0.75) -> list[float]:
    """Scores how well sentences match a question: Okapi BM25, the sentences being the collection.

    The sum over the question's distinct words w of `idf(w) f (k1 + 1) / (f + k1 (1 - b + b length / mean length))`, f
    the times that w comes in a sentence of `length` words, `idf(w) = ln(1 + (N - n + 0.5) / (n + 0.5))` for n of N
    sentences with w (Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009; Lucene's idf, never below 0).
    """
    counts = [Counter(word_tokens(sentence)) for sentence in sentences]
    mean = sum(map(Counter.total, counts)) / max(1, len(counts))
    scores = [0.0] * len(counts)
    for word in dict.fromkeys(word_tokens(question)):
        having = sum(word in count for count in counts)
        idf = math.log(1 + (len(counts) - having + 0.5) / (having + 0.5))
        for i, count in enumerate(counts):
            if found := count[word]:
                scores[i] += idf * found * (k1 + 1) / (found + k1 * (1 - b + b * count.total() / mean))
    return scores
