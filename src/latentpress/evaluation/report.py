"""`report.md`: a comparison written up for someone who has seen nothing of it before."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from latentpress.evaluation.markdown import NONE, listed, table
from latentpress.evaluation.metrics_file import NAME, write_metrics
from latentpress.evaluation.report_results import against, losses, outcome, scope_tables, selectors
from latentpress.evaluation.report_speed import speed_tables
from latentpress.evaluation.resampling import LEAST, UNTESTED
from latentpress.evaluation.scores import measure_title
from latentpress.evaluation.sources import POOLED
from latentpress.files import write_whole

REPORT = "report.md"
"""Name of the file in the folder."""
_TOLD_APART = ("format", "sets", "asked_how", "protocol", "command")
_COUNTS = ("questions", "asked", "answered", "failed")
_CORRECT = (
    " As in that paper, scores are shown over this ratio here, also in the picture; with no right answer, over the "
    "ratio of all."
)


def write(out: Path) -> dict[str, Any]:
    """Computes everything from a folder of results and writes its `metrics.json` and `report.md`.

    The pictures that the report shows are drawn by `latentpress.plots.pareto.draw` from `metrics.json`.

    Returns:
        What is in `metrics.json`.

    Raises:
        InputError: a file of the folder cannot be read.
    """
    content = write_metrics(out)
    write_whole(out / REPORT, render(content))
    return content


def render(content: Mapping[str, Any]) -> str:
    """The report of what `metrics.json` holds."""
    scopes = [POOLED] if any(POOLED in one["scopes"] for one in content["systems"].values()) else []
    scopes += content["sets"]
    parts = [
        "# A comparison of ways to press a context",
        "![quality over ratio](pareto.png)",
        *([] if content["speed"] is None else ["![quality over latency](latency.png)"]),
        *outcome(content),
        *_setting(content),
        _reading(content),
        *(part for scope in scopes for part in scope_tables(content, scope)),
        *losses(content),
        *against(content),
        *selectors(content),
        *speed_tables(content),
        *_gaps(content),
    ]
    return "\n\n".join(parts) + "\n"


def _setting(content: Mapping[str, Any]) -> Iterator[str]:
    settings, protocol = content["settings"], content["protocol"]
    how = settings.get("asked_how", {})
    yield "## What was compared, and how"
    if how.get("command"):
        yield f"```sh\n{shlex.join(how['command'])}\n```"
    yield f"Protocol `{protocol['name']}`: {protocol['about']} What is our choice in it:"
    yield "\n".join(f"- {choice}" for choice in protocol["ours"])
    shown = {key: value for key, value in (settings | how).items() if key not in _TOLD_APART}
    yield "Settings:"
    yield "\n".join(f"- {key.replace('_', ' ')}: {_shown(value)}" for key, value in shown.items())
    rows = [
        [
            name,
            f"{one['questions']:,}",
            _kinds(one),
            measure_title(one["measure"]),
            one["resampled"],
            f"`{one['digest']}`",
            listed(f"{count:,} {reason.replace('_', ' ')}" for reason, count in one["dropped"].items()),
        ]
        for name, one in content["sets"].items()
    ]
    yield table(["set", "questions", "kind", "ranked by", "bootstrap draws", "digest", "left out"], rows)
    mixed = [name for name, one in content["sets"].items() if len(one["kinds"]) > 1]
    if mixed:
        yield (
            f"Kinds of questions are mixed in {listed(mixed)}: each question is scored, and counts in what systems are "
            "ranked by, in its own kind's measure; the other columns are means over the questions whose kind has them."
        )


def _kinds(one: Mapping[str, Any]) -> str:
    """`span`, or how many there are of each kind."""
    kinds = one["kinds"]
    return next(iter(kinds)) if len(kinds) == 1 else listed(f"{count:,} {kind}" for kind, count in kinds.items())


def _reading(content: Mapping[str, Any]) -> str:
    ceiling = content["ceiling"]
    lines = [
        "A ratio is tokens of context over what stands for them in the decoder (latents, tokens of text, cache "
        "entries), summed over all samples. x4 in a system's name is what it was asked for, `ratio` what it came to.",
        "Two systems are compared where the ratios that they reached on a set differ by at most 5%. Otherwise one of "
        "them is taken between two of its sizes, at the other's ratio, by a straight line over log2 of the ratio; "
        "where it has none on both sides, they are not compared. A selector is so compared with every other system, on "
        "each set at the ratio that it came to there.",
        f"In brackets: 95% bootstrap intervals; none below {LEAST} contexts (pooled: on any of the sets), where a "
        f"difference is `{UNTESTED}`. Scores are in points of a hundred. EM and F1 are SQuAD's official ones, "
        "in Chinese CMRC's, by characters.",
        "Substring accuracy and correct-only ratio are the semi-dynamic paper's (arXiv 2603.25926): an answer is right "
        "if it appears in the output once all marks and spaces are gone, and the ratio is over such samples only. "
        "Substrings flatter: “10” is found in “2010”, and long outputs hold more."
        + (_CORRECT if content["protocol"]["ratio"] == "correct_only_ratio" else ""),
        "Readers: `zero-shot` is the base model as it is, `tuned` the same with an adapter trained to answer from full "
        "text, `prompt-tuned` with trained vectors before the text. A press is read by its own decoder.",
        f"Retained: share of the score of `{ceiling}` on the same questions."
        if ceiling
        else "Retained: not known, as no trained reader of the full text takes part.",
        "A question that a system failed at counts as wrong. Comparisons of two systems are over the questions that "
        "both answered or failed at.",
        "Where many pairs are compared, five in a hundred without a difference will seem to have one.",
        f"Every number, with the key to it, is in `{NAME}`.",
    ]
    return "## How to read the numbers\n\n" + "\n".join(f"- {line}" for line in lines)


def _gaps(content: Mapping[str, Any]) -> Iterator[str]:
    """What was not asked, not answered or failed at: a row for all sets of a system where it went alike."""
    yield "## Missing and failed answers"
    if not content["gaps"]:
        yield "None."
        return
    few: dict[str, None] = {}
    alike: dict[tuple[str, ...], list[str]] = {}
    for gap in content["gaps"]:
        label = f"`{gap['label']}`"
        if gap["why"] is None and not gap["failed"] and gap["answered"] == gap["asked"]:
            few[label] = None
            continue
        counts = (NONE if gap[key] is None else f"{gap[key]:,}" for key in _COUNTS)
        alike.setdefault((label, *counts, _why(gap)), []).append(gap["set"])
    if few:
        yield f"Asked only some questions of a set (see `asked` in its table), and done with them: {', '.join(few)}."
    if alike:
        yield (
            "Asked is how many of a set's questions a system is asked, answered how many it has answered or failed at "
            "so far, failed how many of these it gave an error for. Systems that have not answered all they are asked "
            "are not part of the means over sets."
        )
        rows = [[label, listed(sets), *rest] for (label, *rest), sets in alike.items()]
        yield table(["system", "set", *_COUNTS, "why it could not go on"], rows)


def _why(gap: Mapping[str, Any]) -> str:
    """Why a system could not go on with a set, on one line."""
    return " ".join((gap["why"] or ("not asked" if gap["asked"] is None else NONE)).split())


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) else f"`{json.dumps(value, ensure_ascii=False)}`"
