"""`report.md`: a comparison written up for someone who has seen nothing of it before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from latentpress.evaluation.markdown import listed, table
from latentpress.evaluation.metrics_file import NAME, write_metrics
from latentpress.evaluation.report_results import against, losses, outcome, scope_tables, selectors
from latentpress.evaluation.report_speed import speed_tables
from latentpress.evaluation.results import write_whole
from latentpress.evaluation.scores import NAMES
from latentpress.evaluation.sources import POOLED

REPORT = "report.md"
"""Name of the file in the folder."""
_TOLD_APART = ("format", "sets", "command")


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
    settings = content["settings"]
    yield "## What was compared, and how"
    if settings.get("command"):
        yield f"```sh\n{settings['command']}\n```"
    shown = {key: value for key, value in settings.items() if key not in _TOLD_APART}
    yield "\n".join(f"- {key.replace('_', ' ')}: {_shown(value)}" for key, value in shown.items())
    rows = [
        [
            name,
            f"{one['questions']:,}",
            one["kind"],
            NAMES[one["measure"]],
            one["resampled"],
            f"`{one['digest']}`",
            listed(f"{count:,} {reason.replace('_', ' ')}" for reason, count in one["dropped"].items()),
        ]
        for name, one in content["sets"].items()
    ]
    yield table(["set", "questions", "kind", "ranked by", "bootstrap draws", "digest", "left out"], rows)


def _reading(content: Mapping[str, Any]) -> str:
    ceiling = content["ceiling"]
    lines = [
        "A ratio is tokens of context over what stands for them in the decoder (latents, tokens of text, cache "
        "entries), summed over all samples. x4 in a system's name is what it was asked for, `ratio` what it came to.",
        "In brackets: 95% bootstrap intervals. Scores are in points of a hundred. EM and F1 are SQuAD's official ones, "
        "in Chinese CMRC's, by characters.",
        "Substring accuracy and correct-only ratio are the semi-dynamic paper's (arXiv 2603.25926): an answer is right "
        "if it appears in the output once all marks and spaces are gone, and the ratio is over such samples only. "
        "Substrings flatter: “10” is found in “2010”, and long outputs hold more.",
        "Readers: `zero-shot` is the base model as it is, `tuned` the same with an adapter trained to answer from full "
        "text, `prompt-tuned` with trained vectors before the text. A press is read by its own decoder.",
        f"Retained: share of the score of `{ceiling}` on the same questions."
        if ceiling
        else "Retained: not known, as no trained reader of the full text takes part.",
        "A question that a system failed at counts as wrong. `n` is how many it was asked; comparisons of two systems "
        "are over the questions that both were asked.",
        "Where many pairs are compared, five in a hundred without a difference will seem to have one.",
        f"Every number, with the key to it, is in `{NAME}`.",
    ]
    return "## How to read the numbers\n\n" + "\n".join(f"- {line}" for line in lines)


def _gaps(content: Mapping[str, Any]) -> Iterator[str]:
    """What was not asked, and what failed, a row a system."""
    yield "## Missing and failed answers"
    rows = []
    for label, one in content["systems"].items():
        missing, failed = [], []
        for name, about in content["sets"].items():
            row = one["scopes"].get(name, {"n": 0, "missing": about["questions"], "failed": 0})
            missing += [f"{name} {row['n']:,} of {about['questions']:,}"] if row["missing"] else []
            failed += [f"{name} {row['failed']:,}"] if row["failed"] else []
        if missing or failed:
            rows.append([f"`{label}`", listed(missing), listed(failed)])
    yield table(["system", "asked only", "failed"], rows) if rows else "None."


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) else f"`{json.dumps(value, ensure_ascii=False)}`"
