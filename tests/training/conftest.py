"""Fixtures of tests that train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.helpers import overrides, write_data

Train = Callable[..., Path]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty records of a dozen words."""
    return write_data(tmp_path_factory.mktemp("data") / "records.jsonl")


@pytest.fixture
def train(data: Path, tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Trains the tiny recipe on the CPU; settings are keyword arguments, `arguments` those of `latentpress train`."""
    from latentpress.training import callbacks, run

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(run, "keep_freed_memory", lambda: False)  # a setting of the whole process
    monkeypatch.setattr(callbacks, "plot_losses", lambda history, path: None)  # as slow as ten steps

    def start(out: Path | str = "run", arguments: dict[str, Any] | None = None, **settings: Any) -> Path:
        folder = tmp_path / out
        given = {"data": [str(data)], "base": str(tiny_base_folder), **(arguments or {})}
        press = run.train("semidynamic", out=folder, overrides=overrides(**settings), **given)
        assert press == folder / "press"
        return folder

    return start
