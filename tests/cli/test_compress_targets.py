"""`latentpress compress` where something is already."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from cli.helpers import LATENTS, Result

Run = Callable[..., Result]

FOREIGN = {
    "weights": lambda: save({"weight": torch.zeros(4)}),
    "weights with metadata": lambda: save({"weight": torch.zeros(4)}, metadata={"format": "pt"}),
    "text": lambda: b"My only copy of a poem.",
    "pickle": lambda: pickle.dumps({"weight": [1.0]}),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_file_of_somebody_else_is_never_overwritten(
    run: Run, press: Path, document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    content = FOREIGN[kind]()
    named, within = tmp_path / "model.safetensors", tmp_path / "out" / f"treaty{LATENTS}"
    within.parent.mkdir()
    for file in (named, within):
        file.write_bytes(content)
    done = run("compress", document, "-o", within.parent, "--press", press)
    assert done.code == 2
    assert f"failed: {document}: {within}: is there and holds no latents" in done.err
    monkeypatch.setattr("latentpress.cli.compress.open_press", lambda *_, **__: pytest.fail("loaded the press"))
    run("compress", document, "-o", named, "--press", press).fails_with(str(named), "another -o, or remove it")
    assert named.read_bytes() == within.read_bytes() == content


@pytest.mark.parametrize("state", ["empty", "truncated", "of another version"])
def test_latents_that_cannot_be_read_any_more_are_made_anew(
    run: Run, press: Path, document: Path, tmp_path: Path, state: str
) -> None:
    file = tmp_path / "x.safetensors"
    args = ("compress", document, "-o", file, "--press", press)
    assert run(*args).code == 0
    content = file.read_bytes()
    old = save({"vectors": torch.zeros(2, 4)}, metadata={"latentpress": '{"schema_version": 0}'})
    file.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "of another version": old}[state])
    done = run(*args)
    assert (done.code, "1 compressed in" in done.out) == (0, True)
    assert file.read_bytes() == content
