"""In which language texts are asked about."""

from __future__ import annotations

import pytest

from latentpress.synthesis.passages import Passage
from latentpress.synthesis.prompts import Prompts

CHINESE = "条约于一九四五年五月一日在巴黎签署，参加者来自十二个国家。"
ENGLISH = "The treaty was signed in Paris on the first of May, and twelve countries took part in the talks."
JAPANESE = "条約は一九四五年五月一日にパリで署名された。"
KANJI = "東京都知事選挙公報"
KOREAN = "조약은 1945년 5월 1일 파리에서 서명되었다."
PROGRAM = "先读取数据，再训练：" + "for each batch in loader do step and print the loss of it " * 4


@pytest.mark.parametrize(
    ("text", "lang", "language"),
    [
        *((CHINESE, lang, "zh") for lang in ("zh", "ZH", "zh-CN", "zh_Hant", "cmn", "chi", "zho", "yue", "Chinese")),
        (CHINESE, "en", "zh"),
        (CHINESE, "ko", "zh"),
        (ENGLISH, "en", "en"),
        (ENGLISH, "zh", "en"),
        (ENGLISH, "de", "en"),
        (JAPANESE, "ja", "en"),
        (JAPANESE, "zh", "en"),
        (KANJI, "JA", "en"),
        (KANJI, "zh", "zh"),
        (KOREAN, "ko", "en"),
        (KOREAN, "zh", "en"),
        (PROGRAM, "Chinese", "zh"),
        (PROGRAM, "en", "en"),
        ("1990: 12, 13", "zh-Hans", "zh"),
        ("1990: 12, 13", "en", "en"),
    ],
)
def test_chinese_texts_are_asked_about_in_chinese_and_all_others_in_english(
    text: str, lang: str, language: str
) -> None:
    passage = Passage(id="p", text=text, tokens=20, lang=lang, source="s")
    prompts = Prompts()
    assert prompts.language([passage]) == language
    assert ("请" in prompts.text("qa", [passage], 4)) is (language == "zh")
