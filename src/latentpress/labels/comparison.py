"""How labels of the same texts go together: correlations with intervals, and means and spreads by genre."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentpress.analysis.statistics import LEAST_POINTS, number, pearson, resampled, spearman
from latentpress.data.labels import LabelFile, text_digest
from latentpress.data.predictors import length, zlib_ratio
from latentpress.data.records import Record
from latentpress.errors import InputError

ALL = "all"
"""Name of the row of all genres together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two columns of numbers about the same texts."""

    first: str
    """Name of one."""
    second: str
    """Name of the other."""
    texts: int
    """Texts that both are of."""
    pearson: Mapping[str, float]
    """Correlation of the numbers: `mean`, `low` and `high`; NaN where it is not defined."""
    spearman: Mapping[str, float]
    """The same of their ranks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Labels of a genre."""

    texts: int
    """Their number."""
    mean: float
    """Mean log2 ratio."""
    deviation: float
    """Standard deviation over the texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """What `compare` found."""

    pairs: tuple[Pair, ...]
    """Every two columns."""
    spreads: Mapping[str, Mapping[str, Spread]]
    """Labels by column, then by genre, `ALL` first; each over all of its own texts."""


def compare(files: Sequence[LabelFile], records: Sequence[Record] = (), *, seed: int = 0) -> Compared:
    """Compares labels, pair by pair over the texts that both are of, and with what length and zlib predict.

    Args:
        files: labels.
        records: their texts, for zlib's ratio; without them it is left out.
        seed: of the resamples; the same seed and labels give the same intervals.

    Raises:
        InputError: a file is given twice, two have fewer than three texts in common, or none is of the records.
    """
    if len({file.path for file in files}) < len(files):
        raise InputError("the same file of labels is given twice; give others, or one alone to see its genres")
    columns = {
        name: {digest: label.log2_ratio for digest, label in file.labels.items()}
        for name, file in zip(_names(files), files, strict=True)
    }
    spreads = {name: _spreads(file) for name, file in zip(columns, files, strict=True)}
    labelled = {digest: label for file in files for digest, label in file.labels.items()}
    columns["length"] = {digest: length(label.tokens) for digest, label in labelled.items()}
    texts = _texts(records)
    if known := texts.keys() & labelled.keys():
        columns["zlib"] = {digest: zlib_ratio(texts[digest]) for digest in known}
    elif records:
        raise InputError(
            f"none of the {len(labelled)} labels is of a text of --data; give the data that was "
            "labelled, or leave it out"
        )
    pairs = [
        _pair(first, second, columns, seed)
        for first, second in itertools.combinations(columns, 2)
        if first in spreads  # length and zlib are what labels are compared with
    ]
    return Compared(pairs=tuple(pairs), spreads=spreads)


def of_texts(file: LabelFile, records: Sequence[Record], which: str) -> LabelFile:
    """The labels of the texts of some records alone.

    Raises:
        InputError: there are none; `which` says what the records have in common.
    """
    known = _texts(records)
    labels = {digest: label for digest, label in file.labels.items() if digest in known}
    if not labels:
        raise InputError(
            f"{file.path}: none of its {len(file.labels)} labels is of a text of --data with {which}; give the data "
            "that was labelled, or leave the file out"
        )
    return dataclasses.replace(file, labels=labels)


def _texts(records: Sequence[Record]) -> dict[str, str]:
    """What labels can be of, by its digest."""
    return {text_digest(record.contexts[0]): record.contexts[0] for record in records if len(record.contexts) == 1}


def _names(files: Sequence[LabelFile]) -> list[str]:
    """The source of each file, and the file's name where two have the same."""
    sources = Counter(file.source for file in files)
    paths = Counter(Path(file.path).name for file in files)
    names = []
    for file in files:
        path = Path(file.path)
        shown = path.name if paths[path.name] == 1 else str(path)
        names.append(file.source if sources[file.source] == 1 else f"{file.source} ({shown})")
    return names


def _spreads(file: LabelFile) -> dict[str, Spread]:
    values: dict[str, list[float]] = {ALL: []}
    for label in sorted(file.labels.values(), key=lambda label: label.genre):
        values[ALL].append(label.log2_ratio)
        values.setdefault(label.genre, []).append(label.log2_ratio)
    return {
        genre: Spread(texts=len(own), mean=float(np.mean(own)), deviation=float(np.std(own)))
        for genre, own in values.items()
    }


def _pair(first: str, second: str, columns: Mapping[str, Mapping[str, float]], seed: int) -> Pair:
    common = sorted(columns[first].keys() & columns[second].keys())
    if len(common) < LEAST_POINTS:
        raise InputError(
            f"{first} and {second} have {len(common)} texts in common, and a correlation needs {LEAST_POINTS}; "
            "compare labels of the same data"
        )
    x = np.array([columns[first][one] for one in common])
    y = np.array([columns[second][one] for one in common])
    draws = resampled(len(common), lambda drawn: [pearson(x[drawn], y[drawn]), spearman(x[drawn], y[drawn])], seed=seed)
    return Pair(
        first=first,
        second=second,
        texts=len(common),
        pearson=number(pearson(x, y), draws[:, 0]),
        spearman=number(spearman(x, y), draws[:, 1]),
    )
