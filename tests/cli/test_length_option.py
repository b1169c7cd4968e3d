"""`--length` wherever `--ratio` is, for presses that count in latents; each is refused where the other is meant."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import latentpress
from cli.helpers import LATENTS, TEXT, Result, same, write_tiny_press

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def lengths(tmp_path_factory: pytest.TempPathFactory, tiny_base_folder: Path) -> Path:
    """A tiny press that chooses among 4, 8 and 16 latents a window."""
    folder = tmp_path_factory.mktemp("presses") / "lengths"
    return write_tiny_press(folder, tiny_base_folder, policy="length-selector", candidates=(4, 8, 16))


def test_documents_are_compressed_at_a_length_and_answered_from(
    run: Run, lengths: Path, document: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run("compress", document, "-o", out, "--press", lengths, "--length", "8", "--json")
    assert done.code == 0
    made = latentpress.load(lengths).compress(TEXT, length=8)
    assert done.json["documents"][0]["latents"] == len(made) == 8 * len(made.windows)
    assert same(out / f"treaty{LATENTS}", lengths, TEXT, length=8)
    asked = run("ask", document, "-q", "Who?", "--press", lengths, "--length", "8", "--max-new-tokens", "2", "--json")
    (row,) = asked.json["documents"]
    assert (row["requested_length"], row["requested_ratio"], row["latents"]) == (8, None, len(made))


def test_latents_of_another_length_are_made_anew(run: Run, lengths: Path, document: Path, tmp_path: Path) -> None:
    def status(*options: Any) -> str:
        done = run("compress", document, "-o", tmp_path / "out", "--press", lengths, "--json", *options)
        return str(done.json["documents"][0]["status"])

    assert [status("--length", 8), status("--length", 8), status("--length", 4), status(), status()] == [
        "compressed",
        "skipped",
        "compressed",
        "compressed",
        "skipped",
    ]


def test_an_inspection_takes_a_length(run: Run, lengths: Path, document: Path, tmp_path: Path) -> None:
    done = run("inspect", document, "-o", tmp_path / "out", "--press", lengths, "--length", "16", "--json")
    assert done.code == 0
    assert {window["latents"] for window in done.json["windows"]} == {16}
    page = (tmp_path / "out" / "index.html").read_text()
    ratios = {f"ratio {round(window['ratio'], 1):g}" for window in done.json["windows"]}
    assert all(ratio in page for ratio in ratios)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--length", "5"], "length 5 is not one this press was trained for; choose one of 4, 8, 16"),
        (["--ratio", "4"], "ratio=4 cannot be had: this press was trained for lengths; use length= with one of 4, 8"),
        (["--ratio", "4", "--length", "8"], "--ratio 4 and --length 8 contradict each other"),
        (["--length", "8", "--scale", "1"], "--length 8 and --scale 1 contradict each other"),
        (["--length", "much"], "--length"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("verb", ["ask", "compress", "inspect"])
def test_a_size_that_cannot_be_is_named(
    run: Run, lengths: Path, document: Path, tmp_path: Path, verb: str, options: list[str], part: str
) -> None:
    rest = ("-q", "Who?") if verb == "ask" else ("-o", tmp_path / "out")
    done = run(verb, document, *rest, "--press", lengths, *options)
    assert done.code == 2
    assert part in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["ask", "compress", "inspect"])
def test_a_press_of_ratios_names_them_when_a_length_is_asked_for(
    run: Run, press: Path, document: Path, tmp_path: Path, verb: str
) -> None:
    rest = ("-q", "Who?") if verb == "ask" else ("-o", tmp_path / "out")
    run(verb, document, *rest, "--press", press, "--length", "8").fails_with(
        "length=8 cannot be had: this press was trained for ratios; use ratio= with one of 2, 4, 8"
    )


def test_latents_that_are_there_take_no_length(run: Run, lengths: Path, document: Path, tmp_path: Path) -> None:
    run("compress", document, "-o", tmp_path / "out", "--press", lengths)
    file = tmp_path / "out" / f"treaty{LATENTS}"
    run("ask", file, "-q", "Who?", "--press", lengths, "--length", "8").fails_with(
        "is compressed already, so --ratio, --length and --scale cannot change it"
    )


def test_info_says_what_the_candidates_of_a_press_count(
    run: Run, lengths: Path, press: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = {"lengths": lengths, "tiny": press}
    monkeypatch.setattr("latentpress.loading.shipped_presses", lambda: shipped)
    rows = run("info", "--json").json["presses"]
    assert [(row["name"], row["sizes"], row["candidates"]) for row in rows] == [
        ("lengths", "lengths", [4, 8, 16]),
        ("tiny", "ratios", [2, 4, 8]),
    ]
    text = run("info").out
    assert "length-selector, lengths 4, 8, 16, on" in text
    assert "selector, ratios 2, 4, 8, on" in text
