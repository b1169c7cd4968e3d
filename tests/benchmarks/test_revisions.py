"""Speed beside an earlier revision: what of a log counts, and a checkout that leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import revisions
from benchmarks.revisions import NOW, WARM, checkout, rates, table


def log(seconds: float) -> list[dict[str, Any]]:
    """Steps of 500 tokens and 10 questions, the first ones ten times as slow."""
    return [
        {
            "step": step,
            "context_tokens_per_second": 500 / (seconds * (10 if step <= WARM else 1)),
            "context_tokens_seen": 500 * step,
            "questions_seen": 10 * step,
        }
        for step in range(1, 9)
    ] + [{"eval_loss": 1.0, "step": 8}]


def test_the_first_steps_do_not_count() -> None:
    assert rates(log(5)) == pytest.approx({"tokens": 100, "questions": 2})
    with pytest.raises(SystemExit, match=f"--steps of more than {WARM}"):
        rates(log(5)[:WARM])


def test_the_ratio_is_taken_round_by_round() -> None:
    rounds = [
        {"abc": rates(log(slow)), NOW: rates(log(slow / 2 / more))} for slow, more in ((4, 1), (40, 1.5), (4, 1.1))
    ]
    lines = table(rounds, "abc").splitlines()
    assert lines[2] == "| context tokens | 125 | 250 | 2.20 (2.00 to 3.00) |"
    assert lines[3].startswith("| questions | 2.5 | ")


def test_settings_may_stand_behind_the_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trained: list[tuple[str, list[str]]] = []

    def train(source: Path, out: Path, data: list[str], steps: int, overrides: list[str]) -> None:
        trained.append((out.name, overrides))
        out.mkdir(parents=True)
        (out / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log(5)))

    monkeypatch.setattr(revisions, "train", train)
    monkeypatch.setattr(revisions, "checkout", lambda _revision, folder: contextlib.nullcontext(folder))
    given = ["abc", "--data", "d.jsonl", "--out", str(tmp_path / "out"), "--rounds", "2", "questions=3"]
    revisions.main(given)
    assert trained == [(f"{side}-{i}", ["questions=3"]) for i, side in ((0, "abc"), (0, NOW), (1, NOW), (1, "abc"))]
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())["rounds"]) == 2
    with pytest.raises(SystemExit, match="holds files of another run"):
        revisions.main(given)


def test_a_checkout_is_made_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*command: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path / "own"), *who, *command], capture_output=True, text=True, check=True
        )
        return done.stdout

    (tmp_path / "own").mkdir()
    git("init", "-q")
    (tmp_path / "own" / "file.txt").write_text("then")
    git("add", "-A")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(revisions, "ROOT", tmp_path / "own")
    with checkout("HEAD", tmp_path / "former") as former:
        assert (former / "file.txt").read_text() == "then"
    assert not (tmp_path / "former").exists()
    assert git("worktree", "list").count("\n") == 1
    with pytest.raises(SystemExit, match="no checkout of 'nothing'"), checkout("nothing", tmp_path / "former"):
        pass
