"""A tiny training: its data, its settings, and runs of it in processes of their own."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import random
import signal
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
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
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # accelerate warns where they are unset
# What `accelerate launch` makes of configs/accelerate/fsdp.yaml.
SHARED_OUT = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
}
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


def as_one_training(works: Sequence[Callable[[], object]], **environment: str) -> list[int | None]:
    """Runs functions as the processes of one training on the CPU; returns their exit codes."""
    port = free_port()

    def process(rank: int) -> None:
        from accelerate.state import AcceleratorState, GradientState, PartialState

        torch.set_num_threads(1)
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        assert not PartialState._shared_state
        count, own = str(len(works)), str(rank)
        os.environ |= {**THREADS, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **environment}
        os.environ |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "RANK": own, "LOCAL_RANK": own}
        works[rank]()

    return in_processes([functools.partial(process, rank) for rank in range(len(works))], timeout=240)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def assert_close_but_for_noise(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Adam divides by the gradient's size, so that where it is all but 0 the sign of its noise decides: 2%, or one."""
    wrong = (found - expected).abs() > 1e-5 + 1e-3 * expected.abs()
    assert int(wrong.sum()) <= max(1, 0.02 * wrong.numel())


def assert_same_training(out: Path, expected: Path) -> None:
    """Losses, evaluations and trained weights are the same but for rounding: within 0.02%, and see above."""
    found, wanted = read_log(out), read_log(expected)
    assert len(found) == len(wanted) > 1
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert one[name] == pytest.approx(value, rel=2e-4, abs=1e-6), name
    ((step, mine), (same, theirs)) = (checkpoints(folder)[-1] for folder in (out, expected))
    assert step == same
    weights = load_file(mine / "masters.safetensors")
    for name, tensor in load_file(theirs / "masters.safetensors").items():
        assert weights[name].shape == tensor.shape
        assert_close_but_for_noise(weights[name], tensor)


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
