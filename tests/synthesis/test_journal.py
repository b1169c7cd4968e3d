"""The journal: on disk before it counts, whole after any end, and of one run only."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from latentpress.errors import InputError
from latentpress.synthesis.journal import JOURNAL, Entry, Journal

MADE_BY = {"model": "good", "seed": 0}


def entry(key: str, reply: str | None = "{}", **fields: object) -> Entry:
    times = {"seconds": 0.5, "time": "2026-01-01T00:00:00+00:00"}
    values = {"task": "qa", "record": "r", "tries": 1, "prompt_tokens": 10, "reply_tokens": 2, **times, **fields}
    return Entry(key=key, reply=reply, **values)  # type: ignore[arg-type]


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, MADE_BY)
    journal.add(entry("a", "line\u2028separators\x85and\nmore"))
    journal.add(entry("b", None, error="gone", tries=5, prompt_tokens=0, reply_tokens=0))
    again = Journal(tmp_path, MADE_BY)
    assert again.reply("a") == entry("a", "line\u2028separators\x85and\nmore")
    assert again.reply("b") is None
    assert [one.error for one in again.entries()] == [None, "gone"]
    assert (again.requests, again.tokens_in, again.tokens_out) == (6, 10, 2)


def test_a_request_that_was_given_up_may_have_a_reply_later_and_the_first_reply_stays(tmp_path: Path) -> None:
    journal = Journal(tmp_path, MADE_BY)
    journal.add(entry("a", None, error="gone"))
    journal.add(entry("a", "first"))
    journal.add(entry("a", "second"))
    for one in (journal, Journal(tmp_path, MADE_BY)):
        found = one.reply("a")
        assert found is not None
        assert found.reply == "first"
        assert one.requests == 3


def test_half_a_line_is_cut_off_and_nothing_else(tmp_path: Path) -> None:
    journal = Journal(tmp_path, MADE_BY)
    journal.add(entry("a"))
    content = (tmp_path / JOURNAL).read_bytes()
    journal.add(entry("b"))
    longer = (tmp_path / JOURNAL).read_bytes()
    for cut in range(len(content), len(longer), 11):
        (tmp_path / JOURNAL).write_bytes(longer[:cut])
        found = Journal(tmp_path, MADE_BY)
        assert found.reply("a") is not None
        assert found.reply("b") is None
        assert (tmp_path / JOURNAL).read_bytes() == content
    (tmp_path / JOURNAL).write_bytes(content[:5])  # not even the first line
    assert list(Journal(tmp_path, MADE_BY).entries()) == []


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, MADE_BY)
    journal.add(entry("a"))
    before = (tmp_path / JOURNAL).read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as caught:
            journal.add(entry("b"))
        assert caught.value.filename == str(tmp_path / JOURNAL)
    assert (tmp_path / JOURNAL).read_bytes() == before
    assert journal.reply("b") is None
    journal.add(entry("b"))
    assert Journal(tmp_path, MADE_BY).reply("b") is not None


def test_the_folder_of_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    Journal(tmp_path, MADE_BY).add(entry("a"))
    before = (tmp_path / JOURNAL).read_bytes()
    with pytest.raises(InputError, match=r"made otherwise \(model 'good', now 'better'\); give another --out"):
        Journal(tmp_path, {**MADE_BY, "model": "better"})
    assert (tmp_path / JOURNAL).read_bytes() == before


def test_a_run_that_came_to_nothing_does_not_stand_in_the_way(tmp_path: Path) -> None:
    Journal(tmp_path, MADE_BY)
    Journal(tmp_path, {"model": "better"}).add(entry("a"))
    assert Journal(tmp_path, {"model": "better"}).reply("a") is not None


@pytest.mark.parametrize("content", [b"my precious notes", b"\n", b"\nnotes", b'{"latentpress synth": 1, "my": 2'])
def test_a_file_that_is_no_journal_is_not_overwritten(tmp_path: Path, content: bytes) -> None:
    (tmp_path / JOURNAL).write_bytes(content)
    with pytest.raises(InputError, match=r"journal.jsonl is no journal of a synthesis; move it away, or give another"):
        Journal(tmp_path, MADE_BY)
    assert (tmp_path / JOURNAL).read_bytes() == content


def test_tokens_of_tries_without_a_reply_count(tmp_path: Path) -> None:
    Journal(tmp_path, MADE_BY).add(entry("a", lost_prompt_tokens=30, lost_reply_tokens=4))
    journal = Journal(tmp_path, MADE_BY)
    journal.add(entry("b", None, error="gone", prompt_tokens=0, reply_tokens=0, lost_prompt_tokens=5))
    assert (journal.tokens_in, journal.tokens_out, journal.tokens_lost) == (45, 6, 39)


def test_a_folder_of_something_else_and_a_damaged_journal_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("x")
    with pytest.raises(InputError, match=r"holds thesis.doc and no journal.jsonl; give a folder of its own"):
        Journal(tmp_path, MADE_BY)
    (tmp_path / "thesis.doc").unlink()
    journal = Journal(tmp_path, MADE_BY)
    journal.add(entry("a"))
    good = (tmp_path / JOURNAL).read_text()
    for content in ("no JSON\n", good + "no JSON\n", good + '{"key": 1}\n'):
        (tmp_path / JOURNAL).write_text(content)
        with pytest.raises(InputError, match="give another --out"):
            Journal(tmp_path, MADE_BY)
