"""Files and folders that are there whole or not at all: built beside their place, put into it by one rename."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds the file's name to what the system says about a write that failed."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextlib.contextmanager
def alone(lock: Path, busy: Exception) -> Iterator[None]:
    """Holds a lock, which the system frees when the process dies; raises `busy` where another process holds it."""
    from filelock import FileLock, Timeout

    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise busy from error
    try:
        yield
    finally:
        held.release()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path to write a file at, which takes the place of the file when the body is done.

    Where the body fails, nothing is left of it; a killed process leaves `.NAME.*.new`.
    """
    building = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        yield building
        os.replace(building, path)
    finally:
        with contextlib.suppress(OSError):
            building.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Writes a file whole or not at all, with the same line ends on every machine."""
    with replacing(path) as building:
        building.write_text(text, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def staging_beside(folder: Path) -> Iterator[Path]:
    """Gives an empty folder to build another in, and removes it afterwards; `put_in_place` takes out what is done.

    Of several processes one works and the others wait: the folder may be there by the time the body runs. The system
    frees the lock, `.NAME.lock`, when the process dies; what it leaves then, `.NAME.tmp-*`, is removed by the next one.
    """
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}.tmp-"
    with FileLock(folder.parent / f".{folder.name}.lock"):
        for abandoned in folder.parent.glob(f"{prefix}*"):  # the lock is ours, so whoever made these is dead
            shutil.rmtree(abandoned, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def put_in_place(built: Path, folder: Path) -> None:
    """Gives a folder of `staging_beside` its final name; one that had the name before goes with the staging."""
    if folder.exists():
        folder.rename(built.with_name("replaced"))
    built.rename(folder)
