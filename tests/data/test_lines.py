"""A file of rows is gone on with where it stopped, for the same things made by the same, and refused otherwise."""

from __future__ import annotations

import errno
import json
import lzma
from pathlib import Path
from unittest.mock import patch

import pytest

from latentpress.data.lines import ResumableLines, Wording
from latentpress.errors import InputError

WORDING = Wording(kind="rows", other="is of another thing", remedy="give another name")
MADE_BY = {"by": "a press", "ratios": (2, 4)}  # a tuple, which JSON gives back as a list


def opened(path: Path, *digests: str, **changes: object) -> ResumableLines:
    return ResumableLines(path, MADE_BY | changes, digests, key="digest", wording=WORDING)


def test_rows_are_read_again_with_the_digest_of_their_things(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    opened(path, "a", "b").add([{"value": 1}, {"value": "\u2028 line separator"}])
    again = opened(path, "a", "b", "c")
    assert again.rows == [{"value": 1, "digest": "a"}, {"value": "\u2028 line separator", "digest": "b"}]
    again.add([{"value": 3}])
    assert [row["value"] for row in opened(path, "a", "b", "c").rows][-1] == 3


def test_when_a_file_was_begun_is_written_down_and_not_compared(tmp_path: Path) -> None:
    def begun(day: str) -> ResumableLines:
        return ResumableLines(path, MADE_BY, ["a", "b"], key="digest", wording=WORDING, begun={"date": day})

    path = tmp_path / "rows.jsonl"
    begun("2026-01-01").add([{"value": 1}])
    begun("2026-02-02").add([{"value": 2}])
    assert json.loads(path.read_text().splitlines()[0]) == {
        "by": "a press",
        "ratios": [2, 4],
        "begun": {"date": "2026-01-01"},
    }
    assert [row["value"] for row in opened(path, "a", "b").rows] == [1, 2]
    with pytest.raises(InputError, match=r"made otherwise \(by 'a press', now 'another'\)"):
        opened(path, "a", "b", by="another")
    whole = path.read_bytes().partition(b"\n")[0]
    path.write_bytes(whole[:-5])  # killed while the first line was written
    begun("2026-03-03").add([{"value": 1}])
    assert "2026-03-03" in path.read_text()
    path.write_bytes(whole.replace(b"[2, 4]", b'[2, 4], "more": 5'))
    with pytest.raises(InputError, match="holds something else than rows"):
        begun("2026-03-03")
    path.write_text('{"by": "a press", "ratios": [2, 4]12')  # goes on otherwise than a first line can
    with pytest.raises(InputError, match="holds something else than rows"):
        begun("2026-03-03")


def test_half_a_line_at_the_end_is_dropped_and_made_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    opened(path, "a", "b").add([{"value": 1}, {"value": 2}])
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    lines = opened(path, "a", "b")
    assert [row["value"] for row in lines.rows] == [1]
    lines.add([{"value": 2}])
    assert path.read_bytes() == whole


def test_rows_that_are_more_than_wanted_stay_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    opened(path, "a", "b").add([{"value": 1}, {"value": 2}])
    assert len(opened(path, "a").rows) == 1
    assert len(opened(path, "a", "b").rows) == 2


def test_rows_made_otherwise_or_of_other_things_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    opened(path, "a", "b").add([{"value": 1}, {"value": 2}])
    with pytest.raises(InputError, match=r"holds rows made otherwise \(by 'a press', now 'another'\); give another"):
        opened(path, "a", "b", by="another")
    opened(tmp_path / "nested.jsonl", "a", made={"dtype": "bfloat16", "name": "x"})
    with pytest.raises(InputError, match=r"\(made.dtype 'bfloat16', now 'float32'\)"):
        opened(tmp_path / "nested.jsonl", "a", made={"dtype": "float32", "name": "x"})
    with pytest.raises(InputError, match=r"line 3, is of another thing; give another name"):
        opened(path, "a", "c")
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(InputError, match="cannot be read"):
        opened(path, "a")


def test_a_compressed_file_is_read_and_unpacked_where_rows_are_missing(tmp_path: Path) -> None:
    path, packed = tmp_path / "rows.jsonl", tmp_path / "rows.jsonl.xz"
    opened(path, "a").add([{"value": 1}])
    packed.write_bytes(lzma.compress(path.read_bytes()))
    path.unlink()
    assert [row["value"] for row in opened(path, "a").rows] == [1]
    assert packed.exists()
    opened(path, "a", "b").add([{"value": 2}])
    assert not packed.exists()
    assert json.loads(path.read_text().splitlines()[-1]) == {"value": 2, "digest": "b"}


def test_a_file_of_something_else_without_a_line_end_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("my precious notes", encoding="utf-8")
    with pytest.raises(InputError, match=r"rows\.jsonl holds something else than .*would be lost"):
        opened(path, "a")
    assert path.read_text(encoding="utf-8") == "my precious notes"


def test_half_a_first_line_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    opened(path, "a")
    whole = path.read_bytes()
    path.write_bytes(whole[:5])
    assert opened(path, "a").rows == []
    assert path.read_bytes() == whole


def test_a_write_that_fails_names_its_file(tmp_path: Path) -> None:
    begun = opened(tmp_path / "rows.jsonl", "a")
    full = OSError(errno.ENOSPC, "No space left on device")
    with patch("pathlib.Path.open", side_effect=full), pytest.raises(OSError, match=r"rows\.jsonl"):
        begun.add([{"value": 1}])
