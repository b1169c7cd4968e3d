"""Fixtures of the synthesis tests: a corpus, a teacher over HTTP, and runs that wait for nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from teacher_server import LONGEST, SHORTEST, Script, Teacher, serving, write_corpus

if TYPE_CHECKING:
    from latentpress.synthesis.run import Outcome


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Script], Teacher]]:
    """Gives a function that starts a teacher by a script; it is stopped after the test."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("LATENTPRESS_TEACHER_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(serving(script))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Four documents."""
    return write_corpus(tmp_path / "news.jsonl")


@pytest.fixture
def synth(corpus: Path, tiny_base_folder: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """Runs a synthesis into `tmp_path / "out"`; settings of all parts are keyword arguments."""
    from latentpress.synthesis.run import synthesize
    from latentpress.synthesis.settings import Allowance, Patience, Plan, Prices, TeacherSpec

    def run(teacher: Teacher | str, **given: Any) -> Outcome:
        def taken(kind: type, defaults: dict[str, Any]) -> Any:
            names = kind.__dataclass_fields__  # type: ignore[attr-defined]
            return kind(**defaults, **{name: given.pop(name) for name in list(given) if name in names})

        data = given.pop("data", corpus)
        tasks = given.pop("tasks", ("qa", "summary", "short-summary"))
        seed = given.pop("seed", 0)
        lengths = {"min_passage_tokens": SHORTEST, "max_passage_tokens": given.pop("max_passage_tokens", LONGEST)}
        plan = taken(Plan, {"corpora": (str(data),), "tasks": tasks, "seed": seed, **lengths})
        word = teacher if isinstance(teacher, str) else f"openai:{teacher.address}"
        model = "good" if word.startswith("openai") else None
        sampling = {name: given.pop(name) for name in ("temperature", "reply_tokens", "timeout") if name in given}
        spec = TeacherSpec.parse(word, model, seed=seed, **{"timeout": 20.0, "reply_tokens": 50, **sampling})
        return synthesize(
            plan,
            spec,
            given.pop("out", tmp_path / "out"),
            base=str(tiny_base_folder),
            patience=taken(Patience, {"first_wait": given.pop("first_wait", 0.01)}),
            allowance=taken(Allowance, {}),
            prices=taken(Prices, {}),
            **given,
        )

    return run
