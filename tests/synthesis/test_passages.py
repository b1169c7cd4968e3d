"""Passages: their lengths, where they end, and texts that say the same twice."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
from teacher_server import document, write_corpus
from transformers import PreTrainedTokenizerFast

from latentpress.errors import DataError, InputError
from latentpress.synthesis.corpus import Corpus, read_corpus
from latentpress.synthesis.groups import _blocks, related_groups
from latentpress.synthesis.likeness import SeenTexts, language_of, script_of
from latentpress.synthesis.passages import Cutter, Passage
from latentpress.synthesis.settings import Plan

CHINESE = "条约于一九四五年五月一日在巴黎签署。" * 3 + "参加者来自十二个国家，其中包括法国！" * 4


@pytest.fixture
def cutter(tiny_tokenizer: PreTrainedTokenizerFast) -> Cutter:
    return Cutter(tiny_tokenizer, 60, 300, 0)


@pytest.fixture
def read(cutter: Cutter) -> Callable[..., Corpus]:
    def run(*corpora: Path | str, **settings: object) -> Corpus:
        lengths = {"min_passage_tokens": 60, "max_passage_tokens": 300}
        return read_corpus(Plan(corpora=tuple(map(str, corpora)), **lengths, **settings), cutter)  # type: ignore[arg-type]

    return run


def test_every_passage_has_a_length_that_is_allowed_and_stands_in_its_document(cutter: Cutter) -> None:
    text = "\n\n".join(document(i, sentences=5 + i) for i in range(12))
    pieces = cutter.cut(text, "a")
    assert len(pieces) > 10
    assert all(60 <= cutter.count(piece) <= 300 for piece in pieces)
    at = 0
    for piece in pieces:
        at = text.index(piece, at) + len(piece)
    lengths = [cutter.count(piece) for piece in pieces]
    assert min(lengths) < 150 < max(lengths)
    assert sum(map(len, pieces)) > 0.9 * len(text)


def test_a_passage_ends_with_a_sentence_in_either_language(cutter: Cutter) -> None:
    for text in ("\n".join(document(i) for i in range(6)), CHINESE * 6):
        pieces = cutter.cut(text, "a")
        assert len(pieces) > 3
        assert all(piece.endswith((".", "。", "！")) for piece in pieces)


def test_a_sentence_that_is_too_long_is_cut_all_the_same(cutter: Cutter) -> None:
    for text in (" ".join(f"word{i}" for i in range(600)), "条" * 900):
        pieces = cutter.cut(text, "a")
        assert sum(map(len, pieces)) > 0.8 * len(text)
        assert all(cutter.count(piece) <= 300 for piece in pieces)


def test_the_cut_of_a_document_depends_on_the_seed_and_its_name_only(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    text = " ".join(document(i) for i in range(8))
    one, other = (Cutter(tiny_tokenizer, 60, 300, seed) for seed in (0, 1))
    assert one.cut(text, "a") == one.cut(text, "a")
    assert one.cut(text, "a") != one.cut(text, "b")
    assert one.cut(text, "a") != other.cut(text, "a")


def test_a_document_that_is_too_short_gives_nothing(cutter: Cutter) -> None:
    assert cutter.cut("A few words.", "a") == []


def test_language_is_told_by_the_script() -> None:
    assert [language_of(text) for text in (document(1), CHINESE, "1990", "The 条约 of May was signed by all")] == [
        "en",
        "zh",
        "en",
        "en",
    ]
    assert [language_of(text) for text in ("CPU 缓存 分 L1 L2", "条約はパリで署名された。", "조약은 파리에서")] == [
        "zh",
        "ja",
        "ko",
    ]


def test_a_passage_is_in_the_script_of_most_of_its_letters() -> None:
    assert [script_of(text) for text in ("Grüße, ﬁne", "Договор of 1990", "وقع", "πέτρα", "12, 13", "ｆｕｌｌ")] == [
        "LATIN",
        "CYRILLIC",
        "ARABIC",
        "GREEK",
        None,
        "LATIN",
    ]
    program = "缓存 " + "for each one of the items in the list print it " * 2
    assert [script_of(program, lang) for lang in ("", "en", "zh-CN")] == ["LATIN", "LATIN", "HAN"]


def test_repeated_and_nearly_repeated_texts_are_told() -> None:
    seen = SeenTexts()
    text = document(1, sentences=30)
    assert seen.find(text) is None
    assert seen.find(document(2, sentences=30)) is None
    assert seen.find(f"  {text.upper()}\n") == "the same text"
    assert seen.find(text + " One more sentence of six words.") == "nearly the same text"
    assert seen.find(" ".join(reversed(text.split()))) is None


def test_rows_text_files_and_compressed_files_become_passages(tmp_path: Path, read: Callable[..., Corpus]) -> None:
    jsonl = write_corpus(tmp_path / "news.jsonl", 3, lang="de")
    packed = tmp_path / "more.jsonl.xz"
    packed.write_bytes(lzma.compress(write_corpus(tmp_path / "x.jsonl", 5).read_bytes()))
    book = tmp_path / "book.txt"
    book.write_text("\n\n".join(document(i) for i in range(20, 24)), encoding="utf-8")
    found = read(jsonl, packed, book)
    assert {passage.source for passage in found.passages} == {"news", "book"}
    assert {passage.lang for passage in found.passages if passage.id.startswith("d0")} == {"de"}
    assert {passage.lang for passage in found.passages if passage.source == "book"} == {"en"}
    assert found.left_out["the same text"] >= 3  # the first three rows of the second file
    assert len({passage.id for passage in found.passages}) == len(found.passages)


@pytest.mark.parametrize("name", ["BOOK.TXT", "Book.Md"])
def test_text_files_are_told_by_their_suffix_in_either_case(
    tmp_path: Path, read: Callable[..., Corpus], name: str
) -> None:
    (tmp_path / name).write_text(document(1, sentences=4), encoding="utf-8")
    assert [passage.text for passage in read(tmp_path / name).passages] == [document(1, sentences=4)]


def test_a_data_file_that_is_missing_is_not_looked_up_on_the_hub(read: Callable[..., Corpus]) -> None:
    with pytest.raises(DataError, match=r"no such file; give a \.jsonl file"):
        read("corpora/NEWS.JSONL.XZ", field="content")


def test_a_limit_takes_the_first_passages_and_reads_no_further(tmp_path: Path, read: Callable[..., Corpus]) -> None:
    path = write_corpus(tmp_path / "a.jsonl", 3)
    path.write_text(path.read_text() + "not JSON\n")
    assert len(read(path, limit=2).passages) == 2


def test_a_field_of_another_name_is_read(tmp_path: Path, read: Callable[..., Corpus]) -> None:
    path = tmp_path / "web.jsonl"
    path.write_text(write_corpus(tmp_path / "a.jsonl").read_text().replace('"text"', '"content"'))
    assert read(path, field="content").passages[0].source == "news"
    with pytest.raises(DataError, match=r"web.jsonl:1: field 'body' is missing \(there: content, id, source\)"):
        read(path, field="body")


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.txt", "Grüße aus München".encode("latin-1"), "is not UTF-8"),
        ("a.txt", "Grüße".encode("utf-16"), "byte order mark of UTF-16"),
        ("a.txt", b"\xff\xfe\x00\x00" + "Grüße".encode("utf-32-le"), "byte order mark of UTF-32"),
        ("a.txt", b"\x00\x00\xfe\xff" + "Grüße".encode("utf-32-be"), "byte order mark of UTF-32"),
        ("a.txt", b"", "is empty"),
        ("a.jsonl", b'{"text": "Gr\xfc\xdfe"}\n', "is not UTF-8"),
        ("a.jsonl", b"", "holds no rows"),
        ("a.jsonl", b'{"text": "Short."}\n', "none of 1 documents gives a passage of 60 to 300 tokens"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_named(
    tmp_path: Path, read: Callable[..., Corpus], name: str, content: bytes, part: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=part) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)


def test_groups_hold_related_passages_of_one_source_and_no_more_tokens_than_allowed(
    tmp_path: Path, read: Callable[..., Corpus], cutter: Cutter
) -> None:
    about = ("вулкан лава магма", "βιολί σονάτα κουαρτέτο")  # told apart by a tokenizer of bytes too
    rows = []
    for i in range(12):
        digits = " ".join(str(i * 7919 + j * 104729) for j in range(12))
        rows.append(json.dumps({"id": f"r{i}", "source": f"s{i // 8}", "text": f"{about[i % 2]} {digits}"}))
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8")
    passages = read(path).passages
    groups = related_groups(passages, cutter, most=2, tokens=600)
    members = [passage.id for group in groups for passage in group]
    assert len(members) == len(set(members)) > 8
    for group in groups:
        assert len(group) == 2
        assert sum(passage.tokens for passage in group) <= 600
        assert len({passage.source for passage in group}) == 1
        assert len({"вулкан" in passage.text for passage in group}) == 1
    assert related_groups(passages, cutter, most=3, tokens=100) == []


@pytest.mark.parametrize("most", [2, 3])
def test_a_corpus_that_grows_at_its_end_keeps_its_groups(cutter: Cutter, most: int) -> None:
    passages = [
        Passage(id=str(i), text=document(i, sentences=2), tokens=100, lang="en", source=f"s{i % 2}") for i in range(120)
    ]

    def groups(count: int) -> list[tuple[Passage, ...]]:
        return related_groups(passages[:count], cutter, most=most, tokens=300)

    assert groups(120) == groups(120)
    before: set[tuple[Passage, ...]] = set()
    for count in range(10, 121, 10):
        now = set(groups(count))
        assert before <= now
        # Of each source the last block may not be full yet.
        full = max((block.stop for block in _blocks(60, most) if block.stop <= count // 2), default=0)
        before = {group for group in now if all(int(one.id) // 2 < full for one in group)}
    assert sum(map(len, before)) > 0.75 * len(passages)


@pytest.mark.parametrize("count", [2, 4, 5, 7])
def test_a_small_source_has_groups_too(cutter: Cutter, count: int) -> None:
    passages = [
        Passage(id=str(i), text=document(7, sentences=6 + i), tokens=100, lang="en", source="book")
        for i in range(count)
    ]
    assert related_groups(passages, cutter, most=3, tokens=300)


def test_numbers_that_make_no_sense_are_refused() -> None:
    for settings, part in (
        ({"corpora": ()}, "no corpus"),
        ({"tasks": ("poem",)}, "task 'poem' is unknown; choose some of qa, "),
        ({"limit": 0}, "--limit 0 is below 1"),
        ({"min_passage_tokens": 500, "max_passage_tokens": 200}, "--max-passage-tokens 200 is below"),
        ({"documents": 1}, "--documents 1 is below 2"),
    ):
        with pytest.raises(InputError, match=part):
            Plan(**{"corpora": ("a.jsonl",), **settings})  # type: ignore[arg-type]
