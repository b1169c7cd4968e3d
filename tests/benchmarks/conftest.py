"""A tiny press on disk, as the benchmarks load one; what they run in processes of their own runs in this one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from benchmarks.results import Settings
    from latentpress.press import Press

sys.path.insert(0, str(Path(__file__).parents[2]))  # the benchmarks are no part of what is installed


@pytest.fixture(scope="session")
def tiny_press_folder(tmp_path_factory: pytest.TempPathFactory, tiny_base_folder: Path) -> Path:
    """A press on the tiny Llama whose base is named by its folder."""
    from cli.helpers import write_tiny_press

    folder = tmp_path_factory.mktemp("presses") / "tiny"
    return write_tiny_press(folder, tiny_base_folder, encoder_layers=2, converter_width=32)


@pytest.fixture
def tiny_press(tiny_press_folder: Path) -> Press:
    """The tiny press in float32."""
    import latentpress

    return latentpress.load(tiny_press_folder, device="cpu", dtype="float32")


@pytest.fixture
def quick(tiny_press_folder: Path) -> Settings:
    """Settings of a quick run of the tiny press on an imaginary machine."""
    from benchmarks.results import Settings
    from benchmarks.work import Machine

    machine = Machine(operations={"bfloat16": 4e11, "float32": 1e11}, bandwidth=1e10)
    return Settings(press=str(tiny_press_folder), quick=True, machine=machine, note=lambda _: None)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls what would run in a process of its own, and leaves this one's allocator alone."""
    from benchmarks import child, training

    def call(target: str, **arguments: Any) -> Any:
        module, _, name = target.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return function(**arguments)

    monkeypatch.setattr(child, "call", call)
    monkeypatch.setattr(training, "keep_freed_memory", lambda: True)
