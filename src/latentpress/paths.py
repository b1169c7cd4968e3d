"""Paths as users write them."""

from __future__ import annotations

import contextlib
from pathlib import Path

from latentpress.errors import LatentpressError


def local_path(name: object, error: type[LatentpressError], what: str) -> Path:
    """The path of a file or folder by name, a leading `~` expanded; it need not exist.

    Args:
        name: what the user gave.
        error: raised for what can be no path: another type, a NUL, a home of nobody, a name longer than the system
            takes.
        what: says in the message what the name is of.
    """
    if not isinstance(name, str | Path):
        raise error(f"{what} is a {type(name).__name__}; give its name or path")
    try:
        path = Path(name).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.lstat()
    except (RuntimeError, OSError, ValueError) as reason:
        shown = str(name) if len(str(name)) < 100 else f"{str(name)[:100]}..."
        raise error(f"{what} {shown!r} can be no path here ({reason}); check how it is written") from reason
    return path
