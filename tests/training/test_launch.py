"""`accelerate launch` with the repository's configurations: two processes on the CPU train as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import latentpress
from training.helpers import THREADS, assert_complete, assert_same_training, overrides

Train = Callable[..., Path]
CONFIGURATIONS = Path(__file__).parents[2] / "configs" / "accelerate"
SETTINGS = {"steps": 3, "eval_every": 100, "save_every": 2, "encoder_lora__dropout": 0, "tokens_per_step": 60}


@pytest.mark.parametrize("configuration", ["multi_gpu", "fsdp"])
def test_two_launched_processes_have_the_losses_of_one(
    train: Train, data: Path, tiny_base_folder: Path, tmp_path: Path, configuration: str
) -> None:
    whole, out = train("one", **SETTINGS), tmp_path / "two"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--main_process_port", "0"]
    command += ["--config_file", str(CONFIGURATIONS / f"{configuration}.yaml"), "-m", "latentpress"]
    command += ["train", "semidynamic", *overrides(**SETTINGS), "--data", str(data), "--out", str(out)]
    done = subprocess.run(
        [*command, "--base", str(tiny_base_folder), "--json"],
        env={**os.environ, **THREADS, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["press"] == str(out / "press")  # one of them speaks
    for line in ("steps: 3 of 60 context tokens, from the start", "step 1/3"):
        assert done.stderr.count(line) == 1
    assert_complete(out)
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == [".lock"]
    assert_same_training(out, whole)
    press = latentpress.load(out / "press", base=tiny_base_folder, device="cpu")
    assert isinstance(press.ask(press.compress("The treaty was signed in Paris."), "where?", max_new_tokens=4), str)
