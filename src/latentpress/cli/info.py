"""`latentpress info`: what is here, or every setting of a press. Loads no weights."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from latentpress.cli.options import DEFAULT_PRESS, Json
from latentpress.cli.output import console, file_size, print_json
from latentpress.errors import BaseModelError, PressError

_PACKAGES = ("torch", "transformers", "peft", "safetensors")


def info(
    press: Annotated[
        str | None, typer.Argument(metavar="PRESS", help="Name, folder or hub id: show its settings.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the shipped presses, compressors, ratio policies, base model and device; or the settings of a press."""
    if press is None:
        result = _overview()
        show = _print_overview
    else:
        result = _press_details(press)
        show = _print_press
    if as_json:
        print_json(result)
    else:
        show(result)


def describe_base() -> dict[str, Any]:
    """The default base model: is it here, where, and which one it is.

    `fingerprint` is None when it is missing, `error` says so when it is damaged.
    """
    from latentpress.backbone import fingerprint
    from latentpress.base_model import DEFAULT_BASE, default_folder, is_complete

    folder = default_folder()
    base: dict[str, Any] = {
        "id": DEFAULT_BASE,
        "folder": str(folder),
        "present": is_complete(folder),
        "fingerprint": None,
        "error": None,
    }
    if base["present"]:
        from safetensors import SafetensorError

        try:
            base["fingerprint"] = fingerprint(folder)
        except (BaseModelError, OSError, ValueError, SafetensorError) as error:
            base["error"] = str(error)
    return base


def describe_presses() -> list[dict[str, Any]]:
    """The shipped presses with what one chooses them by; `error` says what is wrong with one that cannot be read."""
    from latentpress.loading import shipped_presses

    rows = []
    for name, folder in shipped_presses().items():
        row: dict[str, Any] = {
            "name": name,
            "folder": str(folder),
            "bytes": _size(folder),
            "default": name == DEFAULT_PRESS,
            "error": None,
        }
        try:
            from latentpress.checkpoints.io import read_config
            from latentpress.ratios import POLICIES

            config, _, fingerprint = read_config(folder)
            row |= {
                "fingerprint": fingerprint,
                "base": config.base.id,
                "base_fingerprint": config.base.fingerprint,
                "compressor": config.compressor,
                "policy": config.policy,
                "sizes": f"{kind.word()}s" if (kind := POLICIES.get(config.policy)) else "sizes",
                "candidates": list(config.candidates),
            }
        except PressError as error:
            row["error"] = str(error)
        rows.append(row)
    return rows


def describe_device() -> dict[str, Any]:
    """Where presses run unless told otherwise."""
    import torch

    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name(0) if cuda else platform.processor() or platform.machine()
    return {"type": "cuda" if cuda else "cpu", "name": name, "cpus": os.cpu_count(), "threads": torch.get_num_threads()}


def _overview() -> dict[str, Any]:
    from latentpress.base_model import cache_root
    from latentpress.compressors import COMPRESSORS
    from latentpress.ratios import POLICIES
    from latentpress.training.recipes import PIPELINES, RECIPES

    recipes = {name: (recipe.__doc__ or "").partition("\n")[0] for name, recipe in RECIPES.items()}
    recipes |= {name: f"{', then '.join(names)}, each from the press before" for name, names in PIPELINES.items()}
    packages = {name: metadata.version(name) for name in _PACKAGES}
    return {
        "versions": {"latentpress": _own_version(), "python": platform.python_version(), **packages},
        "device": describe_device(),
        "cache": str(cache_root()),
        "base": describe_base(),
        "presses": describe_presses(),
        "compressors": {name: kind.describe for name, kind in COMPRESSORS.items()},
        "policies": {name: kind.describe for name, kind in POLICIES.items()},
        "recipes": recipes,
    }


def _press_details(name: str) -> dict[str, Any]:
    from latentpress.checkpoints.io import CONFIG, read_config
    from latentpress.loading import press_folder, shipped_presses

    folder = press_folder(name, config_only=True)
    on_the_hub = folder not in (Path(name).expanduser(), *shipped_presses().values())
    config, digests, fingerprint = read_config(folder)
    settings = config.to_dict()
    trained = settings.pop("trained")
    files: list[dict[str, Any]] = [
        {"name": file, "bytes": _size(folder / file), "sha256": digest} for file, digest in sorted(digests.items())
    ]
    missing = [file["name"] for file in files if file["bytes"] is None]
    if missing and not on_the_hub:  # of those there, nothing but the settings was fetched
        raise PressError(f"press {folder} lacks {missing[0]}; the folder is incomplete, copy or train it again")
    files.insert(0, {"name": CONFIG, "bytes": _size(folder / CONFIG), "sha256": fingerprint})
    return {
        "name": config.name,
        "folder": str(folder),
        "fingerprint": fingerprint,
        "bytes": None if missing else sum(file["bytes"] for file in files),
        "settings": settings,
        "trained": trained,
        "files": files,
    }


def _own_version() -> str:
    from latentpress import __version__

    return __version__


def _size(path: Path) -> int | None:
    """Bytes of a file, or of all files below a folder; None if there is neither."""
    if path.is_dir():
        return sum(child.stat().st_size for child in path.rglob("*") if child.is_file())
    return path.stat().st_size if path.is_file() else None


def _print_overview(result: dict[str, Any]) -> None:
    out = console()
    out.print("  ".join(f"{name} {version}" for name, version in result["versions"].items()), soft_wrap=True)
    device, base = result["device"], result["base"]
    out.print(
        f"device {device['type']} ({device['name']}, {device['cpus']} CPUs, {device['threads']} threads)",
        soft_wrap=True,
    )
    state = (
        f"fingerprint {base['fingerprint'][:12]}"
        if base["fingerprint"]
        else base["error"] or "missing; run: latentpress doctor --fetch"
    )
    out.print(f"base model {base['id']} in {base['folder']}: {state}", soft_wrap=True)
    out.print("\nPresses", style="bold")
    for row in result["presses"]:
        mark = " (default)" if row["default"] else ""
        if row["error"]:
            out.print(f"  {row['name']}{mark}: {row['error']}", style="red", soft_wrap=True)
            continue
        candidates = ", ".join(map(str, row["candidates"]))
        out.print(
            f"  {row['name']}{mark}: {row['compressor']}, {row['policy']}, {row['sizes']} {candidates}, "
            f"on {row['base']}, {file_size(row['bytes'])}",
            soft_wrap=True,
        )
    if not result["presses"]:
        out.print("  none shipped; train one: latentpress train --help")
    headings = {"Compressors": "compressors", "Ratio policies": "policies", "Training recipes": "recipes"}
    for heading, names in ((heading, result[key]) for heading, key in headings.items()):
        out.print(f"\n{heading}", style="bold")
        for name, line in names.items():
            out.print(f"  {name}: {line}", soft_wrap=True)


def _print_press(result: dict[str, Any]) -> None:
    out = console()
    out.print(f"{result['name']} in {result['folder']}", style="bold", soft_wrap=True)
    out.print(f"fingerprint {result['fingerprint']}, {_shown_size(result['bytes'])}", soft_wrap=True)
    for heading, values in (("Settings", result["settings"]), ("Trained", result["trained"])):
        out.print(f"\n{heading}", style="bold")
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
        for key, value in _flat(values):
            table.add_row(key, "none" if value is None else repr(value) if isinstance(value, str) else str(value))
        out.print(table if table.rows else "  nothing is noted")
    out.print("\nFiles", style="bold")
    for file in result["files"]:
        out.print(f"  {file['name']}: {_shown_size(file['bytes'])}, SHA-256 {file['sha256'][:12]}", soft_wrap=True)


def _shown_size(count: int | None) -> str:
    return "weights not fetched" if count is None else file_size(count)


def _flat(values: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Nested settings as rows: {"prompt": {"system": ""}} -> ("prompt.system", "")."""
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        rows += _flat(value, f"{before}{key}.") if isinstance(value, dict) else [(before + key, value)]
    return rows
