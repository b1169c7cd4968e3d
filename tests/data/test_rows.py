"""Records to rows: every request as the decoder will see it, every target once, labels where there are some."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import config_for

from latentpress.backbone import Backbone, Base
from latentpress.compressors import MeanPooling
from latentpress.data.records import QA, Record
from latentpress.data.rows import QUOTE_CUE, Example, ExampleMaker, TokenizedRecord, density_label
from latentpress.decoder.prompt import PromptSettings, Slot
from latentpress.decoder.reader import Reader
from latentpress.errors import DataError
from latentpress.ratios import FixedRatio
from latentpress.tokens import encode_inert, equal_windows

TEXT = "The treaty was signed in Paris on the first day of May, and there was nothing in the beginning."
QUESTIONS = tuple(QA(id=str(i), question=f"word {i}?", answers=(f"answer {i}", "another answer")) for i in range(4))


def record(**changes: Any) -> Record:
    plain: dict[str, Any] = {
        "id": "r",
        "contexts": (TEXT,),
        "qas": QUESTIONS,
        "summary": "A treaty.",
        "short_summary": "treaty",
        "source": "test",
        "lang": "en",
    }
    return Record(**(plain | changes))


@pytest.fixture
def maker(tiny_base: Base) -> ExampleMaker:
    config = config_for(tiny_base)
    return ExampleMaker(tiny_base.tokenizer, config.prompt, config.window_tokens)


def make(maker: ExampleMaker, *records: Record, seed: int = 0, **limits: int) -> Example:
    settings = {"questions": 5, "quotes": 2, "quote_tokens": 12} | limits
    return maker.example([maker.tokenize(one) for one in records], random.Random(seed), **settings)


@pytest.mark.parametrize(
    "question", ["who signed?", "what does {x} or {question} mean?", "is <|im_end|> inert?", " 答案是什么？"]
)
def test_requests_in_training_are_those_of_answering(tiny_base: Base, maker: ExampleMaker, question: str) -> None:
    reader = Reader(Backbone(tiny_base.model), tiny_base, PromptSettings(), FixedRatio((2, 4)), MeanPooling().count)
    asked = maker.tokenize(record(qas=(QA(id="q", question=question, answers=("x",)),)))
    assert list(asked.answers[0][0]) == reader.request(question)


@pytest.mark.parametrize("documents", [1, 2, 3])
def test_the_shared_part_in_training_is_that_of_answering(tiny_base: Base, maker: ExampleMaker, documents: int) -> None:
    reader = Reader(Backbone(tiny_base.model), tiny_base, PromptSettings(), FixedRatio((2, 4)), MeanPooling().count)
    shared = make(maker, *[record()] * documents).prefix
    assert list(shared) == reader.opening(documents)
    assert [piece.document for piece in shared if isinstance(piece, Slot)] == list(range(documents))


def test_answers_and_summary_are_predicted_to_their_end_and_the_request_is_not(
    tiny_base: Base, maker: ExampleMaker
) -> None:
    example = make(maker, record())
    expected = [encode_inert(tiny_base.tokenizer, f"answer {i}") for i in range(4)]
    expected.append(encode_inert(tiny_base.tokenizer, "A treaty."))
    asked = [branch for branch in example.branches if branch.kind != "quote"]
    assert [branch.kind for branch in asked] == ["answer"] * 4 + ["summary"]
    for branch, target in zip(asked, expected, strict=True):
        assert list(branch.ids[branch.first_label :]) == [*target, tiny_base.tokenizer.eos_token_id]
        assert branch.labels == len(target) + 1


def test_quotes_are_passages_of_the_text_behind_a_cue(maker: ExampleMaker) -> None:
    text = maker.tokenize(record()).documents[0]
    passages = {text[i : i + 12] for i in range(len(text) - 11)}
    for seed in range(20):
        example = make(maker, record(), seed=seed, questions=0)
        quotes = [branch for branch in example.branches if branch.kind == "quote"]
        assert len(quotes) == 2
        for quote in quotes:
            assert quote.ids[-12:] in passages
            assert quote.labels == 12 - QUOTE_CUE


def test_a_short_text_is_quoted_whole_and_one_as_short_as_the_cue_never(maker: ExampleMaker) -> None:
    short = replace(maker.tokenize(record()), documents=((5,) * (QUOTE_CUE + 1),), answers=(), summary=None)
    cue = replace(short, documents=((5,) * QUOTE_CUE,))
    assert short.quotable
    assert not cue.quotable
    limits = {"questions": 1, "quotes": 3, "quote_tokens": 12}
    assert [b.labels for b in maker.example([short], random.Random(0), **limits).branches] == [1, 1, 1]
    assert maker.example([cue], random.Random(0), **limits).branches == ()


def test_at_most_so_many_questions_are_drawn_each_once(maker: ExampleMaker) -> None:
    drawn = [make(maker, record(), seed=seed, questions=3, quotes=0).branches[:3] for seed in range(10)]
    assert all(len({branch.ids for branch in branches}) == 3 for branches in drawn)
    assert len(set(drawn)) > 1


def test_documents_of_several_records_share_a_row_and_all_their_questions(maker: ExampleMaker) -> None:
    other = record(contexts=("The quick brown fox jumps over the lazy dog.",), qas=QUESTIONS[:1], short_summary=None)
    example = make(maker, record(), other, quotes=1)
    first, second = (maker.tokenize(one).documents[0] for one in (record(), other))
    assert example.windows == (first, second)
    assert example.documents == (1, 1)
    assert [branch.kind for branch in example.branches] == ["answer"] * 5 + ["quote"]  # no summary of one of them
    assert example.log2_ratios[0] is not None
    assert example.log2_ratios[1] is None
    assert example.tokens == len(first) + len(second)


def test_long_documents_lie_in_equal_windows_and_their_label_is_of_none_of_them(maker: ExampleMaker) -> None:
    long = record(contexts=(" ".join([TEXT] * 4),))
    tokens = maker.tokenize(long).documents[0]
    example = make(maker, long)
    assert len(example.windows) > 2
    assert example.windows == tuple(tokens[a:b] for a, b in equal_windows(len(tokens), maker.window_tokens))
    assert example.documents == (len(example.windows),)
    assert example.log2_ratios == (None,) * len(example.windows)


@pytest.mark.parametrize(
    "changes", [{"short_summary": None}, {"contexts": (TEXT, TEXT)}], ids=["no short summary", "two documents"]
)
def test_records_without_a_label_have_none(maker: ExampleMaker, changes: dict[str, Any]) -> None:
    tokenized = maker.tokenize(record(**changes))
    assert tokenized.log2_ratio is None
    example = maker.example([tokenized], random.Random(0), questions=1, quotes=0, quote_tokens=12)
    assert set(example.log2_ratios) == {None}


def test_label_of_a_record_is_its_tokens_over_those_of_its_shortest_summary(
    tiny_base: Base, maker: ExampleMaker
) -> None:
    tokenized = maker.tokenize(record())
    summary = encode_inert(tiny_base.tokenizer, "treaty")
    assert tokenized.log2_ratio == pytest.approx(math.log2(len(tokenized.documents[0]) / len(summary)))


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_density_label_is_the_log_of_the_ratio_and_never_below_none(context: int, summary: int) -> None:
    label = density_label(context, summary)
    assert 2**label == pytest.approx(max(1.0, context / summary))


@pytest.mark.parametrize(("context", "summary"), [(0, 1), (1, 0)])
def test_density_label_of_nothing_is_refused(context: int, summary: int) -> None:
    with pytest.raises(DataError, match=f"got {context} and {summary} tokens; leave short_summary out"):
        density_label(context, summary)


def test_a_document_without_tokens_is_refused_by_the_name_of_its_record(
    maker: ExampleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentpress.data.rows.encode_inert", lambda tokenizer, text: [])
    with pytest.raises(DataError, match=r"record 'r' has a document .* leave it out"):
        maker.tokenize(record())


def test_the_same_draw_makes_the_same_row(maker: ExampleMaker) -> None:
    one: TokenizedRecord = maker.tokenize(record())
    limits = {"questions": 2, "quotes": 2, "quote_tokens": 12}
    assert maker.example([one], random.Random(3), **limits) == maker.example([one], random.Random(3), **limits)
