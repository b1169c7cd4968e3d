"""JSON lines that can be gone on with: what made them in the first line, then a row for each thing, as it is made.

A row is used again only for the thing that it was made of, by what made it. Whatever does not fit is refused: rows made
otherwise would look like any others.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentpress.errors import InputError
from latentpress.files import naming, replacing

Row = dict[str, Any]
"""One JSON object."""
BEGUN = "begun"
"""Of the first line: when and where the file was begun."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wording:
    """What messages call the rows of a file."""

    kind: str
    """What the rows are, in the plural: `predictions`."""
    other: str
    """What a row of something else does, behind "line N, "."""
    remedy: str
    """What the user can do about a file that does not fit."""


class ResumableLines:
    """Rows for things in a fixed order, in a file of their own.

    A file that was compressed (`.xz`) is read as it is, and unpacked where rows are still missing in it.

    Args:
        path: the file, begun if it does not exist.
        made_by: whatever rows depend on beside the things that they are made of; plain data.
        digests: of everything that there shall be a row of, in order.
        key: name under which a row carries the digest of its thing.
        wording: for messages.
        begun: when and where the file was begun: written into its first line, and never compared.

    Raises:
        InputError: the file holds other rows, or none that can be read.
    """

    def __init__(
        self,
        path: Path,
        made_by: Mapping[str, Any],
        digests: Sequence[str],
        *,
        key: str,
        wording: Wording,
        begun: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self._digests, self._key, self._wording, self._begun = digests, key, wording, begun
        self.further = 0  # rows in the file of things beyond the given ones
        self.rows: list[Row] = self._read(json.loads(json.dumps(made_by)))

    def add(self, rows: Sequence[Row]) -> None:
        """Writes the rows of the next things that had none."""
        made = [{**row, self._key: digest} for row, digest in zip(rows, self._digests[len(self.rows) :], strict=False)]
        self._append(made)
        self.rows += made

    def _append(self, rows: Sequence[Row]) -> None:
        with naming(self.path), self.path.open("ab") as file:  # bytes: "\n" stays "\n" on every system
            file.write("".join(map(json_line, rows)).encode())

    def _read(self, made_by: Row) -> list[Row]:
        packed = self.path.with_name(f"{self.path.name}.xz")
        if packed.exists() and not self.path.exists():
            return self._unpack(packed, made_by)
        content = self.path.read_bytes() if self.path.exists() else b""
        whole, _, cut = content.rpartition(b"\n")
        if not whole:
            known = json_line(made_by).encode()[:-2]
            ways = (known + b"}", known + f', "{BEGUN}": '.encode())  # a first line that was cut
            if not any(way.startswith(cut) or cut.startswith(way) for way in ways):
                raise InputError(
                    f"{self.path} holds something else than {self._wording.kind}, which would be lost; "
                    f"{self._wording.remedy}"
                )
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_bytes(b"")
            self._append([made_by if self._begun is None else {**made_by, BEGUN: dict(self._begun)}])
            return []
        header, rows = parse_lines(self.path, whole, self._wording.remedy)
        self._check(header, made_by, rows)
        if cut:  # half a line, where an earlier run was interrupted
            os.truncate(self.path, len(whole) + 1)
        return self._of_these(rows)

    def _unpack(self, packed: Path, made_by: Row) -> list[Row]:
        """Rows of a compressed file; writes them out if more are to come."""
        try:
            content = lzma.decompress(packed.read_bytes())
        except (OSError, lzma.LZMAError) as error:
            raise InputError(f"{packed} cannot be read ({error}); {self._wording.remedy}") from error
        whole = content.rpartition(b"\n")[0]
        header, rows = parse_lines(packed, whole, self._wording.remedy)
        self._check(header, made_by, rows)
        if len(rows) < len(self._digests):
            with replacing(self.path) as building:
                building.write_bytes(whole + b"\n")
            packed.unlink()
        return self._of_these(rows)

    def _of_these(self, rows: list[Row]) -> list[Row]:
        self.further = max(0, len(rows) - len(self._digests))
        return rows[: len(self._digests)]

    def _check(self, header: Row, made_by: Row, rows: Sequence[Row]) -> None:
        if differing := differences({key: value for key, value in header.items() if key != BEGUN}, made_by):
            raise InputError(
                f"{self.path} holds {self._wording.kind} made otherwise ({differing}); {self._wording.remedy}"
            )
        for line, (row, digest) in enumerate(zip(rows, self._digests, strict=False), 2):
            if row.get(self._key) != digest:
                raise InputError(f"{self.path}, line {line}, {self._wording.other}; {self._wording.remedy}")


def json_line(row: Mapping[str, Any]) -> str:
    """A row as one line, whatever line separators it holds."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def differences(header: Row, made_by: Row) -> str:
    """What differs between what made the rows of a file and what would make them now; empty if nothing does."""
    return "; ".join(f"{key} {old!r}, now {new!r}" for key, old, new in _differing(header, made_by))


def _differing(header: Row, made_by: Row) -> Iterator[tuple[str, Any, Any]]:
    """Keys whose values differ, of objects within with a dot, and both values."""
    for key in sorted({*header, *made_by}):
        old, new = header.get(key), made_by.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from ((f"{key}.{name}", *values) for name, *values in _differing(old, new))
        elif old != new:
            yield key, old, new


def parse_lines(path: Path, content: bytes, remedy: str) -> tuple[Row, list[Row]]:
    """Header and rows of whole lines of a file.

    Raises:
        InputError: a line is no JSON object.
    """
    try:  # split at "\n" only: rows may hold U+2028 and others that splitlines() splits at
        header, *rows = [dict(json.loads(line)) for line in content.decode().split("\n")]
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); {remedy}") from error
    return header, rows
