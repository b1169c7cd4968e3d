"""What the tests of the command line share: a way to run it, and tiny presses on disk."""

import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from latentpress.cli import main
from latentpress.cli import run as cli_run

TEXT = "The treaty was signed in Paris on the first day of May, and the fox was there. " * 4
LATENTS = ".latents.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    def fails_with(self, *parts: str) -> None:
        """Checks for a user error: exit code 2 and one line on stderr that holds the parts, and nothing else."""
        assert self.code == 2, self
        assert self.out == ""
        assert self.err.startswith("latentpress: error: ")
        assert "Traceback" not in self.err
        assert self.err.count("\n") == 1, self.err
        for part in parts:
            assert part in self.err, self.err


def outputs(folder: Path) -> list[str]:
    """Every file below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def same(file: Path, press: Path, text: str, **options: Any) -> bool:
    """Tells whether a file holds what the library makes of the text, in bfloat16."""
    import torch

    import latentpress
    from latentpress import EmbeddingLatents

    found, expected = EmbeddingLatents.load(file), latentpress.load(press).compress(text, **options)
    return (
        found.text_sha256 == expected.text_sha256
        and found.windows == expected.windows
        and torch.equal(found.vectors, expected.vectors.bfloat16())
    )


def make_runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Gives a function that runs the command in this process, with all that it sets set back after the test."""
    from transformers.utils import logging

    for name, value in cli_run._QUIET.items():  # read when transformers is imported, so here it is told in person too
        monkeypatch.setenv(name, os.environ.get(name, value))
    monkeypatch.setattr(logging, "_tqdm_active", False)

    def run(*args: str | Path, stdin: bytes = b"", entry: Callable[[list[str]], int] = main) -> Result:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        code = entry([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Result(code=code, out=captured.out, err=captured.err)

    return run


def write_tiny_press(folder: Path, base_folder: Path, **changes: Any) -> Path:
    """Writes a random press on a base in a folder, which is its base's id, so that it loads without `--base`."""
    import torch

    from latentpress.backbone import load_base
    from latentpress.checkpoints.config import BaseReference, PressConfig
    from latentpress.lora import LoraSettings
    from latentpress.model import PressModel
    from latentpress.training.checkpoint import export_press

    base = load_base(base_folder, id=str(base_folder), dtype=torch.float32)
    lora = LoraSettings(rank=2)
    config = PressConfig(
        name="tiny",
        base=BaseReference(id=str(base_folder), fingerprint=base.fingerprint, width=base.width),
        encoder_layers=1,
        encoder_lora=lora,
        decoder_lora=lora,
        candidates=(2, 4, 8),
        converter_width=16,
        window_tokens=48,
        trained={"recipe": "none", "steps": 0},
    )
    config = replace(config, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        export_press(folder, PressModel(config, base), config)
    return folder
