"""Files and folders are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from latentpress.files import put_in_place, replacing, staging_beside, write_whole


def names_in(folder: Path) -> set[str]:
    """What stands in a folder beside locks, which some versions of the lock's package leave behind."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def test_text_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    write_whole(path, "old\n")

    def fail(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new\n")
    assert path.read_bytes() == b"old\n"
    assert names_in(tmp_path) == {"log"}


def test_a_file_is_as_it_was_until_the_new_one_is_done(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    write_whole(path, "old")
    with replacing(path) as building:
        building.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"

    def interrupted() -> None:
        with replacing(path) as building:
            building.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "new"
    assert names_in(tmp_path) == {"picture.png"}


def test_a_folder_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "model"
    for content in ("first", "second"):
        with staging_beside(folder) as staging:
            (staging / "built").mkdir()
            (staging / "built" / "weights").write_text(content)
            put_in_place(staging / "built", folder)
        assert (folder / "weights").read_text() == content
        assert names_in(folder.parent) == {"model"}


def test_nothing_is_left_of_a_folder_that_fails_nor_of_one_that_a_killed_process_built(tmp_path: Path) -> None:
    (tmp_path / ".model.tmp-killed").mkdir()
    (tmp_path / ".other.tmp-running").mkdir()

    def failing() -> None:
        with staging_beside(tmp_path / "model") as staging:
            (staging / "half").write_text("x")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        failing()
    assert names_in(tmp_path) == {".other.tmp-running"}
