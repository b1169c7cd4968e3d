"""What any prediction of density must beat: the length of a text, and how far it can be compressed without loss."""

from __future__ import annotations

import math
import zlib


def length(size: int) -> float:
    """log2 of the size of a text, in tokens or characters: summaries grow more slowly than what they are of."""
    return math.log2(size)


def zlib_ratio(text: str) -> float:
    """log2 of bytes in UTF-8 over bytes that zlib makes of them at its best (level 9)."""
    plain = text.encode()
    return math.log2(len(plain) / len(zlib.compress(plain, 9)))
