"""Folders of results made by hand, for the tests of scores, report, claims and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Reply = tuple[str | None, int, int]
"""Prediction (None: it failed), tokens of the context, positions kept."""


def question(id: str, *answers: str, context: str | None = None, lang: str | None = None) -> dict[str, Any]:
    """A line of a file of questions."""
    line = {"id": id, "question": "which?", "answers": answers, "lang": lang, "digest": f"digest of {id}"}
    return line if context is None else {**line, "context": context}


def system(name: str, size: str | None = None, kind: str = "press", reader: str = "own", **more: Any) -> dict[str, Any]:
    """The header's description of a system."""
    label = "-".join(part for part in (name, size, "" if reader == "own" else reader) if part)
    about = {"name": name, "kind": kind, "reader": reader, "size": size, "label": label, "sees_question": False}
    return {**about, "fingerprint": "ab", **more}


class Results:
    """A folder of results that grows."""

    def __init__(self, out: Path, **settings: Any) -> None:
        self.out = out
        self._settings: dict[str, Any] = {"format": 1, "seed": 0, "limit": 4, "protocol": "default", **settings}
        self._sets: list[dict[str, Any]] = []
        self._questions: dict[str, list[dict[str, Any]]] = {}

    def ask(self, name: str, questions: Sequence[dict[str, Any]], kind: str = "span", **dropped: int) -> None:
        """Adds a set."""
        about = {"name": name, "digest": f"d-{name}", "questions": len(questions), "kind": kind, "dropped": dropped}
        self._sets.append(about)
        self._questions[name] = list(questions)
        folder = self.out / "questions"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))
        (self.out / "settings.json").write_text(json.dumps({**self._settings, "sets": self._sets}))

    def answer(self, name: str, about: Mapping[str, Any], replies: Sequence[Reply], *, nbytes: int = 0) -> Path:
        """Adds the answers of a system to the first questions of a set; `nbytes` are stored for each position."""
        rows: list[dict[str, Any]] = [{"system": about, "max_new_tokens": 24}]
        for one, (text, tokens, kept) in zip(self._questions[name], replies, strict=False):
            stored = kept * nbytes if nbytes else None
            row = {"id": one["id"], "prediction": text or "", "tokens": tokens, "kept": kept, "bytes": stored}
            rows.append({**row, "error": "too long" if text is None else None, "question": one["digest"]})
        path = self.out / "predictions" / name / f"{about['label']}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path


def replies(right: str, *, tokens: int = 40, kept: int = 10) -> list[Reply]:
    """Answers to questions whose answer is "yes": `y` in the pattern is right, `.` is wrong."""
    return [("yes" if mark == "y" else "no", tokens, kept) for mark in right]


def yes_questions(count: int, *, each: int = 1) -> list[dict[str, Any]]:
    """Questions whose answer is "yes", so many about each context."""
    return [question(f"q{i}", "yes", context=f"c{i // each}") for i in range(count)]
