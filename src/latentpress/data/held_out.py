"""Passages on which selector heads are judged: a fifth of all, by their names, to be kept out of training.

No other text may bring one of them back. Texts are compared by their words, without case, form of characters, white
space and marks; a Chinese character, a kana or a Hangul syllable is a word. A text goes, if

- it is a passage that is held out, or contains one, or
- 8 or more of its runs of 13 words stand in passages that are held out, as those of 20 words in a row do, or
- it has fewer such runs, and all of them do.

So windows cut of a passage and texts that take up a part of it are found. Single sentences that two texts quote or that
stand on every page are not, nor is a text that says the same in other words.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator

from latentpress.data.records import Record

_SHARE = 5
_RUN = 13  # words
_COMMON = 8  # runs
_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U000323af"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")


def is_held_out(id: str) -> bool:
    """Whether the record of this name is one of the fifth: SHA-256 of the name, as a number, is a multiple of 5."""
    return int(hashlib.sha256(id.encode()).hexdigest(), 16) % _SHARE == 0


def without_held_out(records: Iterable[Record], passages: Iterable[Record]) -> list[Record]:
    """The records without a text that holds a passage that is held out, or a part of one; see the module."""
    held = {normalised(text) for passage in passages if is_held_out(passage.id) for text in passage.contexts}
    of_each = {text: set(_runs(text)) for text in held}
    runs_held = set().union(*of_each.values())
    short = [text for text, runs in of_each.items() if len(runs) < _COMMON]  # only to be found whole

    def leaks(text: str) -> bool:
        plain = normalised(text)
        runs = set(_runs(plain))
        alike = bool(runs) and len(runs & runs_held) >= min(_COMMON, len(runs))
        return alike or any(one in plain for one in short)

    return [record for record in records if not any(map(leaks, record.contexts))]


def normalised(text: str) -> str:
    """A text without the differences that make no other text."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _runs(text: str) -> Iterator[int]:
    """Hashes of all runs of so many words of a normalised text; that two of 64 bits coincide is not to be expected."""
    words = _WORD.findall(text)
    return map(hash, zip(*(words[start:] for start in range(_RUN)), strict=False))
