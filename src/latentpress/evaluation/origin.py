"""When, where and by what a file of predictions was begun; answers do not depend on it, but a sceptic may ask."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "transformers")
_FLAGS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")


def origin(device: str | torch.device) -> dict[str, Any]:
    """Plain data: `date`, `versions`, `revision` of the checkout if there is one, `device`, its name, and `threads`.

    The name is in `processor`, of a GPU too.
    """
    from latentpress import __version__

    place = torch.device(device)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else processor()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"latentpress": __version__, **{package: metadata.version(package) for package in _PACKAGES}},
        "revision": _revision(Path(__file__).parents[1]),
        "device": place.type,
        "processor": name,
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The processor's name, and what it has for fast products."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    has = [flag for flag in _FLAGS if flag in fields.get("flags", "").split()]
    return " ".join([fields.get("model name", platform.machine()), *(f"({flag})" for flag in has[:1])])


def _revision(folder: Path) -> str | None:
    """Commit of the checkout that the library runs from, with `+` where files of it were changed; None outside one."""

    def git(*command: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.strip()

    try:
        if not git("ls-files", "--", "."):  # inside some other repository, as a virtual environment may be
            return None
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None
