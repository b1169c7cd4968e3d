"""Scripts, what they tell of a language, and texts that say nearly the same twice."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from latentpress.data.held_out import normalised
from latentpress.evaluation.metrics import word_tokens

_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U000323af]")
_CJK_FROM = 0.25  # share of words that makes a text Chinese; each character counts as one
_TAGGED_CJK_FROM = 0.05  # the same of a text that is said to be: a program may be most of one about it
_KANA = re.compile(r"[\u3040-\u30ff]")
_KANA_FROM = 0.1  # share of kana in its characters that makes a text Japanese
# Scripts as Unicode names their letters; Chinese characters and kana stand together in Japanese.
HAN, HANGUL = "HAN", "HANGUL"
SPACELESS = frozenset((HAN, HANGUL))
"""Scripts in which a few foreign words are many letters, so that theirs alone counts."""
_SCRIPTS = {"CJK": HAN, "HIRAGANA": HAN, "KATAKANA": HAN, "BOPOMOFO": HAN}
_LANGUAGES = {
    **dict.fromkeys(("zh", "zho", "chi", "cmn", "yue", "wuu", "nan", "hak", "gan", "hsn", "lzh"), "zh"),
    **dict.fromkeys(("chinese", "mandarin", "cantonese"), "zh"),
    **dict.fromkeys(("ja", "jpn", "japanese"), "ja"),
    **dict.fromkeys(("ko", "kor", "korean"), "ko"),
}
_SHINGLE = 5  # words
_BANDS, _ROWS = 16, 4
_ALIKE = 0.8
_PRIME = np.uint64(4_294_967_311)  # above every 32-bit hash, so that products stay within 64 bits


@cache
def letter_script(character: str) -> str | None:
    """Script of a letter, by the first word of its name in Unicode: "LATIN", "CYRILLIC"; None for what is no letter."""
    for letter in unicodedata.normalize("NFKC", character):
        if unicodedata.category(letter) in ("Lu", "Ll", "Lt", "Lo"):
            script = unicodedata.name(letter, "?").partition(" ")[0]
            return _SCRIPTS.get(script, script)
    return None


def scripts_of(text: str) -> Counter[str]:
    """Letters of a text by script."""
    scripts: Counter[str] = Counter()
    for character, number in Counter(text).items():
        if script := letter_script(character):
            scripts[script] += number
    return scripts


def main_script(scripts: Counter[str]) -> str | None:
    """The script of most letters, None where there are none."""
    return max((script for script in scripts if scripts[script] > 0), key=scripts.__getitem__, default=None)


@lru_cache(maxsize=64)
def script_of(text: str, lang: str = "") -> str | None:
    """The script that a passage is written in.

    Args:
        text: the passage.
        lang: its language as it is tagged. A text that is said to be Chinese, Japanese or Korean is so from a
            twentieth of its words on, one that nothing is said of from a quarter.
    """
    scripts = scripts_of(text)
    tagged = _tagged(lang)
    if (tagged or not lang) and _has_cjk(text, _TAGGED_CJK_FROM if tagged else _CJK_FROM):
        return max(HAN, HANGUL, key=scripts.__getitem__)
    return main_script(scripts)


def language_of(text: str) -> str:
    """What the script tells, "zh", "ja", "ko" or "en", which is wrong for a text in a further language."""
    script = script_of(text)
    if script == HAN:
        return "ja" if _is_japanese(text) else "zh"
    return "ko" if script == HANGUL else "en"


def asked_in(text: str, lang: str) -> str:
    """Language of the prompts about a text, "zh" or "en": by its script, and by its tag where that tells nothing."""
    script, tagged = script_of(text, lang), _tagged(lang)
    if script is None:
        return "zh" if tagged == "zh" else "en"
    return "zh" if script == HAN and tagged != "ja" and not _is_japanese(text) else "en"


def _has_cjk(text: str, share: float) -> bool:
    """Whether so many of the words are Chinese characters, kana or Hangul syllables."""
    if _CJK.search(text) is None:  # which is quicker told than its words
        return False
    words = word_tokens(text)
    return sum(_CJK.match(word) is not None for word in words) >= share * len(words)


def _tagged(lang: str) -> str | None:
    """Which of Chinese, Japanese and Korean a tag such as "zh-Hant", "cmn", "ZH" or "Chinese" means."""
    return _LANGUAGES.get(re.split(r"[-_\s]", lang.strip().casefold())[0])


def _is_japanese(text: str) -> bool:
    return len(_KANA.findall(text)) >= _KANA_FROM * len(_CJK.findall(text))


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
