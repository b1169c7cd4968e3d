"""Fixtures of the command-line tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cli.helpers import TEXT, Result, make_runner, write_tiny_press


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs `latentpress` in this process; what it sets in the environment is set back."""
    monkeypatch.delenv("LATENTPRESS_DEBUG", raising=False)
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
