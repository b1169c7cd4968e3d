"""What a cutter keeps is text of the document, within the budget and close to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from handmade import OTHER_TEXT, QUESTION, TEXT

from latentpress.evaluation.systems.cutters import (
    Cutter,
    bm25_sentences,
    everything,
    head,
    head_tail,
    nothing,
    random_sentences,
)
from latentpress.evaluation.systems.sentences import sentence_spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CUTTERS = (head, head_tail, random_sentences, bm25_sentences)
LONG = (
    f"{TEXT}\n\n{OTHER_TEXT} The seals are kept in Vienna, by an owl. {TEXT.upper()} "
    "狐狸跑了。狗睡了！👩‍👩‍👧 Nobody came."
)


def count(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("cutter", CUTTERS)
@pytest.mark.parametrize("text", [LONG, "狐狸跑了。狗睡了！谁？" * 9, "word " * 90, "\n\n  A fox.  \n" * 9])
def test_the_budget_is_filled_and_never_exceeded(
    tiny_tokenizer: PreTrainedTokenizerBase, cutter: Cutter, text: str
) -> None:
    for budget in range(1, count(tiny_tokenizer, text), 3):
        kept = cutter(text, QUESTION, budget, tiny_tokenizer, 0)
        assert budget - 8 <= count(tiny_tokenizer, kept) <= budget
        left = iter(text)
        assert all(character in left for character in kept if not character.isspace())  # in the order of the text


@pytest.mark.parametrize("cutter", [*CUTTERS, everything])
def test_a_text_within_the_budget_is_kept_whole(tiny_tokenizer: PreTrainedTokenizerBase, cutter: Cutter) -> None:
    for budget in (count(tiny_tokenizer, TEXT), 10_000):
        assert cutter(TEXT, QUESTION, budget, tiny_tokenizer, 3) == TEXT


def test_nothing_is_nothing(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    assert nothing(TEXT, QUESTION, 50, tiny_tokenizer, 0) == ""


def test_the_head_is_the_longest_start_that_fits(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    for budget in range(1, 60):
        kept = head(TEXT, QUESTION, budget, tiny_tokenizer, 0)
        assert TEXT.startswith(kept)
        assert count(tiny_tokenizer, TEXT[: len(kept) + 1]) >= budget


def test_a_character_of_several_tokens_is_kept_whole_or_not_at_all(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    assert count(tiny_tokenizer, "狐狸") == 6
    kept = [head("狐狸", QUESTION, budget, tiny_tokenizer, 0) for budget in (2, 3, 5, 6)]
    assert kept == ["", "狐", "狐", "狐狸"]


def test_head_and_tail_are_both_ends_of_the_text(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    kept = head_tail(OTHER_TEXT, QUESTION, 21, tiny_tokenizer, 0)
    start, end = kept.split("\n")
    assert OTHER_TEXT.startswith(start)
    assert OTHER_TEXT.endswith(end)
    assert abs(count(tiny_tokenizer, start) - count(tiny_tokenizer, end)) <= 1


def test_sentences_are_whole_but_for_the_last_chosen_one_and_in_the_order_of_the_text(
    tiny_tokenizer: PreTrainedTokenizerBase,
) -> None:
    spans = sentence_spans(LONG)
    sentences = [LONG[start:end] for start, end in spans]
    for cutter in (random_sentences, bm25_sentences):
        kept = cutter(LONG, QUESTION, 90, tiny_tokenizer, 1)
        whole = [sentence.strip() for sentence in sentences if sentence.strip() in kept]
        rest = kept
        for sentence in whole:
            before, found, rest = rest.partition(sentence)
            assert found
            assert not before.strip() or any(one.strip().startswith(before.strip()) for one in sentences)
        assert whole


def test_random_sentences_follow_their_seed(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    drawn = [random_sentences(LONG, QUESTION, 40, tiny_tokenizer, seed) for seed in range(6)]
    assert drawn == [random_sentences(LONG, "Another?", 40, tiny_tokenizer, seed) for seed in range(6)]
    assert len({*drawn}) > 3


def test_bm25_keeps_the_sentence_with_the_rare_word(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    sentence = "The seals are kept in Vienna, by an owl."
    budget = count(tiny_tokenizer, sentence)
    assert bm25_sentences(LONG, "Where is the owl?", budget, tiny_tokenizer, 0) == sentence
    assert "狗睡了！" in bm25_sentences("狐狸跑了。狗睡了！没有人。" * 2, "狗？", 12, tiny_tokenizer, 0)


def test_sentences_that_do_not_match_fill_up_from_the_start(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    start = LONG[: sentence_spans(LONG)[0][1]]
    kept = bm25_sentences(LONG, "Xyzzy?", count(tiny_tokenizer, start), tiny_tokenizer, 0)
    assert kept == start


def test_special_tokens_are_plain_characters(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    text = "<|im_end|> The end. <|im_start|> The start."
    whole = len(tiny_tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    kept = head(text, QUESTION, whole - 2, tiny_tokenizer, 0)
    assert text.startswith(kept)
    assert len(text) - 8 < len(kept) < len(text)
