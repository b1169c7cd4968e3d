"""Batches are a function of the seed and the step; the data is split and cut as the recipe says."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_tokenizer

from latentpress.data.records import QA, Record, read_records
from latentpress.data.rows import ExampleMaker, TokenizedRecord
from latentpress.decoder.prompt import PromptSettings
from latentpress.errors import DataError
from latentpress.training.data_stream import Row, StepStream
from latentpress.training.evaluate import make_dev_set
from latentpress.training.overrides import make_recipe
from latentpress.training.reading import TrainingData, _continued, answer_rates, read_data, unigram_counts
from latentpress.training.recipes import Recipe
from training.helpers import WORDS, overrides, write_data


@pytest.fixture(scope="module")
def maker() -> ExampleMaker:
    return ExampleMaker(make_tokenizer(), PromptSettings(), 48)


def recipe(**changes: Any) -> Recipe:
    return make_recipe("semidynamic", overrides(**({"steps": 40} | changes)))


def tokenized(length: int, *, asked: bool = True, documents: int = 1, summary: bool = False) -> TokenizedRecord:
    answers = (((7, 8), (9, 2)),) if asked else ()
    texts = tuple(tuple(range(5, 5 + length)) for _ in range(documents))
    return TokenizedRecord(
        documents=texts, answers=answers, summary=((7,), (9, 2)) if summary else None, log2_ratio=2.0
    )


def records(count: int = 30) -> list[TokenizedRecord]:
    draw = random.Random(1)
    return [tokenized(draw.randint(5, 40), asked=i % 3 > 0, documents=1 + (i % 7 == 0)) for i in range(count)]


def test_a_step_is_a_function_of_the_seed_and_its_number(maker: ExampleMaker) -> None:
    forward = StepStream(records(), maker, recipe())
    steps = {i: forward[i] for i in range(40)}
    backward = StepStream(records(), maker, recipe())
    order = random.Random(0).sample(range(40), 40)
    assert {i: backward[i] for i in order} == steps
    assert StepStream(records(), maker, recipe())[33] == steps[33]
    other = StepStream(records(), maker, recipe(seed=1))
    assert all(other[i] != steps[i] for i in range(40))


def test_a_stream_has_as_many_steps_as_the_recipe(maker: ExampleMaker) -> None:
    stream = StepStream(records(), maker, recipe())
    assert len(stream) == 40
    for index in (-1, 40):
        with pytest.raises(IndexError):
            stream[index]


@settings(max_examples=30)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 96), st.booleans(), st.integers(1, 2), st.booleans()), min_size=1),
    seed=st.integers(0, 5),
    questions=st.sampled_from([0, 2]),
)
def test_every_record_comes_exactly_once_an_epoch_and_every_row_has_a_target(
    maker: ExampleMaker, lengths: list[tuple[int, bool, int, bool]], seed: int, questions: int
) -> None:
    settings = recipe(seed=seed, questions=questions, multi_document=0.5, quotes=0, quote_schedule="")
    kinds = [tokenized(n, asked=asked, documents=k, summary=summary) for n, asked, k, summary in lengths]
    usable = [
        one
        for one in kinds
        if one.tokens <= 96 and (one.quotable or one.summary is not None or (one.answers and questions))
    ]
    if not usable:
        return
    stream = StepStream(usable, maker, settings)
    for epoch in range(2):
        plan = stream.epoch(epoch)
        assert sorted(i for step in plan for row in step for i in row.records) == list(range(len(usable)))
        for row in (row.records for step in plan for row in step):
            assert sum(usable[i].tokens for i in row) <= settings.max_context_tokens
            assert len(row) <= 4
            assert len(row) == 1 or all(len(usable[i].documents) == 1 for i in row)
    for index in range(min(40, len(stream.epoch(0)))):
        assert all(example.branches for example in stream[index].examples)


def test_epochs_follow_each_other_in_orders_of_their_own(maker: ExampleMaker) -> None:
    stream = StepStream(records(), maker, recipe())
    first, second = stream.epoch(0), stream.epoch(1)
    assert first != second
    assert [stream.rows(i) for i in range(len(first) + len(second))] == [*first, *second]


def test_a_step_takes_rows_until_it_has_its_tokens(maker: ExampleMaker) -> None:
    stream = StepStream(records(), maker, recipe())
    for step in (stream[i] for i in range(len(stream.epoch(0)) - 1)):
        assert step.tokens >= 100
        assert step.tokens - step.examples[-1].tokens < 100


def test_rows_of_two_to_four_documents_are_made_by_their_share(maker: ExampleMaker) -> None:
    short = [tokenized(6) for _ in range(300)]

    def documents(share: float) -> Counter[int]:
        stream = StepStream(short, maker, recipe(multi_document=share))
        return Counter(len(row.records) for step in stream.epoch(0) for row in step)

    assert set(documents(0)) == {1}
    assert set(documents(1)) - {1} == {2, 3, 4}
    mixed = documents(0.5)
    assert 0.35 < mixed[1] / mixed.total() < 0.65


def test_long_documents_are_made_by_their_share_within_their_limit(maker: ExampleMaker) -> None:
    short = [tokenized(20) for _ in range(300)]

    def rows(share: float) -> list[Row]:
        stream = StepStream(short, maker, recipe(long_documents=share, long_document_tokens=200, multi_document=0))
        plan = stream.epoch(0)
        assert sorted(i for step in plan for row in step for i in row.records) == list(range(300))
        return [row for step in plan for row in step]

    assert not any(row.joined for row in rows(0))
    lengths = [20 * len(row.records) for row in rows(1)[:-1]]
    assert all(row.joined for row in rows(1)[:-1])
    assert min(lengths) > 96 - 20  # the shortest drawn is max_context_tokens
    assert 150 < max(lengths) <= 200
    some = rows(0.5)
    assert 0.3 < sum(row.joined for row in some) / len(some) < 0.7


def test_a_long_document_has_the_questions_of_all_its_windows(maker: ExampleMaker) -> None:
    settings = recipe(long_documents=1, long_document_tokens=200, questions=2, quotes=1, quote_schedule="")
    stream = StepStream([tokenized(20) for _ in range(40)], maker, settings)
    for example in stream[0].examples:
        (windows,) = example.documents  # one document
        assert windows > 1
        assert max(map(len, example.windows)) <= 48
        kinds = Counter(branch.kind for branch in example.branches)
        assert kinds["quote"] == windows
        assert kinds["answer"] <= 2 * windows
        assert kinds["answer"] > 2


def test_related_documents_are_made_of_texts_about_one_thing(maker: ExampleMaker) -> None:
    """Texts of ten kinds, shuffled; those of a kind share the tokens of its name."""
    plain = tokenized(18)
    texts = [
        replace(plain, documents=((*plain.documents[0], 30 + kind, 40 + kind, 60 + i),))
        for i in range(12)
        for kind in range(10)
    ]

    def kinds(share: float) -> list[int]:
        plan = StepStream(texts, maker, recipe(**RELATED | {"related_documents": share})).epoch(0)
        assert sorted(i for step in plan for row in step for i in row.records) == list(range(120))
        return [len({i % 10 for i in row.records}) for step in plan for row in step if row.joined]

    related, others = kinds(1), kinds(0)
    assert sum(related) / len(related) < 2 < 3 < sum(others) / len(others)  # the last of a kind take others in
    assert related[0] == 1


RELATED = {"long_documents": 1, "long_document_tokens": 100, "related_documents": 1, "multi_document": 0}


def test_the_most_alike_do_not_always_stand_side_by_side(maker: ExampleMaker) -> None:
    """A chain: each text shares a token with the next one, so that likeness falls with the distance."""
    plain = tokenized(10)
    texts = [
        replace(plain, documents=((*plain.documents[0], *range(100 + i, 108 + i), *range(200 + i, 203 + i)),))
        for i in range(40)
    ]
    rows = [r.records for step in StepStream(texts, maker, recipe(**RELATED)).epoch(0) for r in step if r.joined]
    chains = [row for row in rows if max(row) - min(row) == len(row) - 1 and len(row) > 3]
    assert chains
    orders = {tuple(i - min(row) for i in row) for row in chains}
    assert any(order not in (tuple(range(len(order))), tuple(reversed(range(len(order))))) for order in orders)
    assert {row[0] - min(row) for row in chains} > {0}


def test_the_same_text_comes_once_in_a_related_document(maker: ExampleMaker) -> None:
    plain = tokenized(16)
    texts = [replace(plain, documents=((*plain.documents[0], 50 + i // 3),)) for i in range(60)]
    rows = [r.records for step in StepStream(texts, maker, recipe(**RELATED)).epoch(0) for r in step]
    assert sorted(i for row in rows for i in row) == list(range(60))
    assert all(len({i // 3 for i in row}) == len(row) for row in rows)
    assert any(len(row) > 2 for row in rows)


def test_what_cannot_join_does_not_end_a_related_document(maker: ExampleMaker) -> None:
    plain = tokenized(16)
    alike = [replace(plain, documents=((*plain.documents[0], 50, 60 + i),)) for i in range(5)]
    pairs = [replace(plain, documents=((*plain.documents[0], 50), (50, 51, 52))) for _ in range(20)]
    rows = [row for step in StepStream([*alike, *pairs], maker, recipe(**RELATED)).epoch(0) for row in step]
    assert [set(row.records) for row in rows if row.joined] == [{0, 1, 2, 3, 4}]


@pytest.mark.parametrize("changes", [{}, RELATED])
def test_the_plan_of_an_epoch_stays_what_it_was(maker: ExampleMaker, changes: dict[str, Any]) -> None:
    """Runs go on after an update of the library with the batches that they would have had."""
    steps = StepStream(records(), maker, recipe(**changes)).epoch(1)
    plan = [[(row.records, row.joined) for row in step] for step in steps]
    pinned = "b10525858df0352b" if changes else "690c40c083d174e1"
    assert hashlib.sha256(repr(plan).encode()).hexdigest()[:16] == pinned


def test_a_record_that_joins_no_other_stays_a_row_of_its_own(maker: ExampleMaker) -> None:
    pairs = [tokenized(20, documents=2) for _ in range(20)]
    stream = StepStream(pairs, maker, recipe(long_documents=1, long_document_tokens=200))
    assert {row for step in stream.epoch(0) for row in step} == {Row((i,)) for i in range(20)}


def test_one_candidate_ratio_a_step_by_the_weights_of_its_phase(maker: ExampleMaker) -> None:
    phases = recipe(steps=400, ratio_schedule="0:1/0/0,0.5:0/3/1")
    stream = StepStream(records(4), maker, phases)
    ratios = [stream[i].size.value for i in range(400)]
    assert set(ratios[:200]) == {2}
    late = Counter(ratios[200:])
    assert set(late) == {4, 8}
    assert 0.6 < late[4] / 200 < 0.9
    alike = StepStream(records(4), maker, recipe(steps=300, ratio_schedule=""))
    drawn = Counter(alike[i].size.value for i in range(300))
    assert min(drawn[ratio] for ratio in (2, 4, 8)) > 60


def test_quotes_follow_their_schedule(maker: ExampleMaker) -> None:
    texts = [tokenized(30) for _ in range(8)]
    stream = StepStream(texts, maker, recipe(quote_schedule="0:3,0.25:1,0.5:0", multi_document=0))
    counts = [{sum(b.kind == "quote" for b in e.branches) for e in stream[i].examples} for i in range(40)]
    assert counts == [{3}] * 10 + [{1}] * 10 + [{0}] * 20
    assert {recipe(quotes=4, quote_schedule="").quotes_at(i) for i in range(40)} == {4}


def test_texts_without_questions_are_quoted_even_where_the_schedule_says_none(maker: ExampleMaker) -> None:
    stream = StepStream([tokenized(30, asked=False)], maker, recipe(quote_schedule="", quotes=0))
    assert [branch.kind for branch in stream[0].examples[0].branches] == ["quote"]


def test_a_step_counts_what_its_losses_are_divided_by(maker: ExampleMaker) -> None:
    unlabelled = replace(tokenized(10), log2_ratio=None)
    texts = [tokenized(20), unlabelled, tokenized(60)]
    step = StepStream(texts, maker, recipe(multi_document=0, tokens_per_step=90))[0]
    assert step.tokens == 90
    assert step.labels == sum(branch.labels for example in step.examples for branch in example.branches)
    assert step.labelled == 1  # the one of 60 tokens lies in two windows
    assert step.questions == 3


def read(path: Path, maker: ExampleMaker, dev: Path | None = None, **changes: Any) -> TrainingData:
    return read_data([str(path)], None if dev is None else str(dev), recipe(**changes), maker)


def test_a_tenth_is_held_back_and_no_context_lies_on_both_sides(tmp_path: Path, maker: ExampleMaker) -> None:
    path = write_data(tmp_path / "a.jsonl", 40)
    path.write_text(path.read_text() * 2)  # every context twice
    data = read(path, maker)
    assert len(data.dev) == len(data.dev_sources) == 8
    assert len(data.train) == 72
    assert not {record.documents for record in data.train} & {record.documents for record in data.dev}
    assert len(read(path, maker, dev_records=1).dev) == 2
    assert read(path, maker, dev_records=0).dev == ()


def test_a_dev_set_of_its_own_leaves_the_data_whole(tmp_path: Path, maker: ExampleMaker) -> None:
    path, dev = write_data(tmp_path / "a.jsonl", 20), write_data(tmp_path / "b.jsonl", 6, seed=9)
    data = read(path, maker, dev)
    assert len(data.train) == 20
    assert [record.contexts for record in data.dev_sources] == [
        (json.loads(line)["context"],) for line in dev.read_text().splitlines()
    ]


def test_the_digest_changes_with_any_record_of_either_set(tmp_path: Path, maker: ExampleMaker) -> None:
    path, dev = write_data(tmp_path / "a.jsonl"), write_data(tmp_path / "b.jsonl", 6)
    digests = {read(path, maker).digest, read(path, maker, dev).digest}
    changed = tmp_path / "c.jsonl"
    changed.write_text(path.read_text().replace("word 1?", "word I?", 1))
    digests |= {read(changed, maker).digest, read(changed, maker, dev).digest}
    digests.add(read(path, maker, write_data(tmp_path / "d.jsonl", 7)).digest)
    assert len(digests) == 5
    assert read(path, maker).digest == read(path, maker).digest


def test_long_plain_texts_become_passages_without_the_label_of_the_whole(tmp_path: Path, maker: ExampleMaker) -> None:
    text = " ".join(random.Random(0).choices(WORDS, k=150))
    path = tmp_path / "plain.jsonl"
    path.write_text(json.dumps({"text": text, "short_summary": "the fox"}) + "\n")
    data = read(path, maker)
    assert len(data.train) > 2
    assert max(record.tokens for record in data.train) <= 96
    assert sum((record.documents[0] for record in data.train), ()) == tuple(
        maker.tokenizer(text, add_special_tokens=False)["input_ids"]
    )
    assert {record.log2_ratio for record in data.train} == {None}
    assert data.left_out == 0


def test_texts_are_cut_into_passages_and_what_follows_them(tmp_path: Path, maker: ExampleMaker) -> None:
    rows = [{"text": "the treaty was signed in Paris " * count} for count in (1, 9, 40)]
    rows.append({"context": "the quick brown fox " * 5, "qas": [{"question": "who?", "answers": ["fox"]}]})
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"questions": 0, "quotes": 0, "quote_schedule": "", "max_context_tokens": 48, "multi_document": 0.5}
    data = read(path, maker, continue_tokens=16, dev_records=0, **changes)
    whole = [maker.tokenize(record) for record in read_records(str(path))]
    texts = iter(data.train)
    assert data.left_out == 1  # too short to be cut
    for record in whole[1:]:
        (rest,) = record.documents
        while len(rest) >= 10:  # what is shorter has no two tokens behind it
            piece = next(texts)
            (passage,) = piece.documents
            assert passage + piece.continuation == rest[: len(passage) + len(piece.continuation)]
            assert (len(passage), len(piece.continuation)) == (48, 12) or len(rest) < 60
            rest = rest[len(passage) + len(piece.continuation) :]
            assert len(passage) <= 48
            assert 2 <= len(piece.continuation) <= min(16, len(passage) // 4 + 1)
            assert not piece.answers
    assert next(texts, None) is None
    stream = StepStream(data.train, maker, recipe(continue_tokens=16, **changes))
    for example in (example for i in range(10) for example in stream[i].examples):
        (branch,) = example.branches  # never several documents in a row
        assert branch.kind == "continuation"
        assert branch.labels == len(branch.ids) - 1
    for length, limit, most in itertools.product(range(5, 300, 7), (20, 48, 100), (2, 16, 100)):
        for piece in _continued(tuple(range(length)), limit, most):
            assert len(piece.documents[0]) <= limit
            assert len(piece.continuation) <= most
    asked = read(path, maker, continue_tokens=16, dev_records=0)  # with questions, nothing is cut away from them
    assert not any(piece.continuation for piece in asked.train)


@pytest.mark.parametrize(
    ("length", "sizes"),
    [
        (9, []),
        (10, [(8, 2)]),
        (49, [(40, 9)]),
        (50, [(40, 10)]),
        (51, [(40, 10)]),  # the one token left is too little
        (75, [(40, 10), (20, 5)]),
        (200, [(40, 10)] * 4),
    ],
)
def test_a_text_that_is_long_enough_gives_passages_of_exactly_what_was_asked_for(
    length: int, sizes: list[tuple[int, int]]
) -> None:
    text = tuple(range(length))
    made = _continued(text, 40, 10)
    assert [(len(piece.documents[0]), len(piece.continuation)) for piece in made] == sizes
    assert text[: sum(map(sum, sizes))] == sum((piece.documents[0] + piece.continuation for piece in made), ())
    assert [len(piece.documents[0]) for piece in _continued(tuple(range(1300)), 512, 128)] == [512, 512, 16]


def test_the_first_passage_of_a_long_text_is_evaluated_where_nothing_is_asked(
    tmp_path: Path, maker: ExampleMaker
) -> None:
    plain = {"quotes": 0, "quote_schedule": "", "max_context_tokens": 40}
    path, dev = write_data(tmp_path / "data.jsonl"), write_data(tmp_path / "dev.jsonl", 6, words=(60, 90))
    sources = read_records(str(dev))
    data = read(path, maker, dev, questions=0, continue_tokens=10, **plain)
    assert data.dev_sources == tuple(sources)
    assert all((len(piece.documents[0]), len(piece.continuation)) == (40, 10) for piece in data.dev)
    for piece, source in zip(data.dev, sources, strict=True):
        (text,) = maker.tokenize(source).documents
        assert piece.documents[0] + piece.continuation == text[:50]
        assert not piece.answers
    tests = make_dev_set(data.dev, data.dev_sources, maker, recipe(questions=0, continue_tokens=10, **plain))
    assert tests.questions == ()
    assert all("continuation" in [branch.kind for branch in row.branches] for batch in tests.batches for row in batch)
    lines = [json.dumps({"text": text}) for source in sources for text in source.contexts]
    dev.write_text("".join(f"{line}\n" for line in lines))
    assert all(len(piece.documents[0]) <= 40 for piece in read(path, maker, dev, questions=0, **plain).dev)
    with pytest.raises(DataError, match=r"none of 6 records can be evaluated on, those longer than"):
        read(path, maker, dev, **plain)  # a question may be about any of the passages


def test_long_records_with_questions_and_excluded_sources_are_left_out(tmp_path: Path, maker: ExampleMaker) -> None:
    long, short = " ".join(WORDS * 8), " ".join(WORDS[:6])
    rows: list[dict[str, Any]] = [
        {"context": long, "qas": [{"question": "who?", "answers": ["fox"]}]},
        {"contexts": [long, short]},
        {"context": short, "source": "zh_news"},
        {"context": short, "source": "news"},
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = read(path, maker, exclude_sources="zh_,subjqa")
    assert len(data.train) == 1
    assert data.left_out == 2


def test_data_without_anything_to_train_on_is_refused_with_the_remedy(tmp_path: Path, maker: ExampleMaker) -> None:
    path = tmp_path / "short.jsonl"
    path.write_text(json.dumps({"context": "a"}) + "\n")
    with pytest.raises(DataError, match=r"short.jsonl: none of 1 records .* raise max_context_tokens=96"):
        read(path, maker)


def test_unigram_counts_are_those_of_a_loop() -> None:
    texts = records(5)
    counts = Counter(token for record in texts for document in record.documents for token in document)
    expected = torch.tensor([counts[i] for i in range(60)])
    assert torch.equal(unigram_counts(texts, 60), expected)


def test_answer_rates_count_a_word_with_and_without_the_space_before_it_as_one(maker: ExampleMaker) -> None:
    tokenizer = maker.tokenizer
    context = "Paris and the treaty, the treaty of Paris"
    record = maker.tokenize(
        Record(
            id="0",
            contexts=(context,),
            qas=(QA(id="0", question="Where?", answers=("Paris",)),),
            summary=None,
            short_summary=None,
            source="",
            lang=None,
        )
    )
    counts = unigram_counts([record], len(tokenizer))
    rates = answer_rates([record], counts, tokenizer)
    document, (_, target) = record.documents[0], record.answers[0]
    usual = len(target) / len(document)
    names = [tokenizer.decode([i]).strip() for i in range(len(tokenizer))]

    def expected(token: int) -> float:
        same = [i for i, name in enumerate(names) if name == names[token]]
        asked, seen = (sum(list(ids).count(i) for i in same) for ids in (target, document))
        return min((asked + 50 * usual) / (seen + 50), 1.0)

    for token in {*document, *target}:
        assert float(rates[token]) == pytest.approx(expected(token))
    assert (answer_rates([], counts, tokenizer) == 1).all()  # without questions all are alike


def test_the_digest_is_of_the_data_and_not_of_the_name_of_its_file(maker: ExampleMaker, tmp_path: Path) -> None:
    first = write_data(tmp_path / "first.jsonl")
    second = tmp_path / "second.jsonl"
    second.write_bytes(first.read_bytes())
    other = write_data(tmp_path / "other.jsonl", seed=1)
    digests = [read_data([str(path)], None, recipe(), maker).digest for path in (first, second, other)]
    assert digests[0] == digests[1] != digests[2]


def test_a_dev_set_of_which_nothing_fits_is_refused(maker: ExampleMaker, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data.jsonl")
    dev = write_data(tmp_path / "dev.jsonl", 3, words=(200, 300))
    with pytest.raises(DataError, match=r"none of 3 records can be evaluated on"):
        read_data([str(data)], str(dev), recipe(), maker)
