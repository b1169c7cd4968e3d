"""Where things go: results to stdout, as text or as one JSON object; progress and errors to stderr."""

import json
import sys
from typing import Any

from rich.console import Console

_PIPE_WIDTH = 110


def console() -> Console:
    """Stdout for results. What users and models wrote is printed as it is, never read as markup."""
    return _console(sys.stdout.isatty(), stderr=False)


def progress_console() -> Console:
    """Stderr for progress."""
    return _console(sys.stderr.isatty(), stderr=True)


def _console(is_terminal: bool, *, stderr: bool) -> Console:
    width = None if is_terminal else _PIPE_WIDTH  # rich would take 80, too narrow for a table with answers
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


def print_json(result: dict[str, Any]) -> None:
    """Prints the one JSON object of a verb; ASCII only, so that it passes through every pipe."""
    sys.stdout.write(json.dumps(result, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_error(message: str) -> None:
    """Prints a message for the user to stderr, on one line as far as the message is one."""
    sys.stderr.write(f"latentpress: error: {message}\n")
    sys.stderr.flush()


def file_size(count: int) -> str:
    """A number of bytes for people: 512 B, 1.5 kB, 12.0 MB."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
