"""Which questions of a set are asked: filters, draw, joining, kinds, and the account of what is not asked."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentpress.errors import DataError, InputError
from latentpress.evaluation.datasets import Dataset, Dropped, Selection, read_dataset
from latentpress.evaluation.sources import Source, find_source

SAMPLE = Path(__file__).parents[1] / "samples" / "squad_sample.jsonl"


def words(text: str) -> int:
    return len(text.split())


def write(path: Path, rows: list[Any]) -> Source:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return find_source(str(path))


def read(source: Source, count_tokens: Callable[[str], int] = words, **selection: Any) -> Dataset:
    return read_dataset(source, count_tokens=count_tokens, selection=Selection(**selection))


def row(text: str, *answers: str, question: str = "Who?", **more: Any) -> dict[str, Any]:
    return {"context": text, "qas": [{"question": f"{question}", "answers": list(answers or ("x",))}], **more}


@pytest.fixture
def many(tmp_path: Path) -> Source:
    """Forty contexts of 1 to 40 words with two questions each."""
    rows = [
        {
            "context": " ".join([f"word{i}"] * (i + 1)),
            "qas": [{"id": f"{i}-{j}", "question": f"{i} {j}?", "answers": ["x"]} for j in range(2)],
        }
        for i in range(40)
    ]
    return write(tmp_path / "many.jsonl", rows)


def ids(dataset: Dataset) -> list[str]:
    return [question.id for question in dataset.questions]


def test_the_sample_of_squad_is_read_whole() -> None:
    dataset = read(find_source(str(SAMPLE)))
    rows = [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]
    expected = {(qa["id"], row["context"], qa["question"], tuple(qa["answers"])) for row in rows for qa in row["qas"]}
    assert {(q.id, q.text, q.question, q.answers) for q in dataset.questions} == expected
    assert len(dataset.questions) == len(expected) == 178
    assert {(q.dataset, q.kind, q.lang) for q in dataset.questions} == {("squad_sample", "span", None)}
    assert (dataset.name, dataset.place, str(dataset.dropped)) == ("squad_sample", str(SAMPLE), "none")


def test_a_smaller_limit_is_the_beginning_of_a_larger_one_and_of_all(many: Source) -> None:
    every = ids(read(many, seed=3))
    assert sorted(every) == sorted(f"{i}-{j}" for i in range(40) for j in range(2))
    for limit in (1, 20, 50, 80, 200):
        dataset = read(many, seed=3, limit=limit)
        assert ids(dataset) == every[:limit]
        assert dataset.dropped.not_drawn == max(0, 80 - limit)
    assert every != ids(read(many, seed=4))
    assert every != sorted(every)


def test_the_draw_reaches_all_of_a_set_alike(many: Source) -> None:
    drawn = Counter(name for seed in range(200) for name in ids(read(many, seed=seed, limit=20)))
    assert len(drawn) == 80  # each is expected 50 times, with a deviation of 6
    assert 25 < min(drawn.values()) <= max(drawn.values()) < 75


def test_the_draw_and_the_digest_do_not_depend_on_name_form_order_or_compression(tmp_path: Path) -> None:
    rows = json.loads(json.dumps([row(f"text {i}", question=f"{i}?") for i in range(20)]))
    plain = read(write(tmp_path / "plain.jsonl", rows), limit=8)
    other = tmp_path / "other.gz"
    flat = [{"context": one["context"], "question": one["qas"][0]["question"], "answer": "x"} for one in rows[::-1]]
    other.write_bytes(gzip.compress("\n".join(map(json.dumps, flat)).encode()))
    again = read(find_source(str(other)), limit=8)
    assert [q.question for q in plain.questions] == [q.question for q in again.questions]
    assert plain.digest == again.digest
    assert len(plain.digest) == 64


@pytest.mark.parametrize("change", [{"context": "other"}, {"question": "other?"}, {"answers": ["y"]}])
def test_the_digest_changes_with_context_question_and_answers(tmp_path: Path, change: dict[str, Any]) -> None:
    one = {"context": "text", "question": "Who?", "answers": ["x"]}
    digests = {
        read(write(tmp_path / f"{i}.jsonl", [rows])).digest
        for i, rows in enumerate([one, one | {"id": "z"}, one | change])
    }
    assert len(digests) == 2


def test_a_filter_leaves_the_order_of_the_others(many: Source) -> None:
    every = read(many)
    some = read(many, min_tokens=10, max_tokens=20)
    assert list(some.questions) == [q for q in every.questions if 10 <= words(q.text) <= 20]
    assert some.dropped == Dropped(too_short=18, too_long=40)
    assert str(some.dropped) == "18 with too short a context, 40 with too long a context"


def test_lengths_are_counted_once_a_context_and_only_when_asked_for(many: Source) -> None:
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return words(text)

    read(many, count)
    assert not counted
    read(many, count, max_tokens=20, limit=3)
    assert len(counted) == len(set(counted)) == 40


def test_tokens_of_all_documents_of_a_question_count(tmp_path: Path) -> None:
    several = {"contexts": ["one two", "three four"], "question": "Who?", "answer": "x"}
    source = write(tmp_path / "a.jsonl", [several, row("one two")])
    assert read(source, max_tokens=3).dropped.too_long == 1
    assert read(source, min_tokens=4).questions[0].contexts == ("one two", "three four")


def test_what_is_dropped_is_counted_by_reason(tmp_path: Path) -> None:
    qas: list[dict[str, Any]] = [
        {"question": "a?", "answers": [], "is_impossible": True},
        {"question": "b?", "answers": []},
        {"question": "c?", "answers": []},
    ]
    rows = [{"context": "one two", "qas": qas}, row("one"), *(row(f"one two {i}") for i in range(1003))]
    dropped = read(write(tmp_path / "a.jsonl", rows), min_tokens=2, limit=1).dropped
    assert dropped == Dropped(impossible=1, unanswered=2, too_short=1, not_drawn=1002)
    assert str(dropped) == (
        "1 marked as impossible, 2 without an answer, 1 with too short a context, 1,002 beyond the limit"
    )


def test_ids_are_unique_also_where_a_set_repeats_them(tmp_path: Path) -> None:
    names = ["a", "a#2", "a", "a", "b"]
    rows = [{"id": name, "context": f"text {i}", "question": "Who?", "answer": "x"} for i, name in enumerate(names)]
    dataset = read(write(tmp_path / "a.jsonl", rows))
    assert {q.text: q.id for q in dataset.questions} == {
        "text 0": "a",
        "text 1": "a#2",
        "text 2": "a#3",
        "text 3": "a#4",
        "text 4": "b",
    }


def test_neighbouring_contexts_are_joined_up_to_the_limit_with_all_their_questions(tmp_path: Path) -> None:
    rows = [
        row("one two", question="1?"),
        {"context": "three"},  # without a question it is text among the others
        row("four five six", question="2?"),
        row("a b c d e f g", question="long?"),
        {"contexts": ["eight", "nine"], "question": "3?", "answer": "x"},
        row("ten", question="4?"),
    ]
    dataset = read(write(tmp_path / "a.jsonl", rows), join=5)
    assert {q.question: q.contexts for q in dataset.questions} == {
        "1?": ("one two\n\nthree",),
        "2?": ("four five six",),
        "long?": ("a b c d e f g",),  # longer than the limit: alone
        "3?": ("eight\n\nnine\n\nten",),
        "4?": ("eight\n\nnine\n\nten",),
    }


def test_filters_judge_joined_documents(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [row(f"one {i}", question=f"{i}?") for i in range(5)])
    dataset = read(source, join=4, min_tokens=3)
    assert dataset.dropped.too_short == 1
    assert {q.text for q in dataset.questions} == {"one 0\n\none 1", "one 2\n\none 3"}


def test_a_context_of_several_rows_stands_once_in_a_joined_document(tmp_path: Path) -> None:
    flat = [{"context": text, "question": f"{i}?", "answer": "x"} for i, text in enumerate(["a b", "a b", "c"])]
    dataset = read(write(tmp_path / "a.jsonl", flat), join=10)
    assert {q.contexts for q in dataset.questions} == {("a b\n\nc",)}
    assert len(dataset.questions) == 3


def test_long_answers_make_a_set_of_summaries_whatever_is_filtered(tmp_path: Path) -> None:
    long = " ".join(["word"] * 21)
    rows = [row("short text", "x"), row("a b c", long, question="1?"), row("a b d", long, "x", question="2?")]
    source = write(tmp_path / "a.jsonl", rows)
    assert {q.kind for q in read(source).questions} == {"summary"}
    assert read(source, max_tokens=2).questions[0].kind == "summary"
    twenty = [row("text", " ".join(["word"] * 20), question=f"{i}?") for i in range(3)]
    assert {q.kind for q in read(write(tmp_path / "b.jsonl", twenty)).questions} == {"span"}
    chinese = [row("文", "红楼梦是一部很长的小说" * 2, question=f"{i}？") for i in range(3)]
    assert {q.kind for q in read(write(tmp_path / "c.jsonl", chinese)).questions} == {"summary"}


def test_letters_answer_a_choice_only_where_options_are_listed(tmp_path: Path) -> None:
    options = "Why?\nA. this\nB. that"
    rows = [
        row("1", "B", question=options),
        row("2", "A", "B", question=options),
        row("3", "B", question="Which vitamin?"),
        row("4", "that", question=options),
        row("5", "BC", question=options),
        row("6", "b", question=options),
    ]
    dataset = read(write(tmp_path / "a.jsonl", rows))
    assert {q.text for q in dataset.questions if q.kind == "choice"} == {"1", "2"}


def test_choices_do_not_keep_the_long_answers_of_a_set_from_being_summaries(tmp_path: Path) -> None:
    choices = [row(f"{i}", "A", question="Why?\nA. this\nB. that") for i in range(5)]
    dataset = read(write(tmp_path / "a.jsonl", [*choices, row("long", " ".join(["word"] * 30))]))
    assert Counter(q.kind for q in dataset.questions) == {"choice": 5, "summary": 1}


def test_the_language_is_the_rows_or_that_of_the_question(tmp_path: Path) -> None:
    rows = [
        row("1", "1268", question="哪一年？"),
        row("2", "铁木真", question="What is his name in Chinese?"),
        row("3", "x", question="Wer?", lang="de"),
        row("4", "红", question="谁？", lang="zh-TW"),
    ]
    source = write(tmp_path / "a.jsonl", rows)
    assert {q.text: q.lang for q in read(source).questions} == {"1": "zh", "2": None, "3": "de", "4": "zh-TW"}
    assert {q.lang for q in read(source, join=100).questions} == {"zh", None}  # the document is of several languages


def test_a_set_without_questions_or_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds 1 contexts and no question with an answer \(left out: none\)"):
        read(write(tmp_path / "a.jsonl", [{"text": "only text"}]))
    with pytest.raises(DataError, match=r"no question with an answer \(left out: 1 without an answer\)"):
        read(write(tmp_path / "b.jsonl", [{"context": "text", "qas": [{"question": "Who?", "answers": []}]}]))


def test_a_selection_that_leaves_nothing_says_what_dropped_everything(many: Source) -> None:
    with pytest.raises(InputError, match=r"'many' .* no question left \(left out: 80 with too short a context\)"):
        read(many, min_tokens=41)
    with pytest.raises(InputError, match="contexts of 0 to 5 tokens are asked for: widen the limits"):
        read(many, lambda text: 6, max_tokens=5)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"limit": 0}, "limit 0 is below 1"),
        ({"join": -1}, "join -1 is below 1"),
        ({"min_tokens": -1}, "contexts of -1 to any number of tokens are none"),
        ({"max_tokens": 0}, "contexts of 0 to 0 tokens are none"),
        ({"min_tokens": 5, "max_tokens": 4}, "contexts of 5 to 4 tokens are none"),
    ],
)
def test_selections_that_cannot_be_met_are_refused(selection: dict[str, int], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        Selection(**selection)


def test_a_question_knows_the_source_of_its_record_and_is_the_same_without(tmp_path: Path) -> None:
    rows = [row("one two", genre="book"), row("three four", source="wiki"), row("five six")]
    told = read(write(tmp_path / "a.jsonl", rows))
    sources = {one.contexts[0]: one.source for one in told.questions}
    assert sources == {"one two": "book", "three four": "wiki", "five six": "a"}
    plain = read(write(tmp_path / "b.jsonl", [row("one two"), row("three four"), row("five six")]))
    assert told.digest == plain.digest
    assert [one.digest for one in told.questions] == [one.digest for one in plain.questions]
    (joined,) = {one.source for one in read(write(tmp_path / "c.jsonl", rows[:2]), join=9).questions}
    assert joined == "several"
