"""Files of results are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes a file whole or not at all, with the same line ends on every machine."""
    building = path.with_name(f".{path.name}.new")
    building.write_text(text, encoding="utf-8", newline="\n")
    os.replace(building, path)
