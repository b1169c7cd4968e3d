"""How well a selector's head predicts density labels, on passages that no training saw.

Held against what needs no network: the best straight line from a passage's length, and from what zlib makes of it, both
fitted on passages that are not held back. A head that does no better than these has learned nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from latentpress.analysis.predictions import Passage, Predicted
from latentpress.analysis.statistics import Line, number, pearson, ranks, resampled
from latentpress.data.held_out import is_held_out, without_held_out
from latentpress.data.labels import LabelFile, text_digest
from latentpress.data.predictors import length, zlib_ratio
from latentpress.data.records import Record
from latentpress.errors import InputError
from latentpress.evaluation.resampling import Floats, word

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST_PASSAGES = 3
"""Fewest passages to judge on, and to fit a line to."""
HEAD = "head"
_SHOWN = {
    HEAD: "the selector's",
    "length": "log2 of the tokens",
    "zlib": "log2 of zlib's ratio of bytes",
    "mean": "always the mean label",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """A passage with its label, and what can be said of it without a network."""

    passage: Passage
    """The text."""
    label: float
    """Its density label."""
    length: float
    """log2 of its tokens."""
    zlib: float
    """log2 of its bytes over those that zlib makes of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Passages to judge on, and passages that lines are fitted to."""

    judged: tuple[Labelled, ...]
    """Held back; with `every` all, those held back first."""
    fitted: tuple[Labelled, ...]
    """Not held back, and without the text of one that is."""
    every: bool
    """Passages that are not held back are judged too."""
    source: str
    """Of the labels."""
    skipped: int
    """Records without a label."""


def split(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    labels: LabelFile | None = None,
    every: bool = False,
    place: str = "the data",
) -> Split:
    """Finds the labels of records and cuts them as every analysis does (`latentpress.data.held_out`).

    Args:
        records: those of one document are passages; of equal texts the first counts.
        tokenizer: by which tokens are counted.
        labels: of texts; from the records' `short_summary` if None.
        every: judge also on what is not held back.
        place: of the records, for messages.

    Raises:
        InputError: no record has a label, or too few are held back, or too few are not.
        DataError: labels were made with another tokenizer.
    """
    from latentpress.tokens import encode_inert

    texts: set[str] = set()
    made: list[Labelled] = []
    for record in records:
        text = record.contexts[0]
        if len(record.contexts) > 1 or text in texts:
            continue
        texts.add(text)
        tokens = len(encode_inert(tokenizer, text))
        label = _label(record, tokens, tokenizer, labels)
        if label is not None:
            made.append(_labelled(record, label, tokens))
    source = "summary" if labels is None else labels.source
    if not made:
        where = f"{labels.path} has labels of none of the texts" if labels else "none has a short_summary"
        raise InputError(
            f"{place}: {len(records):,} records, and {where}; give --labels of these texts (`latentpress label`), or "
            "records with short_summary"
        )
    free = {record.contexts[0] for record in without_held_out(records, records)}
    held = [one for one in made if is_held_out(one.passage.id)]
    others = [one for one in made if not is_held_out(one.passage.id)]
    fitted = [one for one in others if one.passage.text in free]
    for few, what, remedy in (
        (held, "held back (SHA-256 of the id, a multiple of 5)", "give more --data, or judge on --all"),
        (fitted, "not held back, to fit the lines from length and zlib to", "give more --data"),
    ):
        if len(few) < LEAST_PASSAGES and not (every and few is held):
            raise InputError(
                f"{place}: {len(few)} of {len(made):,} labelled passages are {what}, and {LEAST_PASSAGES} are the "
                f"fewest; {remedy}"
            )
    judged = (*held, *(others if every else ()))
    return Split(judged=judged, fitted=tuple(fitted), every=every, source=source, skipped=len(texts) - len(made))


def judge(cut: Split, predicted: Sequence[Predicted], *, press: str, place: str) -> dict[str, Any]:
    """Errors and correlations of the head and of the lines.

    Args:
        cut: passages.
        predicted: what the head says of those to judge on, in their order.
        press: its name.
        place: of the data.

    Returns:
        Plain data. `predictors`: `name`, `about`, `mae` (mean absolute error in log2), `pearson` and `spearman`
        (null for the mean, which does not vary), with intervals over passages, and for all but the head `ahead`: by how
        much the head's error is lower. `passages`: `id`, `genre`, `label` and the prediction of each predictor.
    """
    labels = np.array([one.label for one in cut.judged])
    known: dict[str, Floats] = {HEAD: np.array([one.log2_ratio for one in predicted])}
    known |= _lines(cut)
    every = {name: _judged(labels, values) for name, values in known.items()}
    stacked = np.stack([labels, *known.values()])
    draws = resampled(len(labels), lambda drawn: _numbers(stacked[:, drawn]))
    rows = []
    for i, name in enumerate(known):
        own = draws[:, 3 * i : 3 * i + 3]
        row: dict[str, Any] = {"name": name, "about": _SHOWN[name]}
        row |= {key: number(every[name][key], own[:, j]) for j, key in enumerate(("mae", "pearson", "spearman"))}
        if name == "mean":
            row |= {"pearson": None, "spearman": None}
        if name != HEAD:
            ahead = number(every[name]["mae"] - every[HEAD]["mae"], own[:, 0] - draws[:, 0])
            row["ahead"] = ahead | {"word": word(ahead["low"], ahead["high"])}
        rows.append(row)
    return {
        "analysis": "head",
        "about": "How well the selector's head predicts",
        "place": place,
        "press": press,
        "source": cut.source,
        "n": len(labels),
        "fitted_on": len(cut.fitted),
        "predictors": rows,
        "passages": [
            {"id": one.passage.id, "genre": one.passage.genre, "label": one.label}
            | {name: float(values[i]) for name, values in known.items()}
            for i, one in enumerate(cut.judged)
        ],
        "notes": list(_notes(cut)),
    }


def _label(record: Record, tokens: int, tokenizer: PreTrainedTokenizerBase, labels: LabelFile | None) -> float | None:
    """The label of a record of one document, None if it has none."""
    if labels is not None:
        found = labels.labels.get(text_digest(record.contexts[0]))
        if found is None:
            return None
        labels.check_tokens(found, tokens)
        return found.log2_ratio
    if record.short_summary is None:
        return None
    from latentpress.data.rows import density_label
    from latentpress.tokens import encode_inert

    summary = len(encode_inert(tokenizer, record.short_summary))
    return density_label(tokens, summary) if tokens and summary else None


def _labelled(record: Record, label: float, tokens: int) -> Labelled:
    (text,) = record.contexts
    return Labelled(
        passage=Passage(id=record.id, genre=record.source, text=text),
        label=label,
        length=length(max(1, tokens)),
        zlib=zlib_ratio(text),
    )


def _lines(cut: Split) -> dict[str, Floats]:
    """Predictions of the judged passages by lines through the others."""
    labels = np.array([one.label for one in cut.fitted])
    pick: Mapping[str, Callable[[Labelled], float]] = {"length": lambda one: one.length, "zlib": lambda one: one.zlib}
    made = {}
    for name, of in pick.items():
        line = Line.through(np.array([of(one) for one in cut.fitted]), labels)
        made[name] = line.at(np.array([of(one) for one in cut.judged]))
    return made | {"mean": np.full(len(cut.judged), labels.mean())}


def _judged(labels: Floats, values: Floats) -> dict[str, float]:
    mae, plain, ranked = _numbers(np.stack([labels, values]))
    return {"mae": mae, "pearson": plain, "spearman": ranked}


def _numbers(stacked: npt.NDArray[np.float64]) -> list[float]:
    """Error, correlation and rank correlation of each row with the first."""
    labels, *others = stacked
    ranked = ranks(labels)
    made: list[float] = []
    for values in others:
        made += [float(np.abs(values - labels).mean()), pearson(values, labels), pearson(ranks(values), ranked)]
    return made


def _notes(cut: Split) -> list[str]:
    notes = []
    if cut.skipped:
        notes.append(f"Without a label and left out: {cut.skipped:,} passages.")
    if cut.every:
        notes.append(
            "Judged on all passages, also on those that the lines were fitted to, and a training may have seen."
        )
    return notes
