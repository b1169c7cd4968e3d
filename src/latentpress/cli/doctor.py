"""`latentpress doctor`: what is missing on this machine, and how to get it. Works where torch itself is missing."""

import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from latentpress.base_model import cache_root, fetch_default
from latentpress.cli.info import describe_base, describe_device, describe_presses
from latentpress.cli.options import Json
from latentpress.cli.output import console, file_size, print_json, progress_console
from latentpress.errors import BaseModelError

_OLDEST_PYTHON = (3, 11)
_CACHE_BYTES = 500_000_000  # what fetching the base model needs while it works
_FETCH = "run: latentpress doctor --fetch"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    """What."""
    ok: bool
    """Whether it is as it should be."""
    detail: str
    """What was found."""
    remedy: str | None = None
    """How to get it, where it is not ok."""
    needed: bool = True
    """Whether the library cannot work without it."""


def doctor(
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch the base model first, if it is missing.")] = False,
    as_json: Json = False,
) -> None:
    """Check versions, base model, presses, disk space and speed.

    The exit code is 1 if something needed is missing.
    """
    checks = []
    for check in _checks(fetch):
        checks.append(check)
        if not as_json:
            _print(check)
    healthy = all(check.ok for check in checks if check.needed)
    if as_json:
        print_json({"ok": healthy, "checks": [asdict(check) for check in checks]})
    else:
        console().print("everything needed is here" if healthy else "something needed is missing", style="bold")
    if not healthy:
        raise typer.Exit(1)


def _checks(fetch: bool) -> Iterator[Check]:
    yield _python()
    installed = [_package(requirement) for requirement in _requirements()]
    yield from installed
    yield _disk_space()
    if not all(check.ok for check in installed):
        return  # what follows imports them
    yield from _models(fetch)
    yield _guarded("dtype", _dtype)
    yield _guarded("cuda", _cuda)


def _python() -> Check:
    oldest = ".".join(map(str, _OLDEST_PYTHON))
    return Check(
        name="python",
        ok=sys.version_info >= _OLDEST_PYTHON,
        detail=f"{platform.python_version()} ({oldest} or newer)",
        remedy=f"make the environment anew with Python {oldest} or newer",
    )


def _requirements() -> list[str]:
    """What the package says it needs, like `torch>=2.11`, extras left out."""
    try:
        return [line for line in metadata.requires("latentpress") or [] if ";" not in line]
    except metadata.PackageNotFoundError:
        return ["torch", "transformers", "peft", "safetensors"]


def _package(requirement: str) -> Check:
    name = re.split(r"[\s<>=!~;\[(]", requirement, maxsplit=1)[0]
    oldest = re.search(r">=\s*([\d.]+)", requirement)
    wanted = f"{oldest[1]} or newer" if oldest else "any version"
    remedy = f'run: {sys.executable} -m pip install "{requirement}"'
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name=name, ok=False, detail=f"not installed ({wanted})", remedy=remedy)
    ok = oldest is None or _numbers(found) >= _numbers(oldest[1])
    return Check(name=name, ok=ok, detail=f"{found} ({wanted})", remedy=remedy)


def _numbers(version: str) -> tuple[int, ...]:
    """2.13.0+cpu -> (2, 13, 0)."""
    return tuple(int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part)  # type: ignore[index]


def _disk_space() -> Check:
    folder = cache_root()
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    filled = (folder / "bases").is_dir() and any(child.is_dir() for child in (folder / "bases").iterdir())
    return Check(
        name="disk space",
        ok=free >= _CACHE_BYTES or filled,
        detail=f"{file_size(free)} free for the cache in {folder}",
        remedy=f"free {file_size(_CACHE_BYTES)}, or point LATENTPRESS_CACHE at a folder with more",
    )


def _models(fetch: bool) -> Iterator[Check]:
    """The base model, and the presses that are made for it."""
    problem = _fetch_problem() if fetch else None
    base = describe_base()
    found = base["present"] and base["error"] is None
    state = f"fingerprint {base['fingerprint'][:12]}" if found else base["error"] or "missing or incomplete"
    yield Check(name=f"base {base['id']}", ok=found, detail=f"{state}, in {base['folder']}", remedy=problem or _FETCH)
    presses = describe_presses()
    if not presses:
        remedy = "get a release of latentpress with presses in it, or train one: latentpress train --help"
        yield Check(name="presses", ok=False, detail="none is shipped with this installation", remedy=remedy)
    for row in presses:
        yield _press(row, base)


def _fetch_problem() -> str | None:
    try:
        fetch_default(lambda line: progress_console().print(line, soft_wrap=True))
    except BaseModelError as error:
        return str(error)
    return None


def _press(row: dict[str, Any], base: dict[str, Any]) -> Check:
    """Every file of a shipped press against its checksum, and its base model against the one here."""
    from latentpress.checkpoints.io import read_config, sha256

    name, folder = f"press {row['name']}", Path(row["folder"])
    reinstall = "restore the files (git checkout, git lfs pull), or install latentpress again"
    if row["error"]:
        return Check(name=name, ok=False, detail=row["error"], remedy=reinstall)
    _, digests, _ = read_config(folder)
    for file, digest in sorted(digests.items()):
        if not (folder / file).is_file() or sha256(folder / file) != digest:
            return Check(name=name, ok=False, detail=f"{file} is missing, truncated or changed", remedy=reinstall)
    if row["base"] == base["id"] and base["fingerprint"] and row["base_fingerprint"] != base["fingerprint"]:
        made_for = f"{row['base']} ({row['base_fingerprint'][:12]})"
        detail = f"made for {made_for}, and the one here is another ({base['fingerprint'][:12]})"
        return Check(name=name, ok=False, detail=detail, remedy=f"remove {base['folder']}, then {_FETCH}")
    return Check(name=name, ok=True, detail=f"all files whole, {file_size(row['bytes'])}, for {row['base']}")


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    """A check of what is good to have; one that fails says so and stops nothing."""
    try:
        return look()
    except (RuntimeError, ImportError) as error:
        return Check(
            name=name, ok=False, detail=str(error).splitlines()[0] if str(error) else type(error).__name__, needed=False
        )


def _dtype() -> Check:
    """Whether the type that presses run in here is the faster one: small matrix products, best of several."""
    import torch

    from latentpress.loading import usual_dtype

    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(384, 384).to(dtype)
        timings = []
        for _ in range(8):
            started = time.perf_counter()
            a @ a
            timings.append(time.perf_counter() - started)
        seconds[dtype] = min(timings)
    used = usual_dtype("cpu")
    (other,) = seconds.keys() - {used}
    speed = seconds[other] / seconds[used]
    names = [str(dtype).removeprefix("torch.") for dtype in (used, other)]
    return Check(
        name="dtype",
        ok=speed >= 1,
        detail=f"{names[0]} on this CPU, {speed:.1f} times the speed of {names[1]}",
        remedy=f"pass --dtype {names[1]}",
        needed=False,
    )


def _cuda() -> Check:
    device = describe_device()
    if device["type"] == "cuda":
        return Check(name="cuda", ok=True, detail=device["name"], needed=False)
    remedy = "not needed; for a GPU install a torch build for CUDA (https://pytorch.org/get-started)"
    return Check(name="cuda", ok=False, detail="no GPU that torch can use", remedy=remedy, needed=False)


def _print(check: Check) -> None:
    mark, style = ("ok", "green") if check.ok else ("missing", "red") if check.needed else ("no", "yellow")
    line = Text.assemble((f"{mark:<8}", style), f"{check.name}: {check.detail}")
    if not check.ok and check.remedy:
        line.append(f"\n        {check.remedy}", style="bold" if check.needed else "dim")
    console().print(line, soft_wrap=True)
