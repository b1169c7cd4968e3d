"""A prediction is scored only for the press, the question and the settings that it was made with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from latentpress.data.records import QA, Record

if TYPE_CHECKING:
    from latentpress.press import Press

QUESTIONS = [(f"text {i}", f"question {i}?", (f"answer {i}",)) for i in range(5)]
MADE_BY = {"press": "abc", "seed": 0}


class FakePress:
    """Says its own name in every answer; of a real one only what `quality` uses."""

    def __init__(self, like: Press, fingerprint: str) -> None:
        self.config, self.base, self.fingerprint = replace(like.config, name="same"), like.base, fingerprint
        self.asked: list[str] = []

    def compress(self, texts: list[str], *, ratio: float | None) -> list[Any]:
        return [Latents() for _ in texts]

    def ask_many(self, latents: list[Any], questions: list[str], **_: Any) -> list[str]:
        self.asked += questions
        return [f"{self.fingerprint[0]}\u2028{question}" for question in questions]

    def count_tokens(self, text: str) -> int:
        return len(text)

    def ask_text(self, text: str, question: str, *, max_new_tokens: int) -> str:
        self.asked.append(question)
        return "Paris"


class Latents:
    """One latent of two tokens."""

    context_tokens = 2

    def __len__(self) -> int:
        return 1


@pytest.fixture
def presses(tiny_press: Press, monkeypatch: pytest.MonkeyPatch) -> dict[str, FakePress]:
    """Two presses of one name."""
    import latentpress

    found = {name: FakePress(tiny_press, name * 64) for name in ("a", "b")}
    monkeypatch.setattr(latentpress, "load", lambda name: found[name])
    return found


@pytest.fixture
def quality(tmp_path: Path) -> Callable[..., int]:
    """Runs the command line into one folder."""
    from benchmarks.quality import main
    from benchmarks.training import DATA

    fixed = ["--data", str(DATA), "--out", str(tmp_path), "--ratios", "4", "--questions"]
    return lambda *more: main([*fixed, *more])


def _report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_presses_of_one_name_get_predictions_of_their_own(
    presses: dict[str, FakePress], quality: Callable[..., int], tmp_path: Path
) -> None:
    assert quality("3", "--press", "a") == 0
    assert set(_report(tmp_path)) == {"same-x4"}
    assert quality("3", "--press", "b", "--zero-shot", "2") == 0
    assert set(_report(tmp_path)) == {"same-x4", "zero-shot-x1"}
    assert _report(tmp_path)["zero-shot-x1"]["questions"] == 2
    assert len(presses["b"].asked) == 5
    for name in presses:
        lines = (tmp_path / f"same-{name * 8}-x4.jsonl").read_text(encoding="utf-8").strip("\n").split("\n")
        assert all(json.loads(line)["prediction"].startswith(f"{name}\u2028") for line in lines[1:])


def test_report_tells_presses_of_one_name_apart(
    presses: dict[str, FakePress], quality: Callable[..., int], tmp_path: Path
) -> None:
    assert quality("3", "--press", "a", "--press", "b", "--ratios", "4") == 0
    a, b = (f"same-{name * 8}-x4" for name in presses)
    assert set(_report(tmp_path)) == {a, b, f"{b} minus {a}"}


def test_same_questions_are_not_asked_again_and_fewer_are_scored_alone(
    presses: dict[str, FakePress], quality: Callable[..., int], tmp_path: Path
) -> None:
    assert quality("4", "--press", "a") == quality("4", "--press", "a") == quality("2", "--press", "a") == 0
    assert len(presses["a"].asked) == 4
    assert _report(tmp_path)["same-x4"]["questions"] == 2


def test_other_seed_is_refused_with_the_file_and_the_remedy(
    presses: dict[str, FakePress], quality: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quality("3", "--press", "a") == 0
    report = _report(tmp_path)
    assert quality("3", "--press", "a", "--seed", "1") == 2
    said = capsys.readouterr().err
    assert "same-aaaaaaaa-x4.jsonl" in said
    assert "seed 0, now 1" in said
    assert "--out" in said
    assert _report(tmp_path) == report
    assert len(presses["a"].asked) == 3


def test_interrupted_file_goes_on_and_its_half_line_is_made_again(tmp_path: Path) -> None:
    from benchmarks.predictions import Predictions

    path = tmp_path / "file.jsonl"
    rows = [{"prediction": f"é\u2028\x85{i}"} for i in range(5)]
    Predictions(path, MADE_BY, QUESTIONS).add(rows)
    whole = path.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        found = Predictions(path, MADE_BY, QUESTIONS)
        found.add(rows[len(found.rows) :])
        assert path.read_bytes() == whole
        assert not found.missing


def test_answers_of_other_questions_are_refused(tmp_path: Path) -> None:
    from benchmarks.predictions import Predictions
    from latentpress.errors import InputError

    path = tmp_path / "file.jsonl"
    Predictions(path, MADE_BY, QUESTIONS).add([{"prediction": "yes"}] * 5)
    other = [*QUESTIONS[:2], ("another text", "question 2?", ("answer 2",))]
    with pytest.raises(InputError, match=r"file\.jsonl, line 4, answers another question .* --out"):
        Predictions(path, MADE_BY, other)
    path.write_text('{"prediction": "of an older version", "tokens": 1, "latents": 1}\n')
    with pytest.raises(InputError, match="made otherwise"):
        Predictions(path, MADE_BY, QUESTIONS)
    path.write_text("no JSON\n")
    with pytest.raises(InputError, match="cannot be read"):
        Predictions(path, MADE_BY, QUESTIONS)


def test_joined_contexts_keep_their_order_their_questions_and_the_limit(presses: dict[str, FakePress]) -> None:
    from benchmarks.quality import joined

    asked = (QA(id="", question="?", answers=("a",)),)
    plain = Record(id="", contexts=("x", "y"), qas=asked, summary=None, short_summary=None, source="", lang=None)
    records = [replace(plain, contexts=(letter * 30,)) for letter in "abcde"]
    press: Any = presses["a"]  # a token is a character
    made = joined([*records[:2], plain, *records[2:]], press, 70)
    assert [record.contexts for record in made] == [
        ("a" * 30 + "\n\n" + "b" * 30,),
        ("c" * 30 + "\n\n" + "d" * 30,),
        ("e" * 30,),
    ]
    assert [len(record.qas) for record in made] == [2, 2, 1]
    assert [len(record.qas) for record in joined(records, press, 1)] == [1] * 5  # one that is longer stands alone


def test_questions_can_be_asked_of_joined_contexts(
    presses: dict[str, FakePress], quality: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert quality("3", "--press", "a", "--join", "100000") == 0
    assert len(presses["a"].asked) == 3
    assert quality("3", "--press", "a") == 2  # the same questions of other texts are other questions
    assert "than --data, --join, --seed and --questions give" in capsys.readouterr().err
    assert quality("3", "--press", "a", "--join", "-5") == 2
    assert "--join -5 must be 0" in capsys.readouterr().err
