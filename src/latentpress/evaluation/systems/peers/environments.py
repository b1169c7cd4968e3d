"""Where a peer's package is installed: which Python runs it, and how one is made that does.

$LATENTPRESS_CACHE or ~/.cache/latentpress
└── .venv-peers/
    ├── kvpress/             complete or absent: it gets its name by one rename
    ├── .kvpress.lock        one process installs, the others wait for it
    └── .kvpress.tmp-*       under construction; what a killed installation leaves is removed by the next one
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from latentpress.base_model import cache_root
from latentpress.errors import InputError
from latentpress.files import put_in_place, staging_beside
from latentpress.paths import local_path

_FIRST = "torch"  # installed by itself
_LOOK_UP = """
import json, sys
from importlib import metadata
found = {name: metadata.version(name) for name in sys.argv[1:] if list(metadata.distributions(name=name))}
print(json.dumps(found))
"""
_LOOK_UP_SECONDS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A peer's package."""

    name: str
    """Of the peer and of the package."""
    version: str
    """The one that its worker was written for."""
    beside: tuple[str, ...] = ("transformers", "torch")
    """Packages that its results depend on too."""

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.name}=={self.version}"

    @property
    def variable(self) -> str:
        """Environment variable that names an interpreter for it."""
        return f"LATENTPRESS_PEER_{self.name.upper()}"

    @property
    def requirements(self) -> Path:
        """File with the exact versions of its environment."""
        return Path(__file__).parent / f"requirements-{self.name}.txt"

    @property
    def folder(self) -> Path:
        """Where `install` puts its environment."""
        return cache_root() / ".venv-peers" / self.name


PACKAGES = {
    package.name: package
    for package in (Package(name="llmlingua", version="0.2.2"), Package(name="kvpress", version="0.5.5"))
}


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that has a peer's package."""

    python: Path
    """Its executable."""
    versions: Mapping[str, str]
    """Of the package and of those its results depend on."""


def find(name: str, given: Mapping[str, Path] | None = None) -> Interpreter:
    """The interpreter for a peer: the one given, else the environment variable's, the installed one's, or this one.

    Args:
        name: of the peer.
        given: interpreters by peer.

    Raises:
        InputError: none of them has the package in the right version, or the one named does not run.
    """
    package = _package(name)
    named = (given or {}).get(name) or os.environ.get(package.variable)
    if named:
        return _checked(package, local_path(named, InputError, f"Python of the peer {name}"))
    installed = python_in(package.folder)
    if installed.exists():
        return _checked(package, installed)
    versions = _own_versions(package)
    if versions.get(package.name) == package.version:
        return Interpreter(Path(sys.executable), versions)
    there = f"this Python has {versions[package.name]}" if package.name in versions else "it is not installed"
    raise InputError(f"the peer {name} needs the package {package.requirement}, and {there}; {_remedy(package)}")


def install(name: str, progress: Callable[[str], None] = lambda _line: None) -> Path:
    """Makes the environment of a peer in the cache, unless it is there, and returns its interpreter.

    torch goes first and by itself: pip then takes the build that its configuration offers (a CPU one, say) and keeps
    it, where resolved together with the rest it may prefer the one that brings gigabytes of CUDA libraries.

    Args:
        name: of the peer.
        progress: called with one line of text as each step starts.

    Raises:
        InputError: an unknown peer, or pip fails; nothing half-made is left under the environment's name.
    """
    package = _package(name)
    folder, python = package.folder, python_in(package.folder)
    try:
        with staging_beside(folder) as staging:
            if python.exists() and _versions(python, package).get(name) == package.version:
                return python
            _fill(package, staging / "new", progress)
            put_in_place(staging / "new", folder)
    except OSError as error:
        raise InputError(
            f"cannot make the environment of the peer {name} in {folder}: {error}; "
            "free some space (about 2 GB) or point LATENTPRESS_CACHE at a folder that can be written"
        ) from error
    _versions.cache_clear()
    progress(f"{package.requirement} is ready in {folder}")
    return python


def python_in(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _package(name: str) -> Package:
    if name not in PACKAGES:
        raise InputError(f"there is no peer {name!r} to install; choose one of {', '.join(PACKAGES)}")
    return PACKAGES[name]


def _fill(package: Package, folder: Path, progress: Callable[[str], None]) -> None:
    pins = package.requirements.read_text(encoding="utf-8").split()
    first = next(pin for pin in pins if pin.startswith(f"{_FIRST}=="))
    progress(f"making an environment for {package.requirement}")
    _run(package, [sys.executable, "-m", "venv", str(folder)])
    # pip compiles every module at once otherwise, most of which nobody imports.
    pip = [str(python_in(folder)), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--no-compile"]
    progress(f"installing {first}")
    _run(package, [*pip, "--constraint", str(package.requirements), first])
    progress(f"installing {package.requirement} and what it needs")
    _run(package, [*pip, "--requirement", str(package.requirements)])


def _run(package: Package, command: list[str]) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines or [f"code {done.returncode}"]
        raise InputError(
            f"cannot install {package.requirement}: {errors[-1]}; check the network and pip's index and try again, or "
            f"install {package.requirements} into an environment of your own and set {package.variable} to its Python"
        )


def _checked(package: Package, python: Path) -> Interpreter:
    """An interpreter that was named.

    Raises:
        InputError: it does not run, or has not the package in the right version.
    """
    versions = _versions(python, package)
    found = versions.get(package.name)
    if found != package.version:
        there = f"has {found}" if found else "has none"
        raise InputError(
            f"the peer {package.name} needs the package {package.requirement}, and {python} {there}; {_remedy(package)}"
        )
    return Interpreter(python, versions)


@functools.cache
def _versions(python: Path, package: Package) -> dict[str, str]:
    """Versions that another Python has."""
    # Without this Python's variables: they would show it this one's packages.
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        done = subprocess.run(
            [str(python), "-c", _LOOK_UP, package.name, *package.beside],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            env=clean,
            timeout=_LOOK_UP_SECONDS,
        )
        return dict(json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise InputError(
            f"{python} does not run as the Python of the peer {package.name} ({error}); {_remedy(package)}"
        ) from error


def _own_versions(package: Package) -> dict[str, str]:
    found = {}
    for name in (package.name, *package.beside):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _remedy(package: Package) -> str:
    return (
        f"run: latentpress eval peer {package.name} (or name the Python of an environment that has it: --peer-python "
        f"{package.name}=PATH, or {package.variable})"
    )
