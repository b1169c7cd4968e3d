"""Scores of every prediction, and what they come to: means, ratios, bytes and failures of a system on a set.

A question that a system failed at scores 0: who cannot answer is not excused from it. A question without a row was
not asked, and is left out of the means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latentpress.evaluation import metrics
from latentpress.evaluation.protocols import find_protocol
from latentpress.evaluation.questions import Kind
from latentpress.evaluation.resampling import Floats, SetSamples
from latentpress.evaluation.results import Asked, Described, Folder, QuestionSet

Metric = Callable[[str, Sequence[str]], float]
MEASURES: Mapping[Kind, tuple[str, ...]] = {
    "span": ("f1", "exact_match", "substring_accuracy"),
    "summary": ("rouge_l", "f1"),
    "choice": ("choice_accuracy",),
}
"""What is measured of answers of a kind, by the names of the functions of `metrics`."""
NAMES = {
    "f1": "F1",
    "exact_match": "EM",
    "substring_accuracy": "substring accuracy",
    "rouge_l": "ROUGE-L",
    "choice_accuracy": "accuracy",
}
"""Of the measures, for people."""
_ENGLISH: dict[str, Metric] = {"f1": metrics.f1, "exact_match": metrics.exact_match}
_CHINESE: dict[str, Metric] = {"f1": metrics.f1_chinese, "exact_match": metrics.em_chinese}
_EITHER: dict[str, Metric] = {
    "substring_accuracy": metrics.substring_accuracy,
    "rouge_l": metrics.rouge_l,
    "choice_accuracy": metrics.choice_accuracy,
}
_MOST_OCTAVES = 0.5  # between a selector's mean ratio and the asked ratio that it is compared at


@dataclass(frozen=True, slots=True)
class Scored:
    """One system's answers to one set, an entry a question; NaN where there is none. Each array `[N]`."""

    values: Mapping[str, Floats]
    """Scores by measure."""
    tokens: Floats
    """Tokens of the context."""
    kept: Floats
    """Positions that stood for it."""
    nbytes: Floats
    """Bytes of the stored context."""
    failed: npt.NDArray[np.bool_]
    """The system gave an error in place of an answer."""


def headline(kind: Kind, protocol: str) -> str:
    """Measure that systems are ranked by: for short answers the protocol's first, else the kind's."""
    return find_protocol(protocol).metrics[0] if kind == "span" else MEASURES[kind][0]


def score(asked: QuestionSet, rows: Mapping[int, Mapping[str, Any]]) -> Scored:
    """Scores the rows of one system, which are given by the place of their question."""
    count = len(asked.questions)
    values = {measure: np.full(count, np.nan) for measure in MEASURES[asked.kind]}
    sizes = {name: np.full(count, np.nan) for name in ("tokens", "kept", "bytes")}
    failed = np.zeros(count, dtype=np.bool_)
    for place, row in rows.items():
        question = asked.questions[place]
        if row.get("error") is not None:
            failed[place] = True
            for every in values.values():
                every[place] = 0.0
            continue
        table = _EITHER | (_CHINESE if is_chinese(question) else _ENGLISH)
        for measure, every in values.items():
            every[place] = table[measure](row["prediction"], question.answers)
        for name, sizes_of in sizes.items():
            if row.get(name) is not None:
                sizes_of[place] = row[name]
    return Scored(values, sizes["tokens"], sizes["kept"], sizes["bytes"], failed)


def is_chinese(question: Asked) -> bool:
    """Whether an answer is scored by characters: as the language says, else where question or answers hold any."""
    if question.lang:
        return question.lang.lower().split("-")[0] == "zh"
    return metrics.contains_cjk("".join([question.question, *question.answers]))


def score_all(folder: Folder) -> dict[tuple[str, str], Scored]:
    """Scores every prediction of a folder, by set and label."""
    sets = {one.name: one for one in folder.sets}
    return {(name, label): score(sets[name], rows) for (name, label), rows in folder.predictions.items()}


def samples_of(folder: Folder, scored: Mapping[tuple[str, str], Scored]) -> dict[str, SetSamples]:
    """Resampled means of the headline measure by set, over the systems that answered any of its questions."""
    made = {}
    for one in folder.sets:
        measure = headline(one.kind, folder.settings.get("protocol", "default"))
        values = {label: found.values[measure] for (name, label), found in scored.items() if name == one.name}
        made[one.name] = SetSamples(one.name, groups_of(one), values, seed=int(folder.settings.get("seed", 0)))
    return made


def groups_of(asked: QuestionSet) -> npt.NDArray[np.int64]:
    """Number of each question's context; its own number where the folder does not say which contexts are the same."""
    if not asked.questions or any(question.context is None for question in asked.questions):
        return np.arange(len(asked.questions))
    _, groups = np.unique([str(question.context) for question in asked.questions], return_inverse=True)
    return groups.astype(np.int64)


def row_of(found: Scored) -> dict[str, Any]:
    """What a system's answers to one set come to, but for intervals; see `KEYS` of `metrics_file`."""
    answered = ~np.isnan(next(iter(found.values.values())))
    sized = answered & ~found.failed
    row: dict[str, Any] = {"n": int(answered.sum()), "failed": int(found.failed.sum())}
    row |= {measure: float(values[answered].mean()) for measure, values in found.values.items()} if row["n"] else {}
    tokens, kept = found.tokens[sized].astype(int).tolist(), found.kept[sized].astype(int).tolist()
    row |= {"tokens": sum(tokens), "kept": sum(kept), "ratio": metrics.overall_ratio(tokens, kept)}
    if "substring_accuracy" in found.values:
        correct = (found.values["substring_accuracy"][sized] > 0).tolist()
        row["correct_only_ratio"] = metrics.correct_only_ratio(tokens, kept, correct)
        row["correct_tokens"], row["correct_kept"] = (
            sum(size for size, right in zip(sizes, correct, strict=True) if right) for sizes in (tokens, kept)
        )
    stored = ~np.isnan(found.nbytes)
    row["bytes_per_token"] = float(found.nbytes[stored].sum() / found.tokens[stored].sum()) if stored.any() else None
    return row


def compared_at(systems: Mapping[str, Described], rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Ratio at which each system is compared with others: the asked one.

    Where a selector chose, it is the asked ratio of another system nearest to what it came to on average, by log2, if
    that is within half an octave. Systems without a size have none.

    Args:
        systems: by label.
        rows: what they came to on each set, by label.
    """
    asked = sorted({one.size.ratio for one in systems.values() if one.size and one.size.ratio is not None})
    found = {}
    for label, one in systems.items():
        if one.size is None:
            continue
        if one.size.ratio is not None:
            found[label] = one.size.ratio
            continue
        tokens, kept = (sum(row[name] for row in rows[label]) for name in ("tokens", "kept"))
        if kept and asked:
            nearest = min(asked, key=lambda ratio: abs(math.log2(ratio * kept / tokens)))
            if abs(math.log2(nearest * kept / tokens)) <= _MOST_OCTAVES:
                found[label] = nearest
    return found
