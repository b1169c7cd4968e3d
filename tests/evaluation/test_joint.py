"""What a comparison writes is what its report is made of."""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from latentpress.errors import LatentsError
from latentpress.evaluation.datasets import Dataset, Dropped
from latentpress.evaluation.metrics_file import write_metrics
from latentpress.evaluation.questions import Answer, Question
from latentpress.evaluation.report import write
from latentpress.evaluation.runner import Comparison, run
from latentpress.evaluation.systems.base import Size, System, SystemKind

READERS = {"own", "zero-shot", "tuned", "prompt-tuned"}


class Fake(System):
    """Answers the first questions of a set rightly, a share of them."""

    sees_question = False

    def __init__(
        self, name: str, kind: SystemKind, reader: str, size: str | None, share: float, fails: str = ""
    ) -> None:
        self.name, self.kind, self.reader, self.share, self.fails = name, kind, reader, share, fails
        self.size = Size.parse(size) if size else None

    def identity(self) -> dict[str, Any]:
        return {"reader": {"name": self.reader, "fingerprint": "abc"}, "size": "whatever"}  # as real readers have it

    def answer(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
        if questions[0].dataset == self.fails:
            raise LatentsError("the peer is gone")
        kept = 40 if self.size is None else int(40 / (self.size.ratio or 5))
        right = [int(one.id) < self.share * 20 for one in questions]
        return [
            Answer(text=one.answers[0] if good else "no", tokens=40, kept=kept)
            for one, good in zip(questions, right, strict=True)
        ]


def dataset(name: str) -> Dataset:
    """Twenty questions, four of them choices."""
    questions = tuple(
        Question(
            id=str(i),
            dataset=name,
            contexts=(f"Context {i // 2}.",),
            question="Which?",
            answers=("B",) if i % 5 == 0 else ("yes",),
            kind="choice" if i % 5 == 0 else "span",
        )
        for i in range(20)
    )
    return Dataset(name=name, place=f"{name}.jsonl", questions=questions, dropped=Dropped(too_long=2))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    systems = [
        Fake("press", "press", "own", "x4", 0.5),
        Fake("press", "press", "own", "auto", 0.5),
        Fake("head", "bound", "zero-shot", "x4", 0.25),
        Fake("head", "bound", "tuned", "x4", 0.25),
        Fake("full", "bound", "prompt-tuned", None, 0.5),
        Fake("full", "bound", "tuned", None, 1.0),
        Fake("peer", "peer", "tuned", "x4", 0.5, fails="west"),
    ]
    comparison = Comparison(
        out=tmp_path / "out",
        sets=[dataset("east"), dataset("west")],
        systems=systems,
        settings={"seed": 0, "protocol": "default"},
        asked_how={"command": ["latentpress", "eval"], "join": None},
        answer_tokens={"span": 24, "choice": 24, "summary": 128},
        peer_limit=10,
    )
    run(comparison)
    return tmp_path / "out"


def test_the_ceiling_and_all_readers_are_found_in_what_a_run_writes(out: Path) -> None:
    content = write(out)
    assert content["ceiling"] == "full-tuned"
    assert {one["reader"] for one in content["systems"].values()} == READERS
    press = content["systems"]["press-x4"]
    assert press["size"] == "x4"
    assert press["identity"]["reader"]["fingerprint"] == "abc"
    assert {scope: row["retained"]["mean"] for scope, row in press["scopes"].items()} == {
        "east": 0.5,
        "west": 0.5,
        "pooled": 0.5,
    }
    assert content["sets"]["east"]["kinds"] == {"span": 16, "choice": 4}
    report = (out / "report.md").read_text()
    assert "Retained: share of the score of `full-tuned`" in report
    assert "latentpress eval\n" in report
    assert "- join: `null`" in report


def test_what_a_peer_was_asked_and_why_it_stopped_is_told(out: Path) -> None:
    content = write(out)
    gaps = {gap["set"]: gap for gap in content["gaps"] if gap["label"] == "peer-x4-tuned"}
    assert (gaps["east"]["questions"], gaps["east"]["asked"], gaps["east"]["answered"]) == (20, 10, 10)
    assert (gaps["west"]["asked"], gaps["west"]["answered"], gaps["west"]["why"]) == (10, 0, "the peer is gone")
    assert "pooled" not in content["systems"]["peer-x4-tuned"]["scopes"]
    assert "| `peer-x4-tuned` | west | 20 | 10 | 0 | 0 | the peer is gone |" in (out / "report.md").read_text()


def test_files_may_be_compressed_afterwards(out: Path) -> None:
    before = write_metrics(out)
    for path in (out / "predictions").rglob("*.jsonl"):
        path.with_name(f"{path.name}.xz").write_bytes(lzma.compress(path.read_bytes()))
        path.unlink()
    assert write_metrics(out) == before
