"""The out folder of a run: checkpoints that are complete or absent, the identity of the run, and the press it makes.

    OUT/
      run.json              what the run is a function of; another run is refused here
      checkpoint-N/         trained float32 masters, optimiser, schedule, counters after step N; the last two are kept
      press/                the best press so far
      log.jsonl, trainer_state.json, loss.png

A checkpoint is written into a hidden folder, flushed, and gets its name by one rename. Randomness is a function of the
step, so there is no generator state to keep.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from latentpress.checkpoints.config import PressConfig
from latentpress.checkpoints.io import write_press
from latentpress.errors import TrainingError
from latentpress.files import alone, write_whole
from latentpress.lora import LoraLinear
from latentpress.model import PressModel

MASTERS = "masters.safetensors"
COUNTERS = "counters.json"
GUARD = "guard"  # key of what the loss guard remembers, in the counters
RUN = "run.json"
LOCK = ".lock"
PRESS = "press"
START = "start"  # key of what a run started from, in run.json
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_FILES = (MASTERS, OPTIMIZER_NAME, SCHEDULER_NAME, COUNTERS, TRAINER_STATE_NAME)  # of a checkpoint
# What this library names while it writes; an out folder may hold anything else.
_UNFINISHED_FOLDER = re.compile(rf"\.(checkpoint-\d+|{PRESS})\.[0-9a-f]{{8}}\.(partial|old)")
_UNFINISHED_FILE = re.compile(r"\.(run\.json|log\.jsonl|trainer_state\.json|loss\.png)(\.[0-9a-f]{8})?\.new")
_KEPT = 2


def checkpoints(out: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints of a run, by ascending step."""
    found = [(int(match[1]), path) for path in out.glob("checkpoint-*") if (match := _CHECKPOINT.fullmatch(path.name))]
    return sorted(found)


@contextlib.contextmanager
def new_checkpoint(out: Path, step: int) -> Iterator[Path]:
    """Gives a folder to write a checkpoint into; names it, and drops the oldest ones, when the body is done.

    Raises:
        TrainingError: it cannot be written, and the checkpoints before are unchanged.
    """
    building = out / f".checkpoint-{step}.{uuid.uuid4().hex[:8]}.partial"
    try:
        building.mkdir(parents=True)
        yield building
        for path in (*building.iterdir(), building):
            _flush(path)
        final = out / f"checkpoint-{step}"
        if final.exists():
            remove(final)
        os.replace(building, final)
        _flush(out)
    except (OSError, SafetensorError, RuntimeError) as error:  # a full disk is a RuntimeError to torch.save
        raise TrainingError(
            f"{out}: the checkpoint of step {step} cannot be written ({error}), and the ones before it are unchanged; "
            "free space, then give the same command again"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    for _, old in checkpoints(out)[:-_KEPT]:
        remove(old)


def remove(folder: Path) -> None:
    """Takes a checkpoint its name, then its files, so that none is ever seen incomplete."""
    doomed = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.old"
    os.replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(out: Path) -> None:
    """Removes what a killed process left behind, after undoing half of a swap of the press."""
    folders = sorted(path for path in out.glob(".*") if _UNFINISHED_FOLDER.fullmatch(path.name))
    for left in folders:
        if left.name.startswith(f".{PRESS}.") and left.suffix == ".old" and not (out / PRESS).exists():
            os.replace(left, out / PRESS)
        else:
            shutil.rmtree(left, ignore_errors=True)
    for left in out.glob(".*.new"):
        if _UNFINISHED_FILE.fullmatch(left.name):
            left.unlink()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Makes the out folder, and keeps other trainings out of it.

    Raises:
        TrainingError: another one is running there, or it cannot be written to.
    """
    busy = TrainingError(f"another training is running in {out}; wait, stop it, or give another folder")
    with contextlib.ExitStack() as held:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone(out / LOCK, busy))
        yield


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Explains why files of the out folder cannot be written.

    Raises:
        TrainingError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise TrainingError(f"{out} cannot be written to ({error}); free space, or give another folder") from error


def recorded_start(out: Path) -> dict[str, Any]:
    """What the run in a folder started from, as `claim` wrote it down; empty if there is no run."""
    try:
        data = json.loads((out / RUN).read_text(encoding="utf-8"))
        start = data.get(START) if checkpoints(out) else None
    except (OSError, ValueError, AttributeError):
        return {}
    return start if isinstance(start, dict) else {}


def recorded_dtype(out: Path) -> str | None:
    """The type of base weights and activations of the run in a folder; None if there is no run that can be read."""
    try:
        dtype = json.loads((out / RUN).read_text(encoding="utf-8"))["recipe"]["dtype"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return dtype if isinstance(dtype, str) else None


def claim(out: Path, identity: dict[str, Any], *, resume: bool, defaults: dict[str, Any] | None = None) -> Path | None:
    """Makes the out folder this run's.

    Args:
        out: the folder.
        identity: what the run is a function of; `START` in it is written down and not compared.
        resume: whether a run that is there may be continued.
        defaults: what an older run that does not mention a setting was trained with.

    Returns:
        The newest checkpoint of the same run, None at the start.

    Raises:
        TrainingError: there are checkpoints of another run, with what differs; or of this one, and `resume` is False.
    """
    sweep(out)
    found = checkpoints(out)
    plain, silent = (json.loads(json.dumps(data)) for data in (identity, defaults or {}))
    if found:
        try:
            old = dict(json.loads((out / RUN).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise TrainingError(
                f"{out} holds {found[-1][1].name} but no readable {RUN} ({error}); train into another folder"
            ) from error
        compared = {name: value for name, value in plain.items() if name != START}
        old.pop(START, None)
        differing = list(_differences(_completed(old, silent), compared))
        if differing:
            raise TrainingError(
                f"{out} holds a run with other settings: {'; '.join(differing[:5])}; "
                "give the same settings to resume it, or another folder to start anew"
            )
        if not resume:
            raise TrainingError(
                f"{out} holds a run at step {found[-1][0]}; resume it, or give another folder to start anew"
            )
        return found[-1][1]
    write_whole(out / RUN, json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
    return None


def check_whole(checkpoint: Path) -> None:
    """Makes sure that a checkpoint can be read before anything is built on it.

    Trainer itself goes on with a fresh optimiser where one is missing.

    Raises:
        TrainingError: a file is missing or damaged, with what to do.
    """
    try:
        for name in _FILES:
            path = checkpoint / name
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
            else:
                torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, ValueError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        raise TrainingError(
            f"{path} cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__}); remove "
            f"{checkpoint} to resume from the checkpoint before, or train on from {checkpoint.parent / PRESS} with "
            "--from-press in another folder"
        ) from error


def _completed(data: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The data with what it lacks from the defaults, at every depth."""
    nested = [k for k, v in defaults.items() if isinstance(v, dict) and isinstance(data.get(k), dict)]
    inner = {key: _completed(data[key], defaults[key]) for key in nested}
    return {**defaults, **data, **inner}


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name} was {old!r}, is {new!r}"


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that training moves, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def kept(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds of a model, by name: what training moves, and what a press has that does not move."""
    fixed = {name: buffer for name, buffer in model.named_buffers() if name.startswith("compressor.")}
    return {**trained(model), **fixed}


def save_masters(masters: Mapping[str, Tensor], folder: Path) -> None:
    """Writes what `kept` gives, by name, in float32."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in masters.items()}, folder / MASTERS)


def load_masters(model: nn.Module, folder: Path) -> None:
    """Reads what `save_masters` wrote.

    Raises:
        TrainingError: the file does not fit the model.
    """
    state: dict[str, Tensor] = load_file(folder / MASTERS)
    own = kept(model)
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in own.items()}:
        raise TrainingError(
            f"{folder / MASTERS} does not hold the parameters of this training; remove {folder} to resume from the "
            "checkpoint before"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def export_press(
    folder: Path,
    model: PressModel,
    config: PressConfig,
    *,
    own: dict[str, Tensor] | None = None,
    adapters: dict[str, dict[str, Tensor]] | None = None,
) -> None:
    """Writes the press that a model is, in bfloat16; replaces an older one there.

    Args:
        folder: where to.
        model: the press.
        config: its settings.
        own: what `PressModel.own_state` gives, of a model whose weights lie shared out.
        adapters: likewise, of `PressModel.adapter_states`.
    """
    own = model.own_state() if own is None else own
    states = model.adapter_states() if adapters is None else adapters
    sides = {"encoder": (model.encoder, config.encoder_lora), "decoder": (model.decoder, config.decoder_lora)}
    written = {}
    for role, (backbone, settings) in sides.items():
        if backbone is not None and settings is not None:
            names = [name for name, layer in backbone.body.named_modules() if isinstance(layer, LoraLinear)]
            written[role] = (states[role], settings, names, backbone.depth)
    write_press(folder, config, own, written)
