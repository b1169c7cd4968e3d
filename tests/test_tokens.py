"""Text becomes tokens that mean nothing but the text, and windows that tile it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SPECIAL_TOKENS, make_tokenizer
from tokenizers import AddedToken, normalizers

from latentpress.errors import InputError
from latentpress.tokens import char_span, encode_inert, encode_template, equal_windows, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKENIZER = make_tokenizer()
SPECIAL_IDS = set(TOKENIZER.all_special_ids)
# Anything that UTF-8 can say, biased to what may go wrong.
TEXTS = st.lists(
    st.text(st.characters(codec="utf-8"), max_size=8)
    | st.sampled_from(
        [*SPECIAL_TOKENS, "<|latents|>", " ", "\n\n", "🦊", "日本語", "e\u0301", "{uuid:0}", "<|im_", "end|>"]
    ),
    max_size=6,
).map("".join)


@settings(max_examples=60)
@given(TEXTS)
def test_no_text_makes_a_special_token_and_all_of_it_comes_back(text: str) -> None:
    ids = encode_inert(TOKENIZER, text)
    assert not SPECIAL_IDS & set(ids)
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text


@settings(max_examples=60)
@given(TEXTS)
def test_documents_and_prompts_are_tokenised_alike_with_spans_in_order(text: str) -> None:
    if not text.strip() or "\x00" in text:
        return
    tokens = tokenize(TOKENIZER, text)
    assert list(tokens.ids) == encode_inert(TOKENIZER, text)
    assert len(tokens.offsets) == len(tokens.ids)
    assert all(0 <= a <= b <= len(text) for a, b in tokens.offsets)
    for (a, b), (c, d) in itertools.pairwise(tokens.offsets):
        assert a <= c
        assert b <= d
    covered = {i for a, b in tokens.offsets for i in range(a, b)}
    assert all(text[i].isspace() for i in range(len(text)) if i not in covered)


def test_the_templates_own_special_tokens_stay_special(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    text = "<|im_start|>user\nHello<|im_end|>"
    assert encode_template(tiny_tokenizer, text) == tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    for _ in range(2):  # whatever was asked before
        assert tiny_tokenizer.bos_token_id in encode_template(tiny_tokenizer, text)
        assert tiny_tokenizer.bos_token_id not in encode_inert(tiny_tokenizer, text)
    assert encode_template(tiny_tokenizer, "") == []


def test_tokens_that_the_template_uses_without_calling_them_special_are_inert_too() -> None:
    """Qwen's `<think>` is such a token: splitting special tokens leaves it whole."""
    tokenizer = make_tokenizer(chat_template="{% if thinking %}<think>{% endif %}")
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False), AddedToken("\n\n", special=False)])
    think = tokenizer.convert_tokens_to_ids("<think>")
    text = "I <think>, therefore <<think><think>\n\nI am."
    tokens = tokenize(tokenizer, text)
    assert think not in tokens.ids
    assert list(tokens.ids) == encode_inert(tokenizer, text)
    assert tokenizer.decode(list(tokens.ids), clean_up_tokenization_spaces=False) == text
    assert "".join("".join(text[a:b] for a, b in tokens.offsets).split()) == "".join(text.split())
    assert encode_template(tokenizer, "<think>") == [think]


@pytest.mark.parametrize("text", ["", " ", "\n\t \r\n", "\u3000\u2003"])
def test_a_text_without_a_visible_character_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=rf"empty \({len(text)} characters"):
        tokenize(TOKENIZER, text)


def test_a_binary_file_is_refused_with_the_place() -> None:
    with pytest.raises(InputError, match=r"NUL character at position 3.*binary"):
        tokenize(TOKENIZER, "ELF\x00\x01")


@pytest.mark.parametrize("encode", [tokenize, encode_inert])
def test_half_a_character_is_refused_with_the_place(encode: object) -> None:
    """JSON may hold one: `json.loads` takes an escaped lone surrogate."""
    with pytest.raises(InputError, match=r"lone surrogate.*position 4"):
        encode(TOKENIZER, "half\ud83d")  # type: ignore[operator]


def test_a_text_that_the_tokenizer_drops_is_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    with pytest.raises(InputError, match="no tokens of this text of 2 characters"):
        tokenize(tokenizer, "\u200b\u200b")


def test_a_text_longer_than_the_tokenizers_limit_is_not_cut() -> None:
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 8
    assert len(tokenize(tokenizer, "word " * 50).ids) > 50


@given(st.integers(1, 5000), st.integers(1, 700))
def test_windows_tile_a_document_equally_and_are_as_few_as_can_be(tokens: int, limit: int) -> None:
    windows = equal_windows(tokens, limit)
    assert [i for start, end in windows for i in range(start, end)] == list(range(tokens))
    sizes = [end - start for start, end in windows]
    assert max(sizes) <= limit
    assert max(sizes) - min(sizes) <= 1
    assert (len(windows) - 1) * limit < tokens
    assert sizes == sorted(sizes, reverse=True)


@given(TEXTS, st.data())
@settings(max_examples=60)
def test_the_characters_of_neighbouring_spans_never_run_backwards(text: str, data: st.DataObject) -> None:
    if not text.strip() or "\x00" in text:
        return
    offsets = tokenize(TOKENIZER, text).offsets
    cuts = sorted(data.draw(st.sets(st.integers(1, len(offsets)), max_size=4)) | {0, len(offsets)})
    spans = [char_span(offsets, a, b) for a, b in itertools.pairwise(cuts)]
    assert spans == sorted(spans)
    assert [end for _, end in spans] == sorted(end for _, end in spans)


def test_the_characters_of_a_span_are_those_of_its_tokens() -> None:
    text = "Naïve 🦊 fox"
    tokens = tokenize(TOKENIZER, text)
    fox = [i for i, (a, b) in enumerate(tokens.offsets) if "🦊" in text[a:b]]
    assert len(fox) > 1  # several bytes, each a token of the one character
    start, end = char_span(tokens.offsets, fox[0], fox[-1] + 1)
    assert text[start:end].strip() == "🦊"
    assert char_span(tokens.offsets, 0, len(tokens.ids)) == (0, len(text))
