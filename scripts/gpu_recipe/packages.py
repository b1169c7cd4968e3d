"""Python packages for a machine that has torch and transformers and no network: as wheels, installed beside them.

On the packing side the needed ones are worked out from `pyproject.toml` and what is installed there; on the other side
those that are missing go into a folder of their own at the end of `sys.path`, so that nothing there is replaced.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from latentpress.errors import InputError

PRESENT = ("torch", "transformers", "peft", "accelerate")
"""Packages that a machine for training has, with all that they need."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def needed(pyproject: Path, *, present: Sequence[str] = PRESENT, python: str = "3.12") -> list[str]:
    """Requirements `name==version` of the library that a machine may lack, in the versions installed here.

    Those are its dependencies, and what these need in turn, without `present`. Of what comes with `present`, packages
    of pure Python are taken all the same: they are small, and installed only where they are missing.

    Args:
        pyproject: the library's `pyproject.toml`.
        present: packages that are there, with all that they need.
        python: version of the other side's Python, which requirements may depend on.

    Raises:
        InputError: a dependency is not installed here, so what it needs is not known.
    """
    direct = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    there = {_plain(name) for name in present}
    come_along = set(_closure(present, python, stop=set()))
    stop = there | {name for name in come_along if not _is_pure(name)}
    names = set(_closure([_plain(_name(text)) for text in direct], python, stop=stop))
    return sorted(f"{name}=={importlib.metadata.version(name)}" for name in names)


def _closure(roots: Iterable[str], python: str, *, stop: set[str]) -> Iterator[str]:
    """Names of packages and of what they need, but those to stop at."""
    waiting, seen = [_plain(name) for name in roots], set(stop)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        yield name
        waiting += _requirements(name, python)


def _requirements(name: str, python: str) -> list[str]:
    from packaging.requirements import Requirement

    try:
        texts = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"package {name} is not installed here, so what it needs is not known; run make setup"
        ) from error
    there = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux", "extra": ""}
    found = [Requirement(text) for text in texts]
    return [_plain(one.name) for one in found if one.marker is None or one.marker.evaluate(there)]


def _is_pure(name: str) -> bool:
    return "Tag: py3-none-any" in (importlib.metadata.distribution(name).read_text("WHEEL") or "")


def _name(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match, f"{requirement!r} names a package"
    return match[0]


def _plain(name: str) -> str:
    """The name as it is compared: lower case, `-` for `_` and `.`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def download(
    requirements: Sequence[str], folder: Path, *, python: str = "3.12", platforms: Sequence[str] = PLATFORMS
) -> list[Path]:
    """Downloads the wheels of packages, and of nothing that they need.

    Raises:
        InputError: pip cannot get one.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet"]
    target = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    target += [word for platform in platforms for word in ("--platform", platform)]
    _pip([*command, *target, "--dest", str(folder), *requirements], "downloaded; check the network and the names")
    return sorted(folder.glob("*.whl"))


def install_missing(wheels: Path, place: Path) -> list[str]:
    """Installs the wheels of a folder whose packages are missing, and puts them on `sys.path`.

    Args:
        wheels: folder of wheels.
        place: folder beside which the new one is made; one for each set of packages, there whole or not at all.

    Returns:
        Names of the packages that were missing.

    Raises:
        InputError: pip cannot install them.
    """
    found = {_plain(path.name.split("-")[0]): path for path in sorted(wheels.glob("*.whl"))}
    missing = [name for name in found if not _is_installed(name)]
    if not missing:
        return []
    key = hashlib.sha256(repr([found[name].name for name in missing]).encode()).hexdigest()[:8]
    site = place / f"site-{key}"
    if not site.is_dir():
        building = place / f".site-{key}.tmp"
        shutil.rmtree(building, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
        options = ["--no-index", "--find-links", str(wheels), "--no-deps", "--no-compile", "--target", str(building)]
        chosen = [str(found[name]) for name in missing]
        _pip([*command, *options, *chosen], "installed; are they for this Python and processor?")
        building.rename(site)
    sys.path.append(str(site))
    importlib.invalidate_caches()
    return missing


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _pip(command: Sequence[str], what: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = lines[-1] if lines else f"pip exited with {done.returncode}"
        raise InputError(f"wheels cannot be {what} ({reason})")
