"""Sets of every published form are read to the same records, told by what is in them."""

import gzip
import json
import lzma
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from latentpress.errors import DataError
from latentpress.evaluation.formats import Content, read_content

# The same two contexts and three questions in each form.
PROJECT = [
    {"context": "Denver won.", "qas": [{"id": "a", "question": "Who?", "answers": ["Denver", "the Broncos"]}]},
    {
        "context": "It rained.",
        "qas": [
            {"id": "b", "question": "What?", "answers": "rain"},
            {"id": "c", "question": "When?", "answers": ["then"]},
        ],
    },
]
MRQA = [
    {"header": {"dataset": "SQuAD", "split": "dev"}},
    {
        "id": "",
        "context": "Denver won.",
        "context_tokens": [["Denver", 0], ["won", 7]],
        "qas": [
            {
                "qid": "a",
                "question": "Who?",
                "question_tokens": [["Who", 0]],
                "answers": ["Denver", "the Broncos", "Denver"],
                "detected_answers": [{"text": "Denver", "char_spans": [[0, 5]], "token_spans": [[0, 0]]}],
            }
        ],
    },
    {
        "context": "It rained.",
        "qas": [
            {"qid": "b", "question": "What?", "answers": [], "detected_answers": [{"text": "rain"}]},
            {"qid": "c", "question": "When?", "answers": ["then"], "detected_answers": []},
        ],
    },
]
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Sport",
            "paragraphs": [
                {
                    "context": "Denver won.",
                    "qas": [
                        {
                            "id": "a",
                            "question": "Who?",
                            "answers": [
                                {"text": "Denver", "answer_start": 0},
                                {"text": "the Broncos", "answer_start": 0},
                                {"text": "Denver", "answer_start": 0},
                            ],
                            "is_impossible": False,
                        }
                    ],
                }
            ],
        },
        {
            "title": "Weather",
            "paragraphs": [
                {
                    "context": "It rained.",
                    "qas": [
                        {"id": "b", "question": "What?", "answers": [{"text": "rain", "answer_start": 3}]},
                        {"id": "c", "question": "When?", "answers": [{"text": "then", "answer_start": 0}]},
                    ],
                }
            ],
        },
    ],
}
FLAT = [
    {"id": "a", "context": "Denver won.", "question": "Who?", "answers": ["Denver", "the Broncos"]},
    {"qid": "b", "context": "It rained.", "question": "What?", "answer": "rain"},
    {"id": "c", "context": "It rained.", "question": "When?", "answers": {"text": ["then"], "answer_start": [0]}},
]


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(path: Path, rows: list[Any]) -> str:
    path.write_text(lines(rows), encoding="utf-8")
    return str(path)


def message(place: str, **more: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_content(place, **more)
    return str(caught.value)


def asked(content: Content) -> list[tuple[tuple[str, ...], str, str, tuple[str, ...]]]:
    return [(record.contexts, qa.id, qa.question, qa.answers) for record in content.records for qa in record.qas]


EXPECTED = [
    (("Denver won.",), "a", "Who?", ("Denver", "the Broncos")),
    (("It rained.",), "b", "What?", ("rain",)),
    (("It rained.",), "c", "When?", ("then",)),
]


@pytest.mark.parametrize(
    "text",
    [lines(PROJECT), lines(MRQA), lines([SQUAD]), json.dumps(SQUAD, indent=2), lines(FLAT), "\n" + lines(MRQA[1:])],
    ids=["project", "mrqa", "squad", "squad over lines", "flat", "mrqa without its header"],
)
@pytest.mark.parametrize("name", ["set.jsonl", "set.json", "set.txt"])
def test_every_form_holds_the_same_questions_whatever_the_file_is_called(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    content = read_content(str(tmp_path / name))
    assert asked(content) == EXPECTED
    assert len(content.records) == 2
    assert (content.impossible, content.unanswered) == (0, 0)


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, lambda data: b"\xef\xbb\xbf" + data])
@pytest.mark.parametrize("text", [lines(MRQA), json.dumps(SQUAD, indent=1)], ids=["lines", "object"])
def test_compression_and_byte_order_marks_are_told_by_content(
    tmp_path: Path, compress: Callable[[bytes], bytes], text: str
) -> None:
    (tmp_path / "set").write_bytes(compress(text.encode()))
    assert asked(read_content(str(tmp_path / "set"))) == EXPECTED


def test_questions_without_an_answer_are_counted_and_left_out_and_their_contexts_stay(tmp_path: Path) -> None:
    qas = [
        {"id": "i", "question": "Why?", "answers": [], "is_impossible": True},
        {"id": "j", "question": "How?", "answers": [{"text": "so"}], "is_impossible": True},
        {"id": "k", "question": "Where?", "answers": []},
        {"id": "l", "question": "Whose?"},
        {"id": "m", "question": "Which?", "answers": ["", " "]},
        {"id": "n", "question": "Who?", "answers": [" ", "we"]},
    ]
    rows = [{"context": "Text.", "qas": qas[:-1]}, {"context": "More.", "qas": qas[-1:]}, {"context": "No question."}]
    content = read_content(write(tmp_path / "set.jsonl", rows))
    assert (content.impossible, content.unanswered) == (2, 3)
    assert [record.contexts for record in content.records] == [("Text.",), ("More.",), ("No question.",)]
    assert [(qa.id, qa.answers) for record in content.records for qa in record.qas] == [("n", ("we",))]


def test_rows_about_one_context_become_one_record_wherever_they_stand(tmp_path: Path) -> None:
    rows = [{"context": text, "question": f"{i}?", "answer": "x"} for i, text in enumerate("ABAB")]
    content = read_content(write(tmp_path / "set.jsonl", rows))
    assert [(record.contexts, [qa.question for qa in record.qas]) for record in content.records] == [
        (("A",), ["0?", "2?"]),
        (("B",), ["1?", "3?"]),
    ]


def test_several_documents_languages_and_missing_ids_are_kept_as_records_have_them(tmp_path: Path) -> None:
    rows = [
        {"contexts": ["A", "B"], "lang": "de", "question": "Was?", "answer": "x"},
        {"context": "C", "qas": [{"question": "Wer?", "answers": "y", "id": 7}, {"question": "Wo?", "answers": "z"}]},
    ]
    first, second = read_content(write(tmp_path / "some.set.jsonl", rows)).records
    assert (first.contexts, first.lang, first.qas[0].id) == (("A", "B"), "de", "some-1-q0")
    assert [qa.id for qa in second.qas] == ["7", "some-2-q1"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"context": "A"}, {"question": "Who?", "answer": "x"}], ":2: field 'context' is missing"),
        ([{"context": "A", "qas": [{"question": "a?"}, {"answers": ["x"]}]}], ":1: field 'qas[1].question' is missing"),
        ([{"context": "A", "question": "Who?", "answer": 7}], ":1: field 'qas[0].answers[0]' is a number"),
        ([{"context": "A", "qas": "x"}], ":1: field 'qas' is a string"),
        ([{"context": "A", "qas": [3]}], ":1: field 'qas[0]' is a number"),
        ([{"context": "A"}, [1]], ":2: is a list"),
        ([{"data": [{"paragraphs": []}, {"context": "A"}]}], ":1: data[1] has no list 'paragraphs'"),
        ([{"data": [{"paragraphs": [{"context": "A"}, {}]}]}], ":1, data[0].paragraphs[1]: field 'context' is missing"),
        ([{"header": {}}], ": holds no rows"),
        ([{"data": []}], ": holds no rows"),
        ([], ": holds no rows"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(tmp_path: Path, rows: list[Any], expected: str) -> None:
    place = write(tmp_path / "set.jsonl", rows)
    assert message(place).startswith(place + expected)


def test_files_that_are_no_json_missing_or_cut_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{\n"data": [\n', encoding="utf-8")
    assert message(str(broken)).startswith(f"{broken}:1: not JSON")
    several = tmp_path / "several.json"
    several.write_text('[\n{"context": "A"}\n]', encoding="utf-8")
    assert message(str(several)).startswith(f"{several}:1: not JSON")
    assert "no such file" in message(str(tmp_path / "none.jsonl"))
    assert "is a folder" in message(str(tmp_path))
    cut = tmp_path / "cut.jsonl.xz"
    cut.write_bytes(lzma.compress(lines(PROJECT).encode())[:-20])
    assert "truncated" in message(str(cut))
    later = tmp_path / "later.jsonl"
    later.write_text(lines(PROJECT) + "{", encoding="utf-8")
    assert message(str(later)).startswith(f"{later}:3: not JSON")


def fake_hub(monkeypatch: pytest.MonkeyPatch, rows: list[Any], calls: list[Any]) -> None:
    module = ModuleType("datasets")

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> Iterator[Any]:
        calls.append((name, config, split, streaming))
        return iter(rows)

    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_rows_of_the_hub_as_adversarialqa_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    rows = [
        {
            "id": f"q{i}",
            "title": "Tower",
            "context": "Anna keeps the tower.",
            "question": "Who?",
            "answers": {"text": ["Anna"], "answer_start": [0]},
            "metadata": {"split": "validation", "model_in_the_loop": "Combined"},
        }
        for i in range(2)
    ]
    fake_hub(monkeypatch, rows, calls)
    (record,) = read_content("UCLNLP/adversarial_qa@adversarialQA:validation", hub=True).records
    assert [(qa.id, qa.answers) for qa in record.qas] == [("q0", ("Anna",)), ("q1", ("Anna",))]
    assert record.source == "adversarial_qa"
    assert calls == [("UCLNLP/adversarial_qa", "adversarialQA", "validation", True)]


def test_rows_of_the_hub_are_filtered_by_their_subset(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    rows = [
        {"subset": name, "qid": f"{name}-{i}", "context": f"Text {i}.", "question": "Who?", "answers": ["x"]}
        for name in ("SQuAD", "NewsQA")
        for i in range(2)
    ]
    fake_hub(monkeypatch, rows, calls)
    content = read_content("org/mrqa:validation", hub=True, subset="newsqa")
    assert [qa.id for record in content.records for qa in record.qas] == ["NewsQA-0", "NewsQA-1"]
    assert len(read_content("org/mrqa:validation", hub=True).records[0].qas) == 2
    assert calls[0] == ("org/mrqa", None, "validation", True)
    assert message("org/mrqa:validation", hub=True, subset="RACE").startswith(
        "org/mrqa:validation: holds no rows of subset 'RACE'"
    )
