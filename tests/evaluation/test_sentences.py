"""Sentences tile a text; the best match of a question has its rare words."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentpress.evaluation.systems.sentences import bm25, sentence_spans


def split(text: str) -> list[str]:
    return [text[start:end].strip() for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The fox ran. The dog slept.", ["The fox ran.", "The dog slept."]),
        ("Who? Me! No...", ["Who?", "Me!", "No..."]),
        ('He said "Go." Then he went.', ['He said "Go."', "Then he went."]),
        (
            "Dr. Fox met J. R. Dog in the U.S. Army, e.g. in May.",
            ["Dr. Fox met J. R. Dog in the U.S. Army, e.g. in May."],
        ),
        ("Yahoo! is a firm. It has 3.5 dogs.", ["Yahoo! is a firm.", "It has 3.5 dogs."]),
        ("A title\n\nA text without an end\nin two lines", ["A title", "A text without an end\nin two lines"]),
        ("狐狸跑了。狗睡了！谁？没有人", ["狐狸跑了。", "狗睡了！", "谁？", "没有人"]),
        ("他说：“走吧。”然后走了。", ["他说：“走吧。”", "然后走了。"]),
        ("One.\n\n\n\nTwo. ", ["One.", "Two."]),
        ("no end", ["no end"]),
        ("", []),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text: str, expected: list[str]) -> None:
    assert split(text) == expected


PARTS = st.sampled_from(
    ["A", "b", "Mr", ".", "! ", "?", " ", "\n", "\n\n", "。", "”", "狐", '"', "e\u0301", "\u2028", "1"]
)


@given(st.lists(PARTS, max_size=40).map("".join))
def test_sentences_tile_the_text_and_none_is_blank(text: str) -> None:
    spans = sentence_spans(text)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(text[start:end].strip() for start, end in spans) or not text.strip()
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))


def test_chinese_characters_of_every_plane_are_words() -> None:
    assert bm25("𠮷", ["𠮷𠀋", "x"])[0] > 0


def test_bm25_is_the_formula_worked_by_hand() -> None:
    """Three sentences of 3, 3 and 6 words, mean 4; `fox` stands in two of them, `zebra` twice in one."""
    sentences = ["The fox sat.", "The dog ran.", "A zebra and zebra saw fox."]
    fox, zebra = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)
    first = fox * 1 * 2.5 / (1 + 1.5 * (0.25 + 0.75 * 3 / 4))
    third = fox * 1 * 2.5 / (1 + 1.5 * (0.25 + 0.75 * 6 / 4)) + zebra * 2 * 2.5 / (2 + 1.5 * (0.25 + 0.75 * 6 / 4))
    assert bm25("Which fox? Which zebra?", sentences) == pytest.approx([first, 0.0, third])
    assert first == pytest.approx(0.529582, abs=1e-6)
    assert third == pytest.approx(1.590851, abs=1e-6)


def test_a_rare_word_counts_more_than_a_common_one_and_none_below_zero() -> None:
    sentences = ["The fox and the dog.", "The fox and the seal.", "The fox and the cat."]
    scores = bm25("the fox the seal", sentences)
    assert scores[1] == max(scores)
    assert min(scores) > 0
    assert bm25("nothing alike", sentences) == [0.0, 0.0, 0.0]
    assert bm25("anything", []) == []
