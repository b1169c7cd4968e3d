"""Fixtures of the command-line tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.helpers import TEXT, Result, make_runner, write_tiny_press


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs `latentpress` in this process; what it sets in the environment is set back."""
    monkeypatch.delenv("LATENTPRESS_DEBUG", raising=False)
    monkeypatch.setattr("latentpress.training.memory.keep_freed_memory", lambda: False)  # of the whole process
    return make_runner(monkeypatch, capsys)


@pytest.fixture(scope="session")
def press(tmp_path_factory: pytest.TempPathFactory, tiny_base_folder: Path) -> Path:
    """A tiny press on disk; read only."""
    return write_tiny_press(tmp_path_factory.mktemp("presses") / "tiny", tiny_base_folder)


@pytest.fixture(scope="session")
def other_press(tmp_path_factory: pytest.TempPathFactory, tiny_base_folder: Path) -> Path:
    """Another tiny press on the same base."""
    return write_tiny_press(tmp_path_factory.mktemp("presses") / "other", tiny_base_folder, name="other")


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """A text file."""
    file = tmp_path / "treaty.txt"
    file.write_text(TEXT)
    return file


@pytest.fixture
def while_running(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Gives a function that has something happen once, between counting the documents and compressing them."""
    from latentpress.cli.jobs import Target

    def arrange(happen: Callable[[], object]) -> None:
        original = Target.plan

        def plan(self: Target, *args: Any) -> Any:
            jobs = original(self, *args)
            monkeypatch.setattr(Target, "plan", original)
            happen()
            return jobs

        monkeypatch.setattr(Target, "plan", plan)

    return arrange


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three documents, one of them in a sub-folder."""
    root = tmp_path / "documents"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "one.txt").write_text(TEXT)
    (root / "two.md").write_text("A second document. " * 20)
    (root / "deep" / "er" / "three.txt").write_text("A third document, further down. " * 30)
    return root
