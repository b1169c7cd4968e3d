"""Scores of every prediction, and what they come to: means, ratios, bytes and failures of a system on a set.

A question that a system failed at scores 0: who cannot answer is not excused from it. A question without a row was
not answered yet, and is left out of the means. Every question is scored as its own kind is, also where a set mixes
kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latentpress.evaluation import metrics
from latentpress.evaluation.protocols import find_protocol
from latentpress.evaluation.questions import Kind
from latentpress.evaluation.resampling import Floats, SetSamples
from latentpress.evaluation.results import Asked, Folder, QuestionSet

Metric = Callable[[str, Sequence[str]], float]
MEASURES: Mapping[Kind, tuple[str, ...]] = {
    "span": ("f1", "exact_match", "substring_accuracy"),
    "summary": ("rouge_l", "f1"),
    "choice": ("choice_accuracy",),
}
"""What is measured of answers of a kind, by the names of the functions of `metrics`."""
_NAMES = {
    "f1": "F1",
    "exact_match": "EM",
    "substring_accuracy": "substring accuracy",
    "rouge_l": "ROUGE-L",
    "choice_accuracy": "accuracy",
}
_BETWEEN = "+"  # measures, where a set mixes kinds
_ENGLISH: dict[str, Metric] = {"f1": metrics.f1, "exact_match": metrics.exact_match}
_CHINESE: dict[str, Metric] = {"f1": metrics.f1_chinese, "exact_match": metrics.em_chinese}
_EITHER: dict[str, Metric] = {
    "substring_accuracy": metrics.substring_accuracy,
    "rouge_l": metrics.rouge_l,
    "choice_accuracy": metrics.choice_accuracy,
}


@dataclass(frozen=True, slots=True)
class Scored:
    """One system's answers to one set, an entry a question; NaN where there is none. Each array `[N]`."""

    values: Mapping[str, Floats]
    """Scores by measure; NaN too where the question's kind has no such measure."""
    headline: Floats
    """Score in the measure that the question's kind is ranked by."""
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


def set_headline(asked: QuestionSet, protocol: str) -> str:
    """Measures that systems are ranked by on a set: one for each kind that it has, `+` between them."""
    return _BETWEEN.join(headline(kind, protocol) for kind in asked.kinds)


def measure_title(measure: str) -> str:
    """A measure for people: `F1`, or `F1 or accuracy` where a set mixes kinds."""
    return " or ".join(_NAMES[part] for part in measure.split(_BETWEEN))


def columns(kinds: Sequence[Kind], protocol: str) -> list[str]:
    """Measures of some kinds in the order of their columns: the protocol's, then others, without the headline."""
    known = list(dict.fromkeys(measure for kind in kinds for measure in MEASURES[kind]))
    first = [measure for measure in find_protocol(protocol).metrics if measure in known]
    every = dict.fromkeys([*first, *known])
    # Where kinds are mixed, the headline is of every kind its own, and what each kind came to is worth a column.
    chief = headline(kinds[0], protocol) if len(kinds) == 1 else ""
    return [measure for measure in every if measure != chief]


def score(asked: QuestionSet, rows: Mapping[int, Mapping[str, Any]], protocol: str) -> Scored:
    """Scores the rows of one system, which are given by the place of their question."""
    count = len(asked.questions)
    measures = dict.fromkeys(measure for kind in asked.kinds for measure in MEASURES[kind])
    values = {measure: np.full(count, np.nan) for measure in measures}
    chief = np.full(count, np.nan)
    sizes = {name: np.full(count, np.nan) for name in ("tokens", "kept", "bytes")}
    failed = np.zeros(count, dtype=np.bool_)
    for place, row in rows.items():
        question = asked.questions[place]
        failed[place] = row.get("error") is not None
        table = _EITHER | (_CHINESE if is_chinese(question) else _ENGLISH)
        for measure in MEASURES[question.kind]:
            values[measure][place] = 0.0 if failed[place] else table[measure](row["prediction"], question.answers)
        chief[place] = values[headline(question.kind, protocol)][place]
        for name, sizes_of in sizes.items():
            if not failed[place] and row.get(name) is not None:
                sizes_of[place] = row[name]
    return Scored(values, chief, sizes["tokens"], sizes["kept"], sizes["bytes"], failed)


def is_chinese(question: Asked) -> bool:
    """Whether an answer is scored by characters: as the language says, else where the question holds any.

    Answers do not count: in an English set "正" may be one, and is scored as SQuAD's script scores it.
    """
    if question.lang:
        return question.lang.lower().split("-")[0] == "zh"
    return metrics.contains_cjk(question.question)


def score_all(folder: Folder) -> dict[tuple[str, str], Scored]:
    """Scores every prediction of a folder, by set and label."""
    sets = {one.name: one for one in folder.sets}
    protocol = protocol_of(folder)
    return {(name, label): score(sets[name], rows, protocol) for (name, label), rows in folder.predictions.items()}


def protocol_of(folder: Folder) -> str:
    """Name of the protocol that a folder's questions were asked by."""
    return str(folder.settings.get("protocol", "default"))


def samples_of(
    folder: Folder, scored: Mapping[tuple[str, str], Scored], measure: str | None = None
) -> dict[str, SetSamples]:
    """Resampled means of a measure (the headline's if None) by set, over the systems that answered its questions.

    Contexts are drawn alike for all measures, and are the same ones where every question has the measure.
    """
    made = {}
    for one in folder.sets:
        values = {
            label: found.headline if measure is None else found.values[measure]
            for (name, label), found in scored.items()
            if name == one.name and (measure is None or measure in found.values)
        }
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
    answered = ~np.isnan(found.headline)
    sized = ~np.isnan(found.tokens) & ~np.isnan(found.kept)
    row: dict[str, Any] = {"n": int(answered.sum()), "failed": int(found.failed.sum())}
    row |= {measure: _mean(values) for measure, values in found.values.items()} if row["n"] else {}
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


def _mean(values: Floats) -> float:
    """Of what is scored; NaN if nothing is."""
    there = ~np.isnan(values)
    return float(values[there].mean()) if there.any() else float("nan")
