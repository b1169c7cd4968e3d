"""The scripts of the recipe for a GPU, run on the CPU with a tiny random base."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the scripts are no part of what is installed

TINY = ROOT / "configs" / "train-gpu-tiny.toml"
Run = Callable[..., int]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_base_folder: Path) -> Iterator[Run]:
    """Runs the script on the tiny plan; returns its exit code."""
    from training.helpers import write_data

    from latentpress.training import callbacks
    from latentpress.training import run as training
    from scripts import train_gpu

    data = tmp_path_factory.mktemp("data")
    write_data(data / "squad_sample.jsonl", 24)

    def start(out: Path, *arguments: str) -> int:
        given = ["--plan", str(TINY), "--out", str(out), "--data-dir", str(data), "--base", str(tiny_base_folder)]
        return train_gpu.main([*given, "--parcel", str(data / "none"), "--files", str(data / "none"), *arguments])

    with pytest.MonkeyPatch.context() as patched:
        for name, value in train_gpu.QUIET.items():
            patched.setenv(name, value)
        patched.setenv("ACCELERATE_USE_CPU", "true")
        patched.setattr(training, "keep_freed_memory", lambda: False)  # a setting of the whole process
        patched.setattr(callbacks, "plot_losses", lambda history, path: None)  # as slow as ten steps
        yield start


@pytest.fixture
def parcel(tmp_path: Path) -> Path:
    """Three files, one of them empty, in six parts of 1,000 bytes or less."""
    from scripts.gpu_recipe.parcels import pack

    files = {"data/a.jsonl": bytes(range(256)) * 10, "b": b"", "base/c": b"xyz" * 1000}
    for name, content in files.items():
        (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / name).write_bytes(content)
    folder = tmp_path / "parcel"
    pack({name: tmp_path / "from" / name for name in files}, folder, 1000)
    return folder
