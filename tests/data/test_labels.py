"""Files of density labels are read as they were written, and what is no label is refused with its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentpress.data.labels import DensityLabel, label_lines, read_labels, text_digest
from latentpress.errors import DataError

HEADER = {"source": "fidelity", "made_by": {"press": "tiny"}}


def label(text: str, value: float, **changes: Any) -> DensityLabel:
    values = {"id": f"about {text}", "source": "fidelity", "tokens": 7, "genre": "wiki", "details": {"questions": 2}}
    return DensityLabel(log2_ratio=value, sha256=text_digest(text), **{**values, **changes})


def write(path: Path, *labels: DensityLabel) -> Path:
    path.write_text(label_lines(HEADER, labels), encoding="utf-8")
    return path


def change(path: Path, edit: Callable[[list[dict[str, Any]]], object]) -> Path:
    """Edits the objects of a file, the header first."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    edit(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_labels_are_read_as_they_were_written(tmp_path: Path) -> None:
    labels = (label("one", 1.5), label("zwei", 0.0, genre="书"))
    read = read_labels(write(tmp_path / "labels.jsonl", *labels))
    assert read.source == "fidelity"
    assert read.header["made_by"] == {"press": "tiny"}
    assert read.labels == {one.sha256: one for one in labels}


def test_the_digest_is_of_labels_and_texts_in_any_order(tmp_path: Path) -> None:
    one, two = label("one", 1.5), label("two", 2.5)
    digest = read_labels(write(tmp_path / "a.jsonl", one, two)).digest
    assert read_labels(write(tmp_path / "b.jsonl", two, label("one", 1.5, id="renamed", details={}))).digest == digest
    assert read_labels(write(tmp_path / "c.jsonl", one, label("two", 2.6))).digest != digest
    assert read_labels(write(tmp_path / "d.jsonl", one, label("three", 2.5))).digest != digest


def test_two_lines_of_one_text_must_agree(tmp_path: Path) -> None:
    agreeing = write(tmp_path / "a.jsonl", label("one", 1.5), label("one", 1.5, id="again"))
    assert [one.id for one in read_labels(agreeing).labels.values()] == ["about one"]
    differing = write(tmp_path / "b.jsonl", label("one", 1.5), label("two", 2.0), label("one", 1.25, id="again"))
    with pytest.raises(
        DataError, match=r"b.jsonl:4: record 'again' has the text of record 'about one'.*1.25, there 1.5"
    ):
        read_labels(differing)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5])
def test_a_label_that_is_no_log2_ratio_is_refused(tmp_path: Path, value: float) -> None:
    path = write(tmp_path / "labels.jsonl", label("one", 1.5))
    change(path, lambda lines: lines[1].update(log2_ratio=value))
    with pytest.raises(DataError, match=rf"labels.jsonl:2: record 'about one' has log2_ratio {value:g}, which must be"):
        read_labels(path)


@pytest.mark.parametrize(
    ("field", "value"), [("log2_ratio", None), ("log2_ratio", True), ("sha256", 3), ("tokens", 1.5)]
)
def test_a_field_of_the_wrong_type_is_named(tmp_path: Path, field: str, value: Any) -> None:
    path = change(write(tmp_path / "labels.jsonl", label("one", 1.5)), lambda lines: lines[1].update({field: value}))
    with pytest.raises(DataError, match=rf"labels.jsonl:2: field '{field}' is {value!r}"):
        read_labels(path)


def test_other_files_are_no_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    write(path, label("one", 1.5))
    whole = path.read_text(encoding="utf-8")
    for content, said in (
        ('{"context": "a record"}\n', "1: is no header of density labels"),
        ("[1]\n", "1: is no header of density labels"),
        (whole.replace('"latentpress_labels": 1', '"latentpress_labels": 9'), "1: has version 9"),
        (
            whole.replace('{"latentpress_labels": 1, "source": "fidelity"', '{"latentpress_labels": 1, "source": "x"'),
            "1: has source 'x'",
        ),
        (whole.splitlines()[0] + "\n", "holds no labels"),
        (whole[:-20], "2: not JSON"),
        (whole + "7\n", "3: is no JSON object"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=said):
            read_labels(path)
    with pytest.raises(DataError, match="no such file"):
        read_labels(tmp_path / "missing.jsonl")


@pytest.mark.parametrize("tokens", [0, -3])
def test_a_label_of_no_tokens_is_refused(tmp_path: Path, tokens: int) -> None:
    path = change(write(tmp_path / "labels.jsonl", label("one", 1.5)), lambda lines: lines[1].update(tokens=tokens))
    with pytest.raises(DataError, match=rf"labels.jsonl:2: record 'about one' has {tokens} tokens"):
        read_labels(path)


def test_a_whole_number_beyond_all_bounds_is_no_label(tmp_path: Path) -> None:
    path = change(
        write(tmp_path / "labels.jsonl", label("one", 1.5)), lambda lines: lines[1].update(log2_ratio=10**400)
    )
    with pytest.raises(DataError, match=r"labels.jsonl:2: record 'about one' has log2_ratio inf, which must be"):
        read_labels(path)
