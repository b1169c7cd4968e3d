"""`latentpress compress` on folders."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.helpers import LATENTS, TEXT, Result, outputs, same
from latentpress import EmbeddingLatents

Run = Callable[..., Result]


def test_folder_keeps_its_sub_folders_and_reports_every_document(
    run: Run, press: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run("compress", folder, "-o", out, "--press", press, "--scale", "-1", "--json")
    assert done.code == 0
    assert outputs(out) == [f"deep/er/three{LATENTS}", f"one{LATENTS}", f"two{LATENTS}"]
    assert same(out / f"one{LATENTS}", press, TEXT, scale=-1)
    result = done.json
    assert {row["status"] for row in result["documents"]} == {"compressed"}
    for row in result["documents"]:
        made = EmbeddingLatents.load(row["output"])
        assert (row["tokens"], row["latents"], row["ratio"]) == (made.context_tokens, len(made), made.ratio)
        assert row["error"] is None
    total = result["total"]
    assert (total["compressed"], total["skipped"], total["failed"]) == (3, 0, 0)
    assert total["tokens"] == sum(row["tokens"] for row in result["documents"])
    assert total["ratio"] == total["tokens"] / total["latents"]
    assert total["seconds"] > 0


def test_documents_that_differ_in_their_suffix_alone_do_not_overwrite_each_other(
    run: Run, press: Path, folder: Path, tmp_path: Path
) -> None:
    (folder / "one.md").write_text("Another document by the same name. " * 5)
    assert run("compress", folder, "-o", tmp_path / "out", "--press", press).code == 0
    assert same(tmp_path / "out" / f"one.txt{LATENTS}", press, TEXT)
    assert same(tmp_path / "out" / f"one.md{LATENTS}", press, "Another document by the same name. " * 5)


def test_files_that_come_and_go_while_it_runs_leave_the_others_alone(
    run: Run, press: Path, folder: Path, tmp_path: Path, while_running: Callable[[Callable[[], object]], None]
) -> None:
    def come_and_go() -> None:
        (folder / "a-new.txt").write_text("This one comes before all others.")
        (folder / "deep" / "er" / "three.txt").unlink()

    while_running(come_and_go)
    args = ("compress", folder, "-o", tmp_path / "out", "--press", press)
    done = run(*args)
    assert done.code == 1
    assert "/three.txt: was there when the documents were counted and is gone; run again" in done.err
    assert outputs(tmp_path / "out") == [f"one{LATENTS}", f"two{LATENTS}"]
    assert same(tmp_path / "out" / f"two{LATENTS}", press, "A second document. " * 20)
    assert run(*args).code == 0
    assert same(tmp_path / "out" / f"a-new{LATENTS}", press, "This one comes before all others.")


@pytest.mark.parametrize("which", ["deep", "."], ids=["sub-folder", "the folder itself"])
def test_folder_that_cannot_be_listed_is_named_and_not_passed_over(
    run: Run, press: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    listing, locked = os.scandir, folder / which

    def scandir(path: Any = ".") -> Any:  # permissions do not stop root, as which tests may run
        if Path(path) == locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    (folder / "deep.txt").write_text("Named like the folder that cannot be listed.")
    done = run("compress", folder, "-o", tmp_path / "out", "--press", press)
    if which == ".":
        done.fails_with(f"{folder}: cannot be read (Permission denied)", "permissions")
    else:
        assert done.code == 2
        assert f"failed: {locked}: cannot be read (Permission denied); change its permissions" in done.err
        assert outputs(tmp_path / "out") == [f"deep{LATENTS}", f"one{LATENTS}", f"two{LATENTS}"]


def test_links_to_files_are_read_and_links_to_folders_are_not_followed(
    run: Run, press: Path, folder: Path, document: Path, tmp_path: Path
) -> None:
    (folder / "round").symlink_to(folder)
    (folder / "linked.txt").symlink_to(document)
    assert run("compress", folder, "-o", tmp_path / "out", "--press", press).code == 0
    names = [f"{name}{LATENTS}" for name in ("deep/er/three", "linked", "one", "two")]
    assert outputs(tmp_path / "out") == names
    assert "links to folders are not followed" in " ".join(run("compress", "--help").out.replace("│", " ").split())
