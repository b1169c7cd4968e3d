"""Reading data: every layout, compression and source, and every way a line can be wrong."""

import gzip
import json
import lzma
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from latentpress.data.records import QA, Record, iter_records, read_records
from latentpress.errors import DataError, InputError

QUESTION = {"question": "Who won?", "answers": ["Denver"]}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def message(path: str | Path) -> str:
    """Returns the message of the error that reading a file ends with."""
    with pytest.raises(DataError) as caught:
        read_records(path)
    return str(caught.value)


def row_message(tmp_path: Path, row: Any) -> str:
    """Returns the message for a bad second line, without the file's name, after checking that it names the line."""
    path = write(tmp_path / "rows.jsonl", {"context": "Good."}, row)
    text = message(path)
    assert text.startswith(f"{path}:2: ")
    return text.removeprefix(f"{path}:2: ")


def test_a_full_row_is_read_field_by_field(tmp_path: Path) -> None:
    row = {
        "id": "r7",
        "source": "squad",
        "lang": "en",
        "contexts": ["One.", "Two."],
        "summary": "Both.",
        "short_summary": "2",
        "qas": [
            {"id": "q1", "question": "How many?", "answers": ["2", "two"]},
            {"question": "First?", "answers": "One"},
        ],
        "left": "ignored",
    }
    assert read_records(write(tmp_path / "a.jsonl", row)) == [
        Record(
            id="r7",
            contexts=("One.", "Two."),
            qas=(
                QA(id="q1", question="How many?", answers=("2", "two")),
                QA(id="r7-q1", question="First?", answers=("One",)),
            ),
            summary="Both.",
            short_summary="2",
            source="squad",
            lang="en",
        )
    ]


def test_what_a_row_leaves_out_is_made_from_the_file_and_line(tmp_path: Path) -> None:
    path = write(
        tmp_path / "squad.dev.jsonl", {"context": "A", "qas": [QUESTION]}, {"id": 3, "genre": "news", "context": "B"}
    )
    first, second = read_records(path)
    assert (first.id, first.source, first.qas[0].id) == ("squad-1", "squad", "squad-1-q0")
    assert (first.lang, first.summary, first.short_summary) == (None, None, None)
    assert (second.id, second.source, second.qas) == ("3", "news", ())


def test_plain_text_rows_have_one_context_and_no_questions(tmp_path: Path) -> None:
    (record,) = read_records(write(tmp_path / "t.jsonl", {"source": "books", "lang": "zh", "text": "很久以前"}))
    assert (record.contexts, record.qas, record.source, record.lang) == (("很久以前",), (), "books", "zh")


def test_null_fields_count_as_left_out(tmp_path: Path) -> None:
    row = {
        "context": "A",
        "contexts": None,
        "qas": None,
        "summary": None,
        "short_summary": None,
        "lang": None,
        "id": None,
    }
    (record,) = read_records(write(tmp_path / "n.jsonl", row))
    assert (record.contexts, record.qas, record.summary, record.id) == (("A",), (), None, "n-1")


def test_compressed_files_read_like_plain_ones_whatever_their_name(tmp_path: Path) -> None:
    rows = [{"id": f"r{index}", "context": "text " * index, "qas": [QUESTION]} for index in range(1, 20)]
    plain = read_records(write(tmp_path / "a.jsonl", *rows))
    content = (tmp_path / "a.jsonl").read_bytes()
    for name, compressed in {
        "a.jsonl.xz": lzma.compress(content),
        "a.jsonl.gz": gzip.compress(content),
        "a.json": content,
        "renamed.jsonl": lzma.compress(content),
        "two_streams.xz": lzma.compress(content[:100]) + lzma.compress(content[100:]),
        "marked.jsonl": b"\xef\xbb\xbf" + content,
        "windows.jsonl": content.replace(b"\n", b"\r\n\r\n"),
    }.items():
        (tmp_path / name).write_bytes(compressed)
        assert [record.id for record in read_records(tmp_path / name)] == [record.id for record in plain], name
        assert [record.contexts for record in read_records(tmp_path / name)] == [record.contexts for record in plain], (
            name
        )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_can_be_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b'{"context": "A"}\n{"context": "B"}\n',))
    writer.start()
    assert [record.contexts for record in read_records(pipe)] == [("A",), ("B",)]
    writer.join()


def test_a_line_separator_inside_text_does_not_end_the_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"context": "one\u2028two\x85three\x0cfour"}, {"context": "B"})
    assert [record.contexts[0] for record in read_records(path)] == ["one\u2028two\x85three\x0cfour", "B"]


def test_limit_reads_the_first_rows_and_looks_no_further(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"context": "A"}\n{"context": "B"}\nnot JSON\n')
    assert [record.contexts for record in read_records(path, limit=2)] == [("A",), ("B",)]
    assert len(list(zip(range(1), iter_records(path), strict=False))) == 1
    for limit in (0, -1):
        with pytest.raises(InputError, match=f"limit {limit} is below 1"):
            read_records(path, limit=limit)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([1], "is a list; write one JSON object a line"),
        ("text", "is a string; write one JSON object a line"),
        (None, "is null; write one JSON object a line"),
        ({"qas": [QUESTION]}, "field 'context' is missing; give 'context', 'contexts' or, for plain text, 'text'"),
        ({"context": None}, "field 'context' is missing"),
        ({"context": ""}, "field 'context' is empty or white space"),
        ({"context": " \n\u3000"}, "field 'context' is empty or white space"),
        ({"context": 7}, "field 'context' is a number; give text in quotes"),
        ({"context": ["A"]}, "field 'context' is a list; give text in quotes"),
        ({"text": ""}, "field 'text' is empty or white space"),
        ({"contexts": []}, "field 'contexts' is empty; give at least one context"),
        ({"contexts": "A"}, "field 'contexts' is a string; give a list"),
        ({"contexts": ["A", " "]}, "field 'contexts[1]' is empty or white space"),
        ({"contexts": ["A", None]}, "field 'contexts[1]' is null"),
        ({"context": "A", "contexts": ["B"]}, "field 'contexts' stands beside 'context'; keep one of the two"),
        ({"context": "A", "qas": QUESTION}, "field 'qas' is an object; give a list of {question, answers}"),
        ({"context": "A", "qas": ["Who?"]}, "field 'qas[0]' is a string; give an object with question and answers"),
        ({"context": "A", "qas": [QUESTION, {"answers": ["x"]}]}, "field 'qas[1].question' is missing"),
        ({"context": "A", "qas": [{"question": " ", "answers": ["x"]}]}, "field 'qas[0].question' is empty"),
        ({"context": "A", "qas": [{"question": "Who?"}]}, "field 'qas[0].answers' is missing; give it"),
        (
            {"context": "A", "qas": [{"question": "Who?", "answers": []}]},
            "field 'qas[0].answers' is empty; give at least one answer",
        ),
        ({"context": "A", "qas": [{"question": "Who?", "answers": ["x", ""]}]}, "field 'qas[0].answers[1]' is empty"),
        ({"context": "A", "qas": [{"question": "Who?", "answers": ""}]}, "field 'qas[0].answers[0]' is empty"),
        ({"context": "A", "qas": [{"question": "When?", "answers": [1990]}]}, "field 'qas[0].answers[0]' is a number"),
        (
            {"context": "A", "qas": [{"question": "Who?", "answers": {"text": ["x"]}}]},
            "field 'qas[0].answers[0]' is an object",
        ),
        ({"context": "A", "qas": [{**QUESTION, "id": True}]}, "field 'qas[0].id' is true or false"),
        ({"context": "A", "id": []}, "field 'id' is a list"),
        ({"context": "A", "summary": 3.5}, "field 'summary' is a number"),
        ({"context": "A", "short_summary": ""}, "field 'short_summary' is empty or white space"),
        ({"context": "A", "lang": ["en"]}, "field 'lang' is a list"),
        ({"context": "A", "source": {}}, "field 'source' is an object"),
    ],
)
def test_a_bad_row_is_named_with_its_line_field_and_remedy(tmp_path: Path, row: Any, expected: str) -> None:
    assert row_message(tmp_path, row).startswith(expected)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{'context': 'A'}", "not JSON (Expecting property name"),
        (b'{"context": "A"', "not JSON"),
        (b'{"context": "A"} {"context": "B"}', "not JSON (Extra data at column 18)"),
        (b"[" * 100_000, "JSON that cannot be used"),
        (b'{"id": ' + b"9" * 5000 + b"}", "JSON that cannot be used"),
        (b'{"context": "\xff"}', "byte 14 of the line is not UTF-8; save the file as UTF-8"),
        (b'{"context": "\x00"}', "holds a zero byte, so it is binary or UTF-16; give JSON lines in UTF-8"),
        (b'{"context": "a\\ud83d"}', "field 'context' holds half a surrogate pair at character 2"),
    ],
)
def test_a_line_that_is_no_json_text_is_named(tmp_path: Path, line: bytes, expected: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"context": "A"}\n\n' + line + b"\n")
    assert message(path).startswith(f"{path}:3: {expected}")


def test_utf_16_and_binary_files_are_refused(tmp_path: Path) -> None:
    for content in ('{"context": "A"}\n'.encode("utf-16"), b"\x89PNG\r\n\x1a\n\x00\x00", bytes(range(256))):
        (tmp_path / "b.jsonl").write_bytes(content)
        assert "UTF-8" in message(tmp_path / "b.jsonl")


def test_files_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    for name, content in {"a.jsonl": b"", "b.jsonl": b"\n \n", "c.jsonl.xz": lzma.compress(b""), "d.xz": b""}.items():
        (tmp_path / name).write_bytes(content)
        assert message(tmp_path / name) == f"{tmp_path / name}: holds no rows; give one JSON object a line"


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert message(tmp_path / "a.jsonl").startswith(f"{tmp_path / 'a.jsonl'}: no such file")
    assert message("data/no-such.jsonl").startswith("data/no-such.jsonl: no such file")
    write(tmp_path / "train.jsonl", {"context": "A"})
    assert message(tmp_path) == f"{tmp_path}: is a folder; give one of its data files (train.jsonl)"


@pytest.mark.parametrize("suffix", [".xz", ".gz"])
def test_a_truncated_or_damaged_compressed_file_is_refused(tmp_path: Path, suffix: str) -> None:
    compress = lzma.compress if suffix == ".xz" else gzip.compress
    content = compress("".join(json.dumps({"context": f"text {index**5}"}) + "\n" for index in range(3000)).encode())
    path = tmp_path / f"a.jsonl{suffix}"
    for length in (1, 5, 13, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert "truncated or damaged" in message(path), length
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    text = message(path)
    assert text.startswith(f"{path}:"), text
    path.write_bytes(b'{"context": "plain text under a compressed name"}\n')
    assert "truncated or damaged" in message(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"context": "A"})
    path.chmod(0)
    assert "Permission denied" in message(path)


def fake_hub(monkeypatch: pytest.MonkeyPatch, rows: Iterator[Any], calls: list[Any]) -> None:
    module = ModuleType("datasets")

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> Iterator[Any]:
        calls.append((name, config, split, streaming))
        return rows

    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_hub_id_is_streamed_and_its_split_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    fake_hub(monkeypatch, iter([{"context": "A", "qas": [QUESTION]}, {"context": "B"}]), calls)
    records = read_records("org/some-set:validation")
    assert [record.id for record in records] == ["some-set-1", "some-set-2"]
    fake_hub(monkeypatch, iter([{"context": "A"}]), calls)
    assert read_records("org/some-set", limit=1)[0].source == "some-set"
    fake_hub(monkeypatch, iter([{"context": "A"}]), calls)
    assert read_records("org/some-set@one.part:test")[0].id == "some-set-1"
    assert calls == [
        ("org/some-set", None, "validation", True),
        ("org/some-set", None, "train", True),
        ("org/some-set", "one.part", "test", True),
    ]


def test_a_file_on_disk_comes_before_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    write(tmp_path / "org" / "name", {"context": "A"})
    assert len(read_records("org/name")) == 1
    assert message("org/typo").startswith("org/typo: no such file; give a .jsonl file")


def test_without_the_datasets_package_the_hub_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'latentpress[hub]'" in message("org/name")


def test_errors_of_the_hub_name_the_row_and_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Iterator[Any]:
        yield {"context": "A"}
        raise RuntimeError("connection lost\nstack")

    fake_hub(monkeypatch, rows(), [])
    assert message("org/name:dev").startswith(
        "org/name:dev:2: no such file, and split 'dev' could not be read from the hub (connection lost)"
    )
    fake_hub(monkeypatch, iter([{"context": "A"}, {"context": ""}]), [])
    assert message("org/name:dev").startswith("org/name:dev:2: field 'context' is empty")
    fake_hub(monkeypatch, iter([]), [])
    assert message("org/name") == "org/name: holds no rows; give one JSON object a line"
