"""`metrics.json`: every number of a comparison, computed from its folder, with what each key means."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latentpress.errors import InputError
from latentpress.evaluation.comparisons import Scopes, ceiling_of, losses, own, pairs, selector_gains, share
from latentpress.evaluation.latency import latency
from latentpress.evaluation.matching import Sizes, lines_of
from latentpress.evaluation.protocols import find_protocol
from latentpress.evaluation.results import Described, Folder, QuestionSet, read_folder
from latentpress.evaluation.scores import (
    Scored,
    columns,
    measure_title,
    protocol_of,
    row_of,
    samples_of,
    score_all,
    set_headline,
)
from latentpress.evaluation.sources import POOLED
from latentpress.files import write_whole

FORMAT = 3
"""Of the file."""
NAME = "metrics.json"
"""Of the file, in the folder."""
KEYS = {
    "settings": "settings.json of the comparison",
    "protocol": "name, about, ours (what is our choice in it), ratio (which of the two a score is shown over)",
    "sets.<set>": "questions (how many there are), kinds (how many there are of each), digest, dropped (how many, by "
    "reason), measure (headline: what systems are ranked by; + between those of several kinds, where every question "
    "has its own kind's), columns (what else is measured, in order), resampled (what the bootstrap draws: contexts "
    "with all their questions, or questions)",
    "pooled": "sets whose headline measure is the same, and that measure; `pooled` numbers are means over these sets",
    "ceiling": "label of the system whose headline score the retained share is of",
    "systems.<label>": "name, kind, reader, size, asked_ratio (null where none is asked), "
    "sees_question, identity (whatever its answers depend on), scopes",
    "systems.<label>.scopes.<set or pooled>": "asked (questions that it is asked), n (those answered or failed at), "
    "failed (errors, which score 0), f1, exact_match, substring_accuracy, rouge_l, choice_accuracy (means over the "
    "questions whose kind has them), tokens and kept (sums over the answered), ratio (their quotient, null where "
    "nothing is kept), correct_only_ratio, of correct_tokens and correct_kept (the semi-dynamic paper's: the same over "
    "the answers that its substring accuracy counts as right), bytes_per_token (of the stored context; null where none "
    "is stored), headline (mean, low, high: 95% bootstrap interval), intervals (low and high of each measure beside "
    "the headline, drawn alike), retained (mean, low, high of the share of the ceiling's score, on common "
    "questions); pooled only for systems that have answered all they are asked",
    "lines.<name>": "labels of all fixed sizes of a system",
    "gaps": "where a system has not answered all that it is asked, is asked less than there is, or failed: label, set, "
    "questions, asked, answered, failed, and why it could not go on (null for no reason given)",
    "pairs": "two systems (b may be a name of `lines`) that keep as much of the contexts of common questions, by "
    "scope: mean of a - b in the headline measure, its 95% paired bootstrap interval low to high, n, ratios (that both "
    "reached), a_of and b_of (labels; of two, the score is taken between them at the other side's ratio, by a straight "
    "line over log2 of the ratio, as their own ratios differ from it by more than 5%), and word: better or worse only "
    "if the interval leaves zero out, else level, or untested where there is no interval (null: fewer than 10 "
    "contexts, of pooled numbers on any of the sets, or a number that is undefined in some resample); of a hundred "
    "pairs without a difference some five leave it out by chance",
    "losses": "pairs in which a press is worse than a system that is none",
    "selector_gains": "by press: points (what its selector gained over its fixed ratios at the same mean ratio, and "
    "the spread, the standard deviation of the log2 ratios it came to; at_lowest: within 5% of the lowest fixed ratio, "
    "where nothing can be gained), gain (mean of the points that are not at_lowest, null if none is), slope (their "
    "gain for each octave of spread)",
    "speed.lengths.<tokens>.<label>": "kept, rounds, peak_bytes, peak_ratio; compress, first_token, total (from the "
    "text on), stored_first_token, stored_total (from the question on): seconds, and the ratio to the reference's "
    "first_token (for first tokens) or total (for the others), each the median, lowest and highest of the rounds; "
    "break_even: questions about one text from which on compressing it is quicker than reading it each time, null for "
    "never; nothing where the whole text is kept; break_even_cached: the same against reading it once and keeping its "
    "keys and values (speed.cached)",
    "speed.cached": "label of the reference where it keeps keys and values of the text; null if that was not measured",
    "speed.elsewhere.<label>": "what of a system runs in a process of its own, and on which packages",
}
"""What the keys of the file mean; `<...>` stands for any name."""
_SUMMED = ("asked", "n", "failed", "tokens", "kept", "correct_tokens", "correct_kept")
_QUOTIENTS = {"ratio": ("tokens", "kept"), "correct_only_ratio": ("correct_tokens", "correct_kept")}
_DIGITS = 5


def write_metrics(out: Path) -> dict[str, Any]:
    """Computes the numbers of a folder of results, writes them to its `metrics.json`, and returns them.

    Raises:
        InputError: a file of the folder cannot be read.
    """
    content = measure(read_folder(out))
    write_whole(out / NAME, dump(content))
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
    protocol = protocol_of(folder)
    scored = score_all(folder)
    measures = {one.name: set_headline(one, protocol) for one in folder.sets}
    scopes, sizes = scopes_of(folder, scored), Sizes(scored)
    pooled = scopes.pooled
    rows = {key: {"asked": folder.asked[key]} | row_of(found) for key, found in scored.items()}
    gaps = list(_gaps(folder, rows))
    rows = {key: row for key, row in rows.items() if row["n"]}  # a file of nothing but its header holds no score
    answering = {label for _, label in rows}
    systems = {label: one for label, one in folder.systems.items() if label in answering}
    every = list(pairs(scopes, systems, sizes))
    beside = {name: scopes_of(folder, scored, name) for name in _beside(folder, protocol)}
    content = {
        "format": FORMAT,
        "keys": KEYS,
        "settings": dict(folder.settings),
        "protocol": _protocol(protocol),
        "sets": {one.name: _set(one, measures[one.name], protocol) for one in folder.sets},
        "pooled": {"sets": pooled, "measure": measures[pooled[0]] if pooled else "f1"},
        "ceiling": ceiling_of(systems),
        "systems": {
            label: _about(one) | {"scopes": _scopes(label, rows, scopes, systems, beside)}
            for label, one in systems.items()
        },
        "lines": lines_of(systems),
        "gaps": gaps,
        "pairs": every,
        "losses": losses(every, systems),
        "selector_gains": selector_gains(
            scopes, systems, sizes, {key: _spread(found) for key, found in scored.items()}
        ),
        "speed": None if folder.speed is None else latency(folder.speed),
    }
    made: dict[str, Any] = plain(content)
    return made


def scopes_of(folder: Folder, scored: Mapping[tuple[str, str], Scored], measure: str | None = None) -> Scopes:
    """What numbers of a folder are of: each set, and together those with the headline measure that most sets have.

    Args:
        folder: what was read.
        scored: its answers.
        measure: what is resampled; the headline if None.
    """
    protocol = protocol_of(folder)
    measures = {one.name: set_headline(one, protocol) for one in folder.sets}
    most = max(measures.values(), key=[*measures.values()].count, default="")
    pooled = [name for name, each in measures.items() if each == most]
    answered = {key: int((~np.isnan(found.headline)).sum()) for key, found in scored.items()}
    unfinished = {label for (name, label), n in answered.items() if name in pooled and n < folder.asked[name, label]}
    return Scopes(samples_of(folder, scored, measure), pooled, unfinished)


def chief_scope(content: Mapping[str, Any]) -> str:
    """Scope that is told first: the mean over sets, or the only set."""
    pooled = any(POOLED in one["scopes"] for one in content["systems"].values())
    return POOLED if pooled else next(iter(content["sets"]), POOLED)


def measure_name(content: Mapping[str, Any], scope: str) -> str:
    """What systems are ranked by in a scope, for people."""
    return measure_title(content["pooled"]["measure"] if scope == POOLED else content["sets"][scope]["measure"])


def ratio_key(content: Mapping[str, Any], scope: str) -> str:
    """Which ratio of a row scores are shown over in a scope: the protocol's, where the scope's kinds have it."""
    chosen: str = content["protocol"]["ratio"]
    rows = [one["scopes"][scope] for one in content["systems"].values() if scope in one["scopes"]]
    return chosen if all(chosen in row for row in rows) else "ratio"


def ratio_of(row: Mapping[str, Any], key: str) -> float | None:
    """A row's ratio; that over all answers where none is correct, so that who answers nothing is seen to."""
    found: float | None = row["ratio"] if row[key] is None else row[key]
    return found


def _protocol(name: str) -> dict[str, Any]:
    protocol = find_protocol(name)
    ratio = "correct_only_ratio" if protocol.correct_only else "ratio"
    return {"name": protocol.name, "about": protocol.about, "ours": protocol.ours, "ratio": ratio}


def _gaps(folder: Folder, rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Where a system has no answer, by set; also one that could not even begin."""
    labels = dict.fromkeys([*folder.systems, *(label for _, label in folder.failed)])
    for label in labels:
        for one in folder.sets:
            row = rows.get((one.name, label), {"asked": None, "n": 0, "failed": None})
            why = folder.failed.get((one.name, label))
            if why is not None or row["failed"] or row["n"] < len(one.questions):
                about = {"label": label, "set": one.name, "questions": len(one.questions), "asked": row["asked"]}
                yield about | {"answered": row["n"], "failed": row["failed"], "why": why}


def _set(one: QuestionSet, measure: str, protocol: str) -> dict[str, Any]:
    known = bool(one.questions) and all(question.context is not None for question in one.questions)
    return {
        "questions": len(one.questions),
        "kinds": one.kinds,
        "digest": one.digest,
        "dropped": dict(one.dropped),
        "measure": measure,
        "columns": columns(list(one.kinds), protocol),
        "resampled": "contexts" if known else "questions",
    }


def _about(one: Described) -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": one.kind,
        "reader": one.reader,
        "size": str(one.size) if one.size else None,
        "asked_ratio": one.size.ratio if one.size else None,
        "sees_question": one.sees_question,
        "identity": dict(one.identity),
    }


def _scopes(
    label: str,
    rows: Mapping[tuple[str, str], Mapping[str, Any]],
    scopes: Scopes,
    systems: Mapping[str, Described],
    beside: Mapping[str, Scopes],
) -> dict[str, Any]:
    """Rows of a system by set, and pooled, with their intervals."""
    made = {name: dict(row) for (name, of), row in rows.items() if of == label}
    headlines = scopes.numbers([label], own)
    if POOLED in headlines:
        made[POOLED] = _pooled([made[name] for name in scopes.pooled])
    ceiling = ceiling_of(systems)
    retained = scopes.numbers([label, ceiling], share) if ceiling else {}
    others = {measure: each.numbers([label], own) for measure, each in beside.items()}
    for name, row in made.items():
        row["headline"] = headlines[name]
        row["retained"] = retained.get(name)
        row["intervals"] = {
            measure: [numbers[name]["low"], numbers[name]["high"]]
            for measure, numbers in others.items()
            if name in numbers
        }
    return made


def _beside(folder: Folder, protocol: str) -> list[str]:
    """Measures that stand beside the headline on any set."""
    return list(dict.fromkeys(name for one in folder.sets for name in columns(list(one.kinds), protocol)))


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


def plain(value: Any) -> Any:
    """Plain data with rounded numbers, and null for what is no number."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return round(float(value), _DIGITS) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def dump(content: Mapping[str, Any]) -> str:
    """JSON with a line for each entry of the second level, so that files of two runs can be compared by eye."""

    def entry(value: Any) -> str:
        if isinstance(value, dict) and value:
            lines = [f"{json.dumps(key)}: {json.dumps(one, ensure_ascii=False)}" for key, one in value.items()]
            return "{\n  " + ",\n  ".join(lines) + "\n }"
        if isinstance(value, list) and value:
            return "[\n  " + ",\n  ".join(json.dumps(one, ensure_ascii=False) for one in value) + "\n ]"
        return json.dumps(value, ensure_ascii=False)

    return "{\n " + ",\n ".join(f"{json.dumps(key)}: {entry(value)}" for key, value in content.items()) + "\n}\n"
