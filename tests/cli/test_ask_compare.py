"""`latentpress ask --compare`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import latentpress
from cli.helpers import TEXT, Result

Run = Callable[..., Result]
SHORT = ("--max-new-tokens", "3")


class Clock:
    """Stands for the time module; goes forward only where a test says so."""

    now = 0.0

    def perf_counter(self) -> float:
        return Clock.now


def test_compare_puts_the_answer_from_the_full_text_beside_it(run: Run, press: Path, document: Path) -> None:
    args = ("ask", document, "-q", "Who?", "--compare", "--press", press, *SHORT)
    full = run(*args, "--json").json["answers"][0]["full_text"]
    assert full["answer"] == latentpress.load(press).ask_text(TEXT, "Who?", max_new_tokens=3).strip()
    assert full["error"] is None
    done = run(*args)
    assert "from latents: " in done.out
    assert "full text:    " in done.out


def test_compare_states_what_each_side_reads_and_how_long_that_takes(
    run: Run, press: Path, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentpress.cli.ask.time", Clock())
    originals = {name: getattr(latentpress.Press, name) for name in ("session", "text_session")}
    for name, seconds in (("session", 2.0), ("text_session", 30.0)):

        def slow(self: Any, context: Any, name: str = name, seconds: float = seconds) -> Any:
            Clock.now += seconds
            return originals[name](self, context)

        monkeypatch.setattr(latentpress.Press, name, slow)
    args = ("ask", document, "-q", "Who?", "--compare", "--press", press, *SHORT)
    result = run(*args, "--json").json
    tokens = latentpress.load(press).count_tokens(TEXT)
    assert result["full_text"] == {"tokens": tokens, "seconds": {"read": 30.0}}
    assert result["seconds"]["read"] == 2.0
    expected = f"read: {result['latents']} latents in 2.00 s, {tokens} tokens of the full text in 30.00 s"
    assert expected in run(*args).out


def test_full_text_that_does_not_fit_leaves_the_answers_from_latents(run: Run, press: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.txt"
    long.write_text(TEXT * 10)  # more tokens than the 512 positions, fewer latents
    args = ("ask", long, "-q", "Who?", "--compare", "--press", press, "--ratio", "8", *SHORT)
    result = run(*args, "--json").json
    answer = result["answers"][0]
    tokens = latentpress.load(press).count_tokens(TEXT * 10)
    assert result["full_text"] == {"tokens": tokens, "seconds": {"read": None}}
    assert answer["answer"] is not None
    assert answer["full_text"]["answer"] is None
    assert "the decoder has 512" in answer["full_text"]["error"]
    done = run(*args)
    assert done.code == 0
    assert "full text:    none, " in done.out
    assert f"{tokens:,} tokens of the full text not" in done.out
