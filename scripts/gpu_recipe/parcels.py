"""Files that travel in parts of a few MiB each, checked by SHA-256 on the other side. Standard library only.

    PARCEL/
      part-000.bin, part-001.bin, ...     the files end to end, cut anywhere
      manifest.json                       names, sizes and sums of parts and of files; written last

Parts may arrive one at a time: `receive` keeps those that are whole, and puts the files together when none is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from latentpress.errors import InputError
from latentpress.files import replacing, write_whole

MANIFEST = "manifest.json"
MIB = 2**20
_FORMAT = 1
_PART = re.compile(r"part-\d{3}\.bin")
_BLOCK = MIB
_DONE = ".received.json"  # in the folder of files: the manifest of what was put together last
_STORE = ".parts"  # in the folder of files: parts until all are there


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A part, or a file."""

    name: str
    """Of a part its file's, of a file its path, with `/`."""
    bytes: int
    """Its size."""
    sha256: str
    """Its sum, hex."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a parcel holds."""

    parts: tuple[Item, ...]
    """In the order in which they follow each other."""
    files: tuple[Item, ...]
    """Likewise."""

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)


def pack(files: Mapping[str, Path], parcel: Path, part_bytes: int) -> Manifest:
    """Writes files into a parcel; one that lay in its folder is replaced.

    Args:
        files: by the path that they are to have on the other side.
        parcel: folder of the parts.
        part_bytes: most bytes of a part.

    Raises:
        InputError: there is no file, or parts are smaller than one byte.
    """
    if not files or part_bytes < 1:
        raise InputError(
            f"{len(files)} files in parts of {part_bytes} bytes are no parcel; give files, and a size of 1 or more"
        )
    parcel.mkdir(parents=True, exist_ok=True)
    (parcel / MANIFEST).unlink(missing_ok=True)
    for old in parcel.iterdir():
        if _PART.fullmatch(old.name):
            old.unlink()
    writer = _Parts(parcel, part_bytes)
    items = [_written(name, path, writer) for name, path in files.items()]
    manifest = Manifest(parts=tuple(writer.close()), files=tuple(items))
    write_whole(parcel / MANIFEST, json.dumps({"format": _FORMAT, **asdict(manifest)}, indent=1) + "\n")
    return manifest


class _Parts:
    """A stream of bytes into files of a size."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most
        self._items: list[Item] = []
        self._file: BinaryIO | None = None
        self._sum, self._size = hashlib.sha256(), 0

    def write(self, block: bytes) -> None:
        while block:
            if self._file is None:
                self._file = (self._folder / f"part-{len(self._items):03}.bin").open("wb")
                self._sum, self._size = hashlib.sha256(), 0
            piece, block = block[: self._most - self._size], block[self._most - self._size :]
            self._file.write(piece)
            self._sum.update(piece)
            self._size += len(piece)
            if self._size == self._most:
                self._end()

    def _end(self) -> None:
        assert self._file is not None
        self._file.close()
        self._items.append(Item(name=Path(self._file.name).name, bytes=self._size, sha256=self._sum.hexdigest()))
        self._file = None

    def close(self) -> list[Item]:
        if self._file is not None:
            self._end()
        return self._items


def _written(name: str, path: Path, writer: _Parts) -> Item:
    found, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                found.update(block)
                size += len(block)
                writer.write(block)
    except OSError as error:
        raise InputError(f"{path} cannot be packed ({error}); give files that can be read") from error
    return Item(name=name, bytes=size, sha256=found.hexdigest())


def read_manifest(parcel: Path) -> Manifest:
    """Reads what a parcel holds.

    Raises:
        InputError: there is no manifest, it cannot be read, or a file of it would lie outside the folder.
    """
    path = parcel / MANIFEST
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        parts, files = (tuple(Item(**item) for item in data[kind]) for kind in ("parts", "files"))
        known = data["format"] == _FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no manifest of a parcel ({error}); copy the parcel again") from error
    outside = [file.name for file in files if not _inside(file.name)]
    if not known or outside or not all(_PART.fullmatch(part.name) for part in parts):
        raise InputError(f"{path} is not of a parcel that this version reads, or was changed; pack it again")
    return Manifest(parts=parts, files=files)


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name


def receive(parcel: Path, into: Path) -> list[str]:
    """Takes in the parts that have come, and puts the files together when all have.

    Args:
        parcel: folder with the manifest and some of the parts, or all.
        into: folder of the files; keeps the parts until none is missing.

    Returns:
        Names of the parts that are still missing; nothing when the files are there.

    Raises:
        InputError: a part or a file is damaged, by name.
    """
    manifest = read_manifest(parcel)
    if _is_there(manifest, into):
        return []
    store = into / _STORE
    store.mkdir(parents=True, exist_ok=True)
    missing = []
    for part in manifest.parts:
        kept, come = store / part.name, parcel / part.name
        if come.is_file():
            _check(come, part, f"copy it again from the machine that packed it, or delete {come}")
            with replacing(kept) as building:
                shutil.copyfile(come, building)
        elif not (kept.is_file() and _fits(kept, part)):
            missing.append(part.name)
    if not missing:
        _put_together(manifest, store, into)
        write_whole(into / _DONE, json.dumps(asdict(manifest)) + "\n")
        shutil.rmtree(store, ignore_errors=True)
    return missing


def _is_there(manifest: Manifest, into: Path) -> bool:
    """Whether this very parcel was put together, and its files still have their sizes."""
    try:
        done = json.loads((into / _DONE).read_text(encoding="utf-8"))
        return bool(done == json.loads(json.dumps(asdict(manifest)))) and all(
            (into / file.name).stat().st_size == file.bytes for file in manifest.files
        )
    except (OSError, ValueError):
        return False


def _fits(path: Path, item: Item) -> bool:
    with path.open("rb") as file:
        return path.stat().st_size == item.bytes and hashlib.file_digest(file, "sha256").hexdigest() == item.sha256


def _check(path: Path, item: Item, remedy: str) -> None:
    if not _fits(path, item):
        raise InputError(f"{path} is damaged: its size or SHA-256 is not what the manifest says; {remedy}")


def _put_together(manifest: Manifest, store: Path, into: Path) -> None:
    blocks = _blocks([store / part.name for part in manifest.parts])
    left = b""
    for item in manifest.files:
        path = into / item.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as building:
            with building.open("wb") as file:
                wanted = item.bytes
                while wanted:
                    left = left or next(blocks, b"")
                    if not left:
                        raise InputError(f"the parts end before {item.name} does; pack the files again")
                    file.write(left[:wanted])
                    wanted, left = max(0, wanted - len(left)), left[wanted:]
                file.flush()
                os.fsync(file.fileno())
            _check(building, item, f"{item.name} changed while it was packed; pack the files again")


def _blocks(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
