"""Folders of results made by hand, for the tests of scores, report, claims and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Reply = tuple[str | None, int, int]
"""Prediction (None: it failed), tokens of the context, positions kept."""


def question(
    id: str,
    *answers: str,
    context: str | None = None,
    lang: str | None = None,
    kind: str | None = None,
    text: str = "which?",
) -> dict[str, Any]:
    """A line of a file of questions; without a kind, of that of its set."""
    line = {"id": id, "question": text, "answers": answers, "kind": kind, "lang": lang, "digest": f"digest of {id}"}
    return line if context is None else {**line, "context": context}


def system(name: str, size: str | None = None, kind: str = "press", reader: str = "own", **more: Any) -> dict[str, Any]:
    """The header's description of a system."""
    label = "-".join(part for part in (name, size, "" if reader == "own" else reader) if part)
    about = {"name": name, "kind": kind, "reader": reader, "size": size, "label": label, "sees_question": False}
    # A reader has an identity too, which is not what reads.
    return {**about, "identity": {"fingerprint": "ab", "reader": {"fingerprint": "cd"}}, **more}


class Results:
    """A folder of results that grows."""

    def __init__(self, out: Path, **settings: Any) -> None:
        self.out = out
        self._settings: dict[str, Any] = {"format": 1, "seed": 0, "protocol": "default", **settings}
        self._sets: list[dict[str, Any]] = []
        self._questions: dict[str, list[dict[str, Any]]] = {}

    def ask(self, name: str, questions: Sequence[dict[str, Any]], kind: str = "span", **dropped: int) -> None:
        """Adds a set, most questions of which are of a kind."""
        about = {"name": name, "digest": f"d-{name}", "questions": len(questions), "kind": kind, "dropped": dropped}
        self._sets.append(about)
        questions = [{**one, "kind": one["kind"] or kind} for one in questions]
        self._questions[name] = questions
        folder = self.out / "questions"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))
        (self.out / "settings.json").write_text(json.dumps({**self._settings, "sets": self._sets}))

    def answer(
        self,
        name: str,
        about: Mapping[str, Any],
        replies: Sequence[Reply],
        *,
        nbytes: int = 0,
        asked: int | None = None,
    ) -> Path:
        """Adds the answers of a system to the first questions of a set.

        Args:
            name: of the set.
            about: the system.
            replies: its answers.
            nbytes: stored for each position that is kept.
            asked: questions that it is asked; those that it answers if not given.
        """
        count = len(replies) if asked is None else asked
        rows: list[dict[str, Any]] = [{"system": about, "asked": count, "max_new_tokens": {"span": 24}}]
        for one, (text, tokens, kept) in zip(self._questions[name], replies, strict=False):
            stored = kept * nbytes if nbytes else None
            row = {"id": one["id"], "prediction": text or "", "tokens": tokens, "kept": kept, "bytes": stored}
            rows.append({**row, "error": "too long" if text is None else None, "question": one["digest"]})
        path = self.out / "predictions" / name / f"{about['label']}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def fail(self, name: str, label: str, why: str) -> None:
        """Says why a system could not go on with a set."""
        path = self.out / "failed.json"
        failed = json.loads(path.read_text()) if path.exists() else {}
        failed.setdefault(name, {})[label] = why
        path.write_text(json.dumps(failed))


def replies(right: str, *, tokens: int = 40, kept: int = 10) -> list[Reply]:
    """Answers to questions whose answer is "yes": `y` in the pattern is right, `.` is wrong."""
    return [("yes" if mark == "y" else "no", tokens, kept) for mark in right]


def yes_questions(count: int, *, each: int = 1) -> list[dict[str, Any]]:
    """Questions whose answer is "yes", so many about each context."""
    return [question(f"q{i}", "yes", context=f"c{i // each}") for i in range(count)]


def row_of(content: dict[str, Any], label: str, scope: str) -> dict[str, Any]:
    row: dict[str, Any] = content["systems"][label]["scopes"][scope]
    return row


def pair_of(content: dict[str, Any], a: str, b: str) -> dict[str, Any]:
    (found,) = [pair["scopes"] for pair in content["pairs"] if (pair["a"], pair["b"]) == (a, b)]
    scopes: dict[str, Any] = found
    return scopes


def compared_folder(out: Path) -> Results:
    """Two sets of 40 questions; a press, a cut text on the first 20 of each, and the tuned reader of the full text."""
    made = Results(out)
    for name, press in (("east", "yyyy"), ("west", "yy..")):
        made.ask(name, yes_questions(40, each=2))
        made.answer(name, system("press", "x4"), replies(press * 10))
        made.answer(name, system("head", "x4", "bound", "tuned"), replies("y..." * 5))
        made.answer(name, system("full", None, "bound", "tuned"), replies("yyy." * 10, kept=40))
        made.answer(name, system("none", None, "bound", "tuned"), replies("...." * 10, kept=0))
        made.answer(name, system("head", "x8", "bound", "tuned"), replies("...." * 10, kept=5))
    return made
