"""Language by script, and texts that say nearly the same twice."""

from __future__ import annotations

import re
import zlib

import numpy as np
import numpy.typing as npt

from latentpress.data.held_out import normalised
from latentpress.evaluation.metrics import word_tokens

_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U000323af]")
_CJK_FROM = 0.25  # share of words that makes a text Chinese; each character counts as one
_SHINGLE = 5  # words
_BANDS, _ROWS = 16, 4
_ALIKE = 0.8
_PRIME = np.uint64(4_294_967_311)  # above every 32-bit hash, so that products stay within 64 bits


def is_cjk(text: str) -> bool:
    """Whether a text is written in Chinese characters (or kana, or Hangul), foreign words in it aside."""
    words = word_tokens(text)
    return bool(words) and sum(_CJK.match(word) is not None for word in words) >= _CJK_FROM * len(words)


def holds_cjk(text: str) -> bool:
    """Whether a text holds a Chinese character, a kana or a Hangul syllable at all."""
    return _CJK.search(text) is not None


def language_of(text: str) -> str:
    """What the script tells, "zh" or "en", which is wrong for a text in a third language."""
    return "zh" if is_cjk(text) else "en"


class SeenTexts:
    """Tells texts that were seen before, or nearly so.

    Nearly so: their sets of runs of five words overlap by four fifths or more (Jaccard), estimated from 64 minimal
    hashes of each (Broder 1997); candidates share one of 16 bands of four.
    """

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        count = _BANDS * _ROWS
        self._factors = draw.integers(1, 2**32, count, dtype=np.uint64)[:, None]
        self._shifts = draw.integers(0, 2**32, count, dtype=np.uint64)[:, None]
        self._exact: set[str] = set()
        self._bands: dict[tuple[int, bytes], list[int]] = {}
        self._signatures: list[npt.NDArray[np.uint32]] = []

    def find(self, text: str) -> str | None:
        """What a text repeats, `the same text` or `nearly the same text`; None for a new one, which is noted."""
        key = normalised(text)
        if key in self._exact:
            return "the same text"
        signature = self._signature(key)
        bands = [(band, part.tobytes()) for band, part in enumerate(signature.reshape(_BANDS, _ROWS))]
        candidates = {index for band in bands for index in self._bands.get(band, ())}
        if any((self._signatures[index] == signature).mean() >= _ALIKE for index in candidates):
            return "nearly the same text"
        self._exact.add(key)
        for band in bands:
            self._bands.setdefault(band, []).append(len(self._signatures))
        self._signatures.append(signature)
        return None

    def _signature(self, text: str) -> npt.NDArray[np.uint32]:
        words = word_tokens(text) or [text]
        runs = {" ".join(words[i : i + _SHINGLE]) for i in range(max(1, len(words) - _SHINGLE + 1))}
        hashes = np.array([zlib.crc32(run.encode()) for run in runs], dtype=np.uint64)
        mixed = (self._factors * hashes + self._shifts) % _PRIME  # below 2**64: 32 bits times 32 bits and 32 more
        least: npt.NDArray[np.uint32] = mixed.min(axis=1).astype(np.uint32)
        return least
