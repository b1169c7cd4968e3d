"""Files of density labels: what made them in the first line, then one a text, found again by the text itself.

    {"latentpress_labels": 1, "source": "fidelity", "made_by": {...}, "settings": {...}}
    {"id": "wiki-17", "source": "fidelity", "log2_ratio": 2.41, "tokens": 311, "sha256": "...", "genre": "wiki", ...}

`latentpress label` writes them, training and comparisons read them. Keys beyond these are details of a source.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentpress.data.records import file_rows
from latentpress.errors import DataError

FORMAT = "latentpress_labels"
"""Key of the first line, with the version of the format."""
VERSION = 1
SOURCES = ("summary", "surprisal", "fidelity")
_REMEDY = "make it anew with `latentpress label`"


@dataclass(frozen=True, kw_only=True, slots=True)
class DensityLabel:
    """How hard a text may be compressed."""

    id: str
    """Name of its record, for people."""
    source: str
    """One of `SOURCES`."""
    log2_ratio: float
    """The label: log2 of context tokens a latent, at least 0."""
    tokens: int
    """Tokens of the text."""
    sha256: str
    """Of the text in UTF-8, hex: what the label is of."""
    genre: str
    """Where the record comes from."""
    details: Mapping[str, Any]
    """What the label was computed from, as its source measured it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, one line of a file."""
        return {
            "id": self.id,
            "source": self.source,
            "log2_ratio": self.log2_ratio,
            "tokens": self.tokens,
            "sha256": self.sha256,
            "genre": self.genre,
            **self.details,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFile:
    """The labels of a file, one a text."""

    path: str
    """Where they were read, for messages."""
    header: Mapping[str, Any]
    """What made them."""
    labels: Mapping[str, DensityLabel]
    """By the digest of their text."""

    @property
    def source(self) -> str:
        """Which of `SOURCES` they come from."""
        return str(self.header["source"])

    @property
    def digest(self) -> str:
        """SHA-256 over the labels and their texts, hex; of nothing else in the file."""
        pairs = sorted((one.sha256, one.log2_ratio) for one in self.labels.values())
        return hashlib.sha256(repr(pairs).encode()).hexdigest()

    def check_tokens(self, label: DensityLabel, tokens: int) -> None:
        """Makes sure that a label counts the tokens that its text has for whoever learns from it.

        Labels of all sources are log2 of tokens a latent, so those by another tokenizer are of another ratio.

        Args:
            label: one of the file's.
            tokens: tokens of its text.

        Raises:
            DataError: they are others.
        """
        if label.tokens == tokens:
            return
        made_by = self.header.get("made_by") or {}
        named = [made_by[kind].get(key) for kind, key in (("base", "id"), ("press", "name")) if kind in made_by]
        by = "".join(f" by {name!r}" for name in named)
        raise DataError(
            f"{self.path}: record {label.id!r} has {label.tokens} tokens there{by}, and {tokens} by the tokenizer of "
            "the base model here; a density label counts tokens a latent: make the labels anew with `latentpress "
            "label` and this base model, or take the base model that they were made with"
        )


def text_digest(text: str) -> str:
    """Identity of a text: labels are of these very characters."""
    return hashlib.sha256(text.encode()).hexdigest()


def label_lines(header: Mapping[str, Any], labels: Sequence[DensityLabel]) -> str:
    """A file of labels as text."""
    lines = [{FORMAT: VERSION, **header}, *(one.to_dict() for one in labels)]
    return "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)


def read_labels(path: str | Path) -> LabelFile:
    """Reads a file of labels, plain or compressed.

    Raises:
        DataError: it is no such file, holds none, or two that differ for one text, or one that is no finite number of
            at least 0; with the line.
    """
    rows = file_rows(Path(path))
    number, header = next(rows, (1, None))
    version = header.get(FORMAT) if isinstance(header, dict) else None
    if not isinstance(header, dict) or version != VERSION or header.get("source") not in SOURCES:
        found = "is no header of density labels" if version is None else f"has version {version!r}"
        if isinstance(header, dict) and version == VERSION:
            found = f"has source {header.get('source')!r}"
        raise DataError(
            f"{path}:{number}: {found}, where {FORMAT} {VERSION} and a source ({', '.join(SOURCES)}) are expected; "
            f"give a file that `latentpress label` wrote, or {_REMEDY}"
        )
    labels: dict[str, DensityLabel] = {}
    for number, row in rows:
        label = _read_label(row, f"{path}:{number}")
        other = labels.setdefault(label.sha256, label)
        if other.log2_ratio != label.log2_ratio:
            raise DataError(
                f"{path}:{number}: record {label.id!r} has the text of record {other.id!r} and another label "
                f"({label.log2_ratio:g}, there {other.log2_ratio:g}); keep one of the two lines"
            )
    if not labels:
        raise DataError(f"{path}: holds no labels; {_REMEDY}")
    return LabelFile(path=str(path), header=header, labels=labels)


def _read_label(row: Any, where: str) -> DensityLabel:
    if not isinstance(row, dict):
        raise DataError(f"{where}: is no JSON object; {_REMEDY}")
    values = dict(row)
    kinds: dict[str, tuple[type, ...]] = {
        "id": (str,),
        "source": (str,),
        "log2_ratio": (int, float),
        "tokens": (int,),
        "sha256": (str,),
        "genre": (str,),
    }
    for name, kind in kinds.items():
        value = values.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise DataError(f"{where}: field {name!r} is {value!r}, not {_KINDS[kind]}; {_REMEDY}")
    own = {name: values.pop(name) for name in kinds}
    if own["tokens"] < 1:
        raise DataError(
            f"{where}: record {own['id']!r} has {own['tokens']} tokens, and no label without any; leave the line out, "
            f"or {_REMEDY}"
        )
    given = own.pop("log2_ratio")
    try:
        value = float(given)
    except OverflowError:  # JSON's whole numbers know no limit
        value = math.inf
    if not (math.isfinite(value) and value >= 0):
        raise DataError(
            f"{where}: record {own['id']!r} has log2_ratio {value:g}, which must be a finite number of at least 0 "
            f"(log2 of tokens a latent); leave the line out, or {_REMEDY}"
        )
    return DensityLabel(log2_ratio=value, details=values, **own)


_KINDS: dict[tuple[type, ...], str] = {(str,): "text", (int,): "a whole number", (int, float): "a number"}
