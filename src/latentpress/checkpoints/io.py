"""Press folders: config.json, modules.safetensors, and two adapters in PEFT's layout. No pickle anywhere.

press/
  config.json                   settings, and the SHA-256 of every other file
  modules.safetensors           converter, selector head, whatever the compressor trains
  encoder_adapter/              adapter_config.json, adapter_model.safetensors: loads with PeftModel.from_pretrained
  decoder_adapter/              either is missing where the base model is used as it is
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentpress.checkpoints.config import PressConfig
from latentpress.errors import PressError
from latentpress.lora import LoraSettings

CONFIG = "config.json"
MODULES = "modules.safetensors"
ADAPTERS = {"encoder": "encoder_adapter", "decoder": "decoder_adapter"}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def sha256(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_press(
    folder: Path,
    config: PressConfig,
    modules: dict[str, Tensor],
    adapters: dict[str, tuple[dict[str, Tensor], LoraSettings, list[str], int]],
) -> None:
    """Writes a press folder whole or not at all.

    Args:
        folder: where; an older press there is replaced once the new one is complete.
        config: its settings.
        modules: weights outside the adapters.
        adapters: for `encoder` and `decoder`: weights under PEFT's names, settings, names of the adapted layers, depth.

    Raises:
        PressError: something else than a press is there, or it cannot be written; what was there stays as it was.
    """
    with _whole(folder) as building:
        _save(modules, building / MODULES)
        for role, (state, settings, names, depth) in adapters.items():
            _save_adapter(building / ADAPTERS[role], config, role, state, settings, names, depth)
        files = sorted(p.relative_to(building).as_posix() for p in building.rglob("*") if p.is_file())
        data = {**config.to_dict(), "files": {name: sha256(building / name) for name in files}}
        (building / CONFIG).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def copy_press(press: Path, folder: Path) -> None:
    """Copies a press folder whole or not at all; an older press in its place is replaced once the copy is complete.

    Raises:
        PressError: something else than a press is there, or it cannot be written; what was there stays as it was.
    """
    with _whole(folder) as building:
        shutil.copytree(press, building, dirs_exist_ok=True)


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Gives a folder to build a press in, which gets its name when the body is done."""
    folder = folder.resolve()  # a link keeps pointing where it did
    _refuse_what_is_no_press(folder)
    building = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        building.mkdir(parents=True)
        yield building
        _swap(building, folder)
    except (OSError, SafetensorError) as error:
        raise PressError(
            f"the press cannot be written to {folder} ({error}), and what was there is unchanged; "
            "free space, or give another folder"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _refuse_what_is_no_press(folder: Path) -> None:
    """A press may replace a press, never a base model or somebody's documents."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        known = "schema_version" in json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError, TypeError):
        known = False
    if not known:
        raise PressError(f"{folder} is there and holds no press; give a new folder, or remove this one")


def _swap(building: Path, folder: Path) -> None:
    if not folder.exists():
        os.replace(building, folder)
        return
    old = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.old"
    try:
        os.replace(folder, old)
        os.replace(building, folder)
    except BaseException:  # an interruption too must not leave the name without a press
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in tensors.items()}, path)


def _save_adapter(
    folder: Path,
    config: PressConfig,
    role: str,
    state: dict[str, Tensor],
    settings: LoraSettings,
    names: list[str],
    depth: int,
) -> None:
    base = config.encoder_base if role == "encoder" and config.encoder_base else config.base
    peft = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base.id,
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        use_rslora=settings.rank_stabilised,
        lora_dropout=settings.dropout,
        target_modules=sorted({name.rpartition(".")[2] for name in names}),
        layers_to_transform=list(range(depth)),
        inference_mode=True,
    )
    folder.mkdir()
    peft.save_pretrained(str(folder))
    _save(state, folder / "adapter_model.safetensors")


def read_press(folder: Path) -> tuple[PressConfig, dict[str, Tensor], dict[str, dict[str, Tensor]], str]:
    """Reads a press folder.

    Returns:
        Settings, weights outside the adapters, adapters by role, and the press's fingerprint.

    Raises:
        PressError: anything is missing, truncated, changed, unknown, or a pickle.
    """
    config, digests, fingerprint = read_config(folder)
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file():
            raise PressError(f"press {folder} lacks {name}; the folder is incomplete, copy or train it again")
        if (found := sha256(path)) != digest:
            raise PressError(
                f"press {folder}: {name} has SHA-256 {found[:12]}..., config.json says {digest[:12]}...; "
                "the file is truncated or was changed, copy it again"
            )
    modules = _load(folder / MODULES)
    adapters = {
        role: _load(folder / name / "adapter_model.safetensors")
        for role, name in ADAPTERS.items()
        if f"{name}/adapter_model.safetensors" in digests
    }
    return config, modules, adapters, fingerprint


def read_config(folder: Path) -> tuple[PressConfig, dict[str, str], str]:
    """Reads only the settings of a press; returns them, the SHA-256 of its files, and its fingerprint."""
    path = folder / CONFIG
    if not folder.is_dir() or not path.is_file():
        pickles = sorted(p.name for p in folder.glob("*") if p.suffix in _PICKLES) if folder.is_dir() else []
        hint = (
            f"; {pickles[0]} is a pickle, which is never read: a press is config.json and safetensors"
            if pickles
            else ""
        )
        raise PressError(
            f"no press at {folder}: {CONFIG} is missing{hint}; "
            "give a press folder or a name that `latentpress info` lists"
        )
    try:
        raw = path.read_bytes()
        data: Any = json.loads(raw)
    except (OSError, ValueError, RecursionError) as error:
        raise PressError(f"{path} cannot be read as JSON ({error}); restore the file") from error
    digests = data.pop("files", None) if isinstance(data, dict) else None
    config = PressConfig.from_dict(data, str(path))
    needed = {MODULES}
    if config.decoder_lora is not None:
        needed.add(f"{ADAPTERS['decoder']}/adapter_model.safetensors")
    if not isinstance(digests, dict) or not needed <= set(digests):
        raise PressError(
            f"{path}: `files` must give the SHA-256 of {', '.join(sorted(needed))}; "
            "the press is incomplete, copy or train it again"
        )
    for name, digest in digests.items():
        if not _inside(name) or not isinstance(digest, str):
            raise PressError(
                f"{path}: `files` has {name!r}: {digest!r}, not a file of the press and its SHA-256; "
                "copy the press again"
            )
    return config, digests, hashlib.sha256(raw).hexdigest()


def _inside(name: str) -> bool:
    """By name alone: the hub's cache fills its folders with links to files elsewhere."""
    path = PurePath(name)
    return "\x00" not in name and not path.is_absolute() and ".." not in path.parts


def _load(path: Path) -> dict[str, Tensor]:
    if path.suffix in _PICKLES or not path.is_file():
        raise PressError(f"{path} is missing or not safetensors; pickles are never read")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise PressError(f"{path} cannot be read as safetensors ({error}); copy the press again") from error
