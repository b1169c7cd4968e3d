"""`latentpress inspect`: the page, its pictures, and every mistake that can be made."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import latentpress
from cli.helpers import TEXT, Result, outputs, write_tiny_press
from latentpress.inspection import inspect

Run = Callable[..., Result]
OWN = ["index.html", "layer-means.png", "layers.png", "plan.png"]


@pytest.fixture(scope="session")
def telling_press(tmp_path_factory: pytest.TempPathFactory, tiny_base_folder: Path) -> Path:
    """A tiny ComprExIT press on disk; read only."""
    return write_tiny_press(
        tmp_path_factory.mktemp("presses") / "telling",
        tiny_base_folder,
        compressor="comprexit",
        compressor_settings={"segment_tokens": 16, "query_width": 16},
        policy="fixed",
        residual="none",
        encoder_layers=None,
        encoder_lora=None,
    )


def test_help_shows_the_options(run: Run) -> None:
    done = run("inspect", "--help")
    assert done.code == 0
    assert all(option in done.out for option in ("--press", "--ratio", "--scale", "--segment", "--out", "--json"))


def test_page_and_pictures_are_written_beside_what_was_there(
    run: Run, telling_press: Path, document: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out"
    out.mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    done = run("inspect", document, "--press", telling_press, "--ratio", "4", "-o", out)
    assert (done.code, done.err) == (0, "")
    assert outputs(out) == sorted([*OWN, "notes.txt"])
    assert f"page: {out / 'index.html'}" in done.out
    assert "left out: Weights of the tokens' own embeddings" in done.out
    html = (out / "index.html").read_text()
    assert html.startswith("<!doctype html>")
    assert "http" not in html
    assert "treaty.txt" in html


def test_json_has_the_numbers_of_the_library(run: Run, telling_press: Path, document: Path, tmp_path: Path) -> None:
    done = run("inspect", document, "--press", telling_press, "--segment", "2", "-o", tmp_path / "out", "--json")
    assert (done.code, done.err) == (0, "")
    shown = inspect(latentpress.load(telling_press), TEXT, segment=2)
    assert shown.capacity is not None
    assert shown.layers is not None
    assert shown.plan is not None
    result = done.json
    assert (result["tokens"], result["latents"]) == (shown.tokens, len(shown.spans))
    assert [row["ratio"] for row in result["windows"]] == [window.ratio for window in shown.windows]
    assert len(result["windows"]) > 1
    assert result["layers"] == pytest.approx(shown.layers.mean(1).tolist())
    assert result["segments"] == shown.segments
    assert (result["segment"]["number"], result["segment"]["start"]) == (2, shown.plan.start)
    assert result["segment"]["own"] == pytest.approx(shown.plan.own)
    most, least = result["capacity"]["most"], result["capacity"]["least"]
    assert most[0]["capacity"] == pytest.approx(float(shown.capacity.max()))
    assert (least[0]["token"], least[0]["capacity"]) == (
        int(shown.capacity.argmin()),
        pytest.approx(float(shown.capacity.min())),
    )
    assert [Path(name).name for name in result["pictures"]] == ["layers.png", "layer-means.png", "plan.png"]
    assert Path(result["page"]).is_file()


def test_own_files_are_replaced_and_those_of_no_use_any_more_go(
    run: Run, press: Path, telling_press: Path, document: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run("inspect", document, "--press", telling_press, "-o", out).code == 0
    before = (out / "index.html").read_text()
    done = run("inspect", document, "--press", press, "-o", out)
    assert (done.code, done.err) == (0, "")
    assert outputs(out) == ["index.html"]
    assert (out / "index.html").read_text() != before
    assert "left out: Transmission plan" in done.out


def test_text_comes_from_stdin(run: Run, press: Path, tmp_path: Path) -> None:
    done = run("inspect", "-", "--press", press, "-o", tmp_path / "out", stdin=TEXT.encode())
    assert (done.code, done.err) == (0, "")
    assert "stdin" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize("name", ["index.html", "plan.png"])
def test_file_of_someone_else_stays(run: Run, document: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("my own work")
    done = run("inspect", document, "--press", "none", "-o", out)
    done.fails_with(f"{out / name}: is there and was not made by latentpress inspect, so it stays")
    assert (out / name).read_text() == "my own work"


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_out_that_is_a_file_is_named(run: Run, document: Path, tmp_path: Path, below: str) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    run("inspect", document, "--press", "none", "-o", file / below).fails_with(f"{file}: is a file; give a folder")
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "no such file; give an existing text file"),
        (b"", "is empty; give a document with at least one word"),
        (b" \n\t ", "holds white space only (4 characters)"),
        (b"PK\x03\x04\x00\x00", "NUL byte at offset 4, so it is binary"),
        (b"caf\xe9", "byte 0xe9 at offset 3 is not UTF-8"),
    ],
    ids=["missing", "empty", "blank", "binary", "latin-1"],
)
def test_file_that_holds_no_text_is_named_before_the_press_is_loaded(
    run: Run, tmp_path: Path, content: bytes | None, part: str
) -> None:
    file = tmp_path / "bad.txt"
    if content is not None:
        file.write_bytes(content)
    run("inspect", file, "--press", "none", "-o", tmp_path / "out").fails_with(str(file), part)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--segment", "0"], "--segment 0 does not exist; the first is 1"),
        (["--segment", "9999"], "segment 9999 does not exist: this text"),
        (["--ratio", "3"], "ratio 3 is not one this press was trained for"),
        (["--ratio", "nan"], "--ratio nan is not a finite number"),
        (["--ratio", "4", "--scale", "1"], "--ratio 4 and --scale 1 contradict each other"),
        (["--scale", "1"], "scale=1 shifts a selector's prediction"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_option_that_cannot_be_is_named(
    run: Run, telling_press: Path, document: Path, tmp_path: Path, options: list[str], part: str
) -> None:
    run("inspect", document, "--press", telling_press, "-o", tmp_path / "out", *options).fails_with(part)
    assert not (tmp_path / "out").exists()


def test_segment_of_a_press_without_any_is_refused(run: Run, press: Path, document: Path, tmp_path: Path) -> None:
    done = run("inspect", document, "--press", press, "-o", tmp_path / "out", "--segment", "1")
    done.fails_with("press 'tiny', with compressor 'mean-pooling', has no segments")


def test_folder_latents_file_and_missing_out_are_refused(run: Run, tmp_path: Path) -> None:
    run("inspect", tmp_path, "-o", tmp_path / "out").fails_with("is a folder; give a file")
    run("inspect", "a.latents.safetensors", "-o", tmp_path / "out").fails_with("is a latents file", "give the text")
    run("inspect", "a.txt").fails_with("Missing option '-o'")


def test_failure_on_the_way_leaves_what_was_there(
    run: Run, telling_press: Path, document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert run("inspect", document, "--press", telling_press, "-o", out).code == 0
    before = {name: (out / name).read_bytes() for name in outputs(out)}
    original = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == ".plan.png.new":
            raise OSError(28, os.strerror(28), str(self))
        return original(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    done: Any = run("inspect", document, "--press", telling_press, "-o", out, "--ratio", "8")
    done.fails_with("No space left on device; free some space")
    assert {name: (out / name).read_bytes() for name in outputs(out)} == before
