"""`metrics.json`: every number of a comparison, computed from its folder, with what each key means."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latentpress.errors import InputError
from latentpress.evaluation.comparisons import Scopes, ceiling_of, losses, own, pairs, selector_gains, share
from latentpress.evaluation.latency import latency
from latentpress.evaluation.results import Described, Folder, QuestionSet, read_folder, write_whole
from latentpress.evaluation.scores import NAMES, Scored, compared_at, headline, row_of, samples_of, score_all
from latentpress.evaluation.sources import POOLED

FORMAT = 1
"""Of the file."""
NAME = "metrics.json"
"""Of the file, in the folder."""
KEYS = {
    "settings": "settings.json of the comparison",
    "sets.<set>": "questions (how many there are), kind, digest, dropped (how many, by reason), measure (headline: "
    "what systems are ranked by), resampled (what the bootstrap draws: contexts with all their questions, or "
    "questions)",
    "pooled": "sets whose headline measure is the same, and that measure; `pooled` numbers are means over these sets",
    "ceiling": "label of the system whose headline score the retained share is of",
    "systems.<label>": "name, kind, reader, size, sees_question, identity (whatever its answers depend on), "
    "compared_at (ratio at which it is compared with others; null for none), scopes",
    "systems.<label>.scopes.<set or pooled>": "n (questions answered or failed at), missing (not asked yet), failed "
    "(errors, which score 0), f1, exact_match, substring_accuracy, rouge_l, choice_accuracy (means; those of the set's "
    "kind), tokens and kept (sums over the answered), ratio (their quotient, null where nothing is kept), "
    "correct_only_ratio, of correct_tokens and correct_kept (the semi-dynamic paper's: the same over the answers that "
    "its substring accuracy counts as right), bytes_per_token (of the stored context; null where none is stored), "
    "headline (mean, low, high: 95% bootstrap interval), retained (the same for the share of the ceiling's score, on "
    "common questions)",
    "pairs": "two systems compared at the same ratio on common questions, by scope: mean of a - b in the headline "
    "measure, its 95% paired bootstrap interval low to high, n, and word: better or worse only if the interval leaves "
    "zero out, else level; of a hundred pairs without a difference some five leave it out by chance",
    "losses": "pairs in which a press is worse than a system that is none",
    "selector_gains": "by press: points (what its selector gained over its fixed ratios at the same mean ratio, and "
    "the spread, the standard deviation of the log2 ratios it came to), gain (mean of the points), slope (gain for "
    "each octave of spread)",
    "speed.lengths.<tokens>.<label>": "kept, rounds, peak_bytes, peak_ratio; compress, first_token, total (from the "
    "text on), stored_first_token, stored_total (from the question on): seconds, and the ratio to the reference's "
    "first_token (for first tokens) or total (for the others), each the median, lowest and highest of the rounds; "
    "break_even: questions about one text from which on compressing it is quicker than reading it each time, null for "
    "never; nothing where the whole text is kept",
}
"""What the keys of the file mean; `<...>` stands for any name."""
_SUMMED = ("n", "missing", "failed", "tokens", "kept", "correct_tokens", "correct_kept")
_QUOTIENTS = {"ratio": ("tokens", "kept"), "correct_only_ratio": ("correct_tokens", "correct_kept")}
_DIGITS = 5


def write_metrics(out: Path) -> dict[str, Any]:
    """Computes the numbers of a folder of results, writes them to its `metrics.json`, and returns them.

    Raises:
        InputError: a file of the folder cannot be read.
    """
    content = measure(read_folder(out))
    write_whole(out / NAME, _dump(content))
    return content


def read_metrics(out: Path) -> dict[str, Any]:
    """Reads the numbers of a folder of results.

    Raises:
        InputError: they are missing, of another format, or cannot be read.
    """
    path = out / NAME
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        written = content["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error!r}); run the comparison again") from error
    if written != FORMAT:
        raise InputError(f"{path} is of format {written!r}, not {FORMAT}; compute it again")
    return content


def measure(folder: Folder) -> dict[str, Any]:
    """Every number of a folder, as plain data that JSON can hold: null stands for what is undefined."""
    scored = score_all(folder)
    protocol = folder.settings.get("protocol", "default")
    measures = {one.name: headline(one.kind, protocol) for one in folder.sets}
    pooled_measure = max(measures.values(), key=[*measures.values()].count, default="f1")
    pooled = [name for name, each in measures.items() if each == pooled_measure]
    rows = {key: row_of(found) for key, found in scored.items()}
    for (name, _), row in rows.items():
        row["missing"] = next(len(one.questions) for one in folder.sets if one.name == name) - row["n"]
    rows = {key: row for key, row in rows.items() if row["n"]}  # a file of nothing but its header holds no score
    by_label = {label: [row for (_, of), row in rows.items() if of == label] for label in folder.systems}
    systems = {label: one for label, one in folder.systems.items() if by_label[label]}
    at = compared_at(systems, by_label)
    scopes = Scopes(samples_of(folder, scored), pooled)
    every = list(pairs(scopes, systems, at))
    content = {
        "format": FORMAT,
        "keys": KEYS,
        "settings": dict(folder.settings),
        "sets": {one.name: _set(one, measures[one.name]) for one in folder.sets},
        "pooled": {"sets": pooled, "measure": pooled_measure},
        "ceiling": ceiling_of(systems),
        "systems": {
            label: _about(one) | {"compared_at": at.get(label), "scopes": _scopes(label, rows, scopes, systems)}
            for label, one in systems.items()
        },
        "pairs": every,
        "losses": losses(every, systems),
        "selector_gains": selector_gains(scopes, systems, rows, {key: _spread(found) for key, found in scored.items()}),
        "speed": None if folder.speed is None else latency(folder.speed),
    }
    made: dict[str, Any] = _plain(content)
    return made


def chief_scope(content: Mapping[str, Any]) -> str:
    """Scope that is told first: the mean over sets, or the only set."""
    pooled = any(POOLED in one["scopes"] for one in content["systems"].values())
    return POOLED if pooled else next(iter(content["sets"]), POOLED)


def measure_name(content: Mapping[str, Any], scope: str) -> str:
    """What systems are ranked by in a scope, for people."""
    return NAMES[content["pooled"]["measure"] if scope == POOLED else content["sets"][scope]["measure"]]


def _set(one: QuestionSet, measure: str) -> dict[str, Any]:
    known = bool(one.questions) and all(question.context is not None for question in one.questions)
    return {
        "questions": len(one.questions),
        "kind": one.kind,
        "digest": one.digest,
        "dropped": dict(one.dropped),
        "measure": measure,
        "resampled": "contexts" if known else "questions",
    }


def _about(one: Described) -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": one.kind,
        "reader": one.reader,
        "size": str(one.size) if one.size else None,
        "sees_question": one.sees_question,
        "identity": dict(one.identity),
    }


def _scopes(
    label: str,
    rows: Mapping[tuple[str, str], Mapping[str, Any]],
    scopes: Scopes,
    systems: Mapping[str, Described],
) -> dict[str, Any]:
    """Rows of a system by set, and pooled, with their intervals."""
    made = {name: dict(row) for (name, of), row in rows.items() if of == label}
    if len(scopes.pooled) > 1 and all(name in made for name in scopes.pooled):
        made[POOLED] = _pooled([made[name] for name in scopes.pooled])
    headlines = scopes.numbers([label], own)
    ceiling = ceiling_of(systems)
    retained = scopes.numbers([label, ceiling], share) if ceiling else {}
    for name, row in made.items():
        row["headline"] = headlines[name]
        row["retained"] = retained.get(name)
    return made


def _pooled(every: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over sets of what is a mean, sums of what is a sum."""
    row: dict[str, Any] = {name: sum(one[name] for one in every) for name in _SUMMED if name in every[0]}
    for name, (over, under) in _QUOTIENTS.items():
        if name in every[0]:
            row[name] = row[over] / row[under] if row[under] else math.nan
    means = [name for name in every[0] if name not in {*row, *_QUOTIENTS, "bytes_per_token"}]
    row |= {name: float(np.mean([one[name] for one in every])) for name in means}
    stored = [one["bytes_per_token"] for one in every]
    whole = None if None in stored else sum(a * one["tokens"] for a, one in zip(stored, every, strict=True))
    row["bytes_per_token"] = None if whole is None or not row["tokens"] else whole / row["tokens"]
    return row


def _spread(found: Scored) -> float:
    """Standard deviation of the log2 ratios of a system's answers; NaN where none keeps anything."""
    sized = found.kept > 0
    return float(np.std(np.log2(found.tokens[sized] / found.kept[sized]))) if sized.any() else math.nan


def _plain(value: Any) -> Any:
    """Plain data with rounded numbers, and null for what is no number."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return round(float(value), _DIGITS) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _dump(content: Mapping[str, Any]) -> str:
    """JSON with a line for each entry of the second level, so that files of two runs can be compared by eye."""

    def entry(value: Any) -> str:
        if isinstance(value, dict) and value:
            lines = [f"{json.dumps(key)}: {json.dumps(one, ensure_ascii=False)}" for key, one in value.items()]
            return "{\n  " + ",\n  ".join(lines) + "\n }"
        if isinstance(value, list) and value:
            return "[\n  " + ",\n  ".join(json.dumps(one, ensure_ascii=False) for one in value) + "\n ]"
        return json.dumps(value, ensure_ascii=False)

    return "{\n " + ",\n ".join(f"{json.dumps(key)}: {entry(value)}" for key, value in content.items()) + "\n}\n"
