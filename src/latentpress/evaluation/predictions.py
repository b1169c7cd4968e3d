"""Files of predictions that can be gone on with: what made them in the first line, then a line for each question.

A prediction is used again only for the question that it answered, by what made it. Whatever does not fit is refused:
scores of another press, seed or data set under a system's name would look like any others.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentpress.errors import InputError
from latentpress.evaluation.questions import Question

Row = dict[str, Any]
"""Prediction, its context's tokens, what was kept of them, and the digest of its question."""
_REMEDY = "give another --out, or remove the file to have its answers made again"


class Predictions:
    """The predictions of one system on one set, in a file of their own.

    A file that was compressed (`.jsonl.xz`) is read as it is, and unpacked where answers are still missing in it.

    Args:
        path: the file, begun if it does not exist.
        made_by: whatever predictions depend on beside their questions; plain data.
        questions: what is to be answered, in order.

    Raises:
        InputError: the file holds other predictions, or none that can be read.
    """

    def __init__(self, path: Path, made_by: Mapping[str, Any], questions: Sequence[Question]) -> None:
        self.path = path
        self._questions = questions
        self.rows: list[Row] = self._read(json.loads(json.dumps(made_by)))

    @property
    def missing(self) -> Sequence[Question]:
        """Questions without a prediction."""
        return self._questions[len(self.rows) :]

    def add(self, rows: Sequence[Row]) -> None:
        """Writes the predictions of the next questions that were missing."""
        made = [{"id": one.id, **row, "question": one.digest} for row, one in zip(rows, self.missing, strict=False)]
        self._append(made)
        self.rows += made

    def _append(self, rows: Sequence[Row]) -> None:
        with self.path.open("ab") as file:  # bytes: "\n" stays "\n" on every system
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())

    def _read(self, made_by: Row) -> list[Row]:
        packed = self.path.with_name(f"{self.path.name}.xz")
        if packed.exists() and not self.path.exists():
            return self._unpack(packed, made_by)
        content = self.path.read_bytes() if self.path.exists() else b""
        whole, _, cut = content.rpartition(b"\n")
        if not whole:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_bytes(b"")
            self._append([made_by])
            return []
        header, rows = parse(self.path, whole)
        self._check(header, made_by, rows)
        if cut:  # half a line, where an earlier run was interrupted
            os.truncate(self.path, len(whole) + 1)
        return rows[: len(self._questions)]

    def _unpack(self, packed: Path, made_by: Row) -> list[Row]:
        """Rows of a compressed file; writes them out if more are to come."""
        try:
            content = lzma.decompress(packed.read_bytes())
        except (OSError, lzma.LZMAError) as error:
            raise InputError(f"{packed} cannot be read ({error}); {_REMEDY}") from error
        whole = content.rpartition(b"\n")[0]
        header, rows = parse(packed, whole)
        self._check(header, made_by, rows)
        if len(rows) < len(self._questions):
            building = self.path.with_name(f".{self.path.name}.new")
            building.write_bytes(whole + b"\n")
            os.replace(building, self.path)
            packed.unlink()
        return rows[: len(self._questions)]

    def _check(self, header: Row, made_by: Row, rows: Sequence[Row]) -> None:
        differing = [key for key in sorted({*header, *made_by}) if header.get(key) != made_by.get(key)]
        if differing:
            other = "; ".join(f"{key} {header.get(key)!r}, now {made_by.get(key)!r}" for key in differing)
            raise InputError(f"{self.path} holds predictions made otherwise ({other}); {_REMEDY}")
        for line, (row, question) in enumerate(zip(rows, self._questions, strict=False), 2):
            if row.get("question") != question.digest:
                raise InputError(
                    f"{self.path}, line {line}, answers another question than the data, limit and seed give; {_REMEDY}"
                )


def parse(path: Path, content: bytes) -> tuple[Row, list[Row]]:
    """Header and rows of whole lines of a file of predictions.

    Raises:
        InputError: a line is no JSON object.
    """
    try:  # split at "\n" only: predictions may hold U+2028 and others that splitlines() splits at
        header, *rows = [dict(json.loads(line)) for line in content.decode().split("\n")]
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); {_REMEDY}") from error
    return header, rows
