"""Passages on which selector heads are judged: a fifth of all, by their names, to be kept out of training."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable

from latentpress.data.records import Record

_SHARE = 5


def is_held_out(id: str) -> bool:
    """Whether the record of this name is one of the fifth: SHA-256 of the name, as a number, is a multiple of 5."""
    return int(hashlib.sha256(id.encode()).hexdigest(), 16) % _SHARE == 0


def without_held_out(records: Iterable[Record], passages: Iterable[Record]) -> list[Record]:
    """The records without a text that is, or contains, the text of a passage that is held out.

    Texts are compared by their letters: neither case, form of characters nor white space makes another text.
    """
    held = {normalised(text) for passage in passages if is_held_out(passage.id) for text in passage.contexts}
    shortest = min(map(len, held), default=0)

    def leaks(text: str) -> bool:
        plain = normalised(text)
        return plain in held or (len(plain) > shortest and any(one in plain for one in held))

    return [record for record in records if not any(map(leaks, record.contexts))]


def normalised(text: str) -> str:
    """A text without the differences that make no other text."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
