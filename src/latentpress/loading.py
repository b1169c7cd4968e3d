"""Presses by name, folder or hub id."""

from __future__ import annotations

import functools
import platform
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentpress.backbone import Base, load_base
from latentpress.base_model import base_folder
from latentpress.checkpoints.config import BaseReference
from latentpress.checkpoints.io import read_press
from latentpress.errors import BaseModelError, InputError, PressError
from latentpress.lora import load_lora_state, merge_lora
from latentpress.model import PressModel
from latentpress.paths import local_path

if TYPE_CHECKING:
    from latentpress.press import Press

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_AMPERE = (8, 0)  # compute capability of the first GPUs that compute in bfloat16
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


def shipped_presses() -> dict[str, Path]:
    """Presses that come with the library: name -> folder."""
    root = Path(str(resources.files("latentpress"))) / "presses"
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}


def press_folder(name: str | Path, *, config_only: bool = False) -> Path:
    """Folder of a press given by shipped name, folder or hub id.

    Args:
        name: which press.
        config_only: of a press on the hub, fetch its `config.json` alone.

    Raises:
        PressError: nothing of that name, with the shipped names.
    """
    shipped = shipped_presses()
    if str(name) in shipped:
        return shipped[str(name)]
    folder = local_path(name, PressError, "press")
    if folder.exists():
        return folder
    listed = f"shipped are {', '.join(shipped) or 'none'}; `latentpress info` lists them"
    if isinstance(name, str) and HUB_ID.fullmatch(name):
        return _from_hub(name, listed, ["config.json"] if config_only else ["*.json", "*.safetensors"])
    raise PressError(f"no press {str(name)!r}: not a folder, not a hub id (org/name), and {listed}")


def _from_hub(name: str, listed: str, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, allow_patterns=files))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PressError(
            f"no press {name!r}: no folder here, and not to be had from the hub ({reason}); "
            f"check the name and the network, and {listed}"
        ) from error


def load(
    name: str | Path,
    *,
    base: str | Path | None = None,
    encoder_base: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    merge: bool = True,
) -> Press:
    """Loads a press.

    Args:
        name: a shipped name, a folder, or a hub id.
        base: where its base model lies, if not under its own id.
        encoder_base: likewise for an encoder of another base.
        device: `cpu`, `cuda`, ...; a GPU if there is one, if None.
        dtype: `bfloat16`, `float32` or `float16`; what is fast on the device if None, see `usual_dtype`.
        merge: whether the decoder's adapter is merged into a copy of the weights that it adapts: on a CPU, 16 tokens
            are written in about 0.6 of the time, for as much memory again as these weights take (212 MB for the shipped
            presses in bfloat16). Without, numbers differ by rounding.

    Raises:
        PressError: the press cannot be read.
        BaseModelError: its base model is missing, or is another one than it was made for.
        InputError: an unknown device or dtype, or `encoder_base` for a press whose encoder has no base of its own.
    """
    from latentpress.press import Press

    model, bases, fingerprint = load_model(
        press_folder(name), base=base, encoder_base=encoder_base, device=device, dtype=dtype
    )
    if merge:
        merge_lora(model.decoder.body)
    return Press(model, bases[0], bases[1], fingerprint)


def load_model(
    folder: Path,
    *,
    base: str | Path | None = None,
    encoder_base: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> tuple[PressModel, tuple[Base, Base | None], str]:
    """Loads the network of a press; see `load`.

    Returns:
        The model, its base models, and the press's fingerprint.
    """
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    config, modules, adapters, fingerprint = read_press(folder)
    if encoder_base is not None and config.encoder_base is None:
        raise InputError(
            f"press {config.name!r} has one base model for encoder and decoder; give base=, not encoder_base="
        )
    decoder_base = _open_base(config.base, base, config.name, place, kind, option="base")
    other: Base | None = None
    if config.encoder_base is not None and config.encoder_base.fingerprint == config.base.fingerprint:
        other = decoder_base  # one copy of the weights
    elif config.encoder_base is not None:
        other = _open_base(config.encoder_base, encoder_base, config.name, place, kind, option="encoder_base")
    model = PressModel(config, decoder_base, other)
    fill(model, modules, adapters, folder)
    model.eval()
    return model, (decoder_base, other), fingerprint


def fill(model: PressModel, modules: dict[str, Tensor], adapters: dict[str, dict[str, Tensor]], folder: Path) -> None:
    """Copies the weights of a press folder in.

    Raises:
        PressError: some are missing, unknown or of another shape.
    """
    own = model.own_state()
    wrong = sorted({*own} ^ {*modules})
    wrong += [name for name in own if name in modules and own[name].shape != modules[name].shape]
    trees = model.trees()
    for role in ("encoder", "decoder"):
        state = adapters.get(role, {})
        missing, unknown = load_lora_state(trees[role].body, state) if role in trees else ([], [*state])
        wrong += [f"{role} {name}" for name in (*missing, *unknown)]
    if wrong:
        raise PressError(
            f"press {folder}: weights do not fit its settings, first {wrong[0]!r} of {len(wrong)}; "
            "the folder mixes two presses, copy it again"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(modules[name])


def _open_base(
    reference: BaseReference, given: str | Path | None, press: str, device: str, dtype: torch.dtype, *, option: str
) -> Base:
    """Loads the base model that a press names, from where the user says it lies."""
    try:
        folder = base_folder(given or reference.id)
    except BaseModelError as error:
        if given is not None:
            raise
        raise BaseModelError(
            f"press {press!r} needs its base model {reference.id!r}: {error}; if it lies elsewhere, give {option}="
        ) from error
    base = load_base(folder, id=str(given or reference.id), device=device, dtype=dtype)
    if base.fingerprint != reference.fingerprint:
        raise BaseModelError(
            f"press {press!r} was made for base model {reference.id!r} ({reference.fingerprint[:12]}), but {base.id!r} "
            f"is another one ({base.fingerprint[:12]}); give the right one with {option}="
        )
    if base.width != reference.width:
        raise PressError(
            f"press {press!r} says that its base model has width {reference.width}, it has {base.width}; "
            "restore the press's config.json"
        )
    return base


def resolve_device(device: str | None) -> str:
    """The device to use: the one asked for, else a GPU if there is one, else the CPU."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()  # reading it back refuses devices without memory, such as meta
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}; try cpu") from error
    return device


def resolve_dtype(dtype: str | None, device: str | torch.device) -> torch.dtype:
    """The type of base weights and activations by name; what is fast on the device if None."""
    if dtype is None:
        return usual_dtype(device)
    if dtype not in _DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; choose one of {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def usual_dtype(device: str | torch.device) -> torch.dtype:
    """The type of base weights and activations that is fast on a device: bfloat16 where it computes in it.

    A CPU without instructions for bfloat16 (most before 2022, and many since) may take several times as long for a
    matrix product in bfloat16 as in float32, see docs/decisions.md; float32 it is there, in twice the memory.
    """
    place = torch.device(device)
    if place.type == "cuda":
        native = torch.version.hip is not None or torch.cuda.get_device_capability(place) >= _AMPERE
    else:
        native = place.type != "cpu" or computes_bfloat16()
    return torch.bfloat16 if native else torch.float32


@functools.cache
def computes_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16: AVX-512 BF16 or AMX on x86, BF16 on Arm."""
    if platform.machine().lower() in {"x86_64", "amd64", "i386", "i686"}:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # builds without oneDNN lack it
    return known is not None and bool(known())
