"""A tiny training: its data, its settings, and runs of it in processes of their own."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file

from latentpress.checkpoints.io import read_press
from latentpress.training.checkpoint import checkpoints

WORDS = (
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dog",
    "treaty",
    "was",
    "signed",
    "in",
    "Paris",
    "May",
)
# Small, in float32, with everything that a real training has: dropout, rows of many documents, schedules, evaluation.
SETTINGS = {
    "dtype": "float32",
    "candidates": "2,4,8",
    "encoder_layers": "2",
    "encoder_lora.rank": "4",
    "encoder_lora.dropout": "0.1",
    "decoder_lora.rank": "4",
    "converter_width": "32",
    "window_tokens": "48",
    "steps": "6",
    "tokens_per_step": "100",
    "max_context_tokens": "96",
    "multi_document": "0.3",
    "long_documents": "0",
    "related_documents": "0",
    "quote_tokens": "12",
    "quote_schedule": "0:2,0.5:1",
    "ratio_schedule": "0:1/1/0,0.5:1/1/1",
    "warmup_steps": "2",
    "log_every": "1",
    "eval_every": "3",
    "save_every": "2",
    "dev_rows": "4",
    "dev_ratios": "4",
    "f1_questions": "2",
}
FILES = (
    "counters.json",
    "masters.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "trainer_state.json",
)  # of a checkpoint
SPEEDS = ("examples_per_second", "context_tokens_per_second")


def overrides(*, dropped: Sequence[str] = (), **changes: Any) -> list[str]:
    """The tiny settings without some and with changes, as the command line gives them; `__` stands for a dot."""
    given = {name.replace("__", "."): str(value) for name, value in changes.items()}
    left_out = {name.replace("__", ".") for name in dropped}
    return [f"{name}={value}" for name, value in (SETTINGS | given).items() if name not in left_out]


def write_data(path: Path, count: int = 20, *, seed: int = 0, words: tuple[int, int] = (5, 14)) -> Path:
    """Writes records with and without questions, summaries and density labels."""
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for i in range(count):
        text = " ".join(draw.choices(WORDS, k=draw.randint(*words)))
        row: dict[str, Any] = {"context": text}
        if i % 4 != 3:
            row["qas"] = [{"question": f"word {j}?", "answers": [text.split()[j]]} for j in range(1 + i % 3)]
        if i % 3 == 0:
            row["summary"] = " ".join(text.split()[:3])
        if i % 3 != 1:
            row["short_summary"] = text.split()[0]
        rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_log(out: Path) -> list[dict[str, Any]]:
    """Lines of a log without what the clock says, and without the line that ends a command."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k not in SPEEDS} for line in lines if "train_runtime" not in line]


def in_processes(works: Sequence[Callable[[], object]], *, timeout: float = 120) -> list[int | None]:
    """Runs functions side by side in forks of this process; returns their exit codes, negative for a signal."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work) for work in works]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the threads of this process, which later Pythons mention
        for process in processes:
            process.start()
    for process in processes:
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def killing(place: Any, name: str, *, call: int = 1, before: Callable[..., object] | None = None) -> Iterator[None]:
    """Kills the process where it would call a function for the given time.

    `before` does what would have been done by then; if it returns False the call does not count.
    """
    real, calls = getattr(place, name), [0]

    def deadly(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            if before is None or before(*args, **kwargs) is not False:
                kill()
            calls[0] -= 1
        return real(*args, **kwargs)

    with patch.object(place, name, deadly):
        yield


def half_a_swap(building: Path, folder: Path) -> bool:
    """Takes the old press its name, where there is one."""
    if folder.exists():
        os.replace(folder, folder.parent / ".press.abababab.old")
        return True
    return False


def assert_complete(out: Path) -> None:
    """Whatever bears the name of a checkpoint can be read to its end, and so can a press."""
    for step, folder in checkpoints(out):
        assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
        assert load_file(folder / "masters.safetensors")
        assert torch.load(folder / "optimizer.pt", weights_only=True)["state"]
        assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == step
        assert json.loads((folder / "counters.json").read_text())["examples"] > 0
    if (out / "press").exists():
        read_press(out / "press")
