"""The tables of a run, made from its JSON file alone.

python -m benchmarks.report build/benchmarks.json                             prints them
python -m benchmarks.report build/benchmarks.json --into docs/benchmarks.md   puts them between the marks of a document
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from latentpress.files import write_whole

_START, _END = "<!-- measured: start -->", "<!-- measured: end -->"
_TARGET = {"at most": "≤", "at least": "≥"}


def tables(run: dict[str, Any]) -> str:
    """Markdown: the machine, all ratios with target and floor, the quantities behind them, and where time goes."""
    reports = [(name, report) for name, reports in run["benchmarks"].items() for report in reports]
    ratios = [(name, report) for name, report in reports if report["kind"] == "ratio"]
    parts = [_machine(run)]
    if ratios:
        notes = list(dict.fromkeys(r["says"] for _, r in ratios if r["says"]))
        rows = [(name, _named(r, notes), _spread(r["measured"]), _target(r), _number(r["floor"])) for name, r in ratios]
        parts.append(_table(("benchmark", "ratio", "measured (lowest to highest, runs)", "target", "floor"), rows))
        parts += ["\n".join(f"{i}. {note}" for i, note in enumerate(notes, 1))] if notes else []
    sides = {(name, side["name"]): side for name, report in ratios for side in report["sides"]}
    if sides:
        lines = [
            (name, s["name"], f"{_spread(s['measured'])} {s['unit']}", _least(s)) for (name, _), s in sides.items()
        ]
        parts.append(_table(("benchmark", "quantity", "measured (lowest to highest, runs)", "floor"), lines))
    parts += [_shares(report) for _, report in reports if report["kind"] == "shares"]
    return "\n\n".join(parts) + "\n"


def _machine(run: dict[str, Any]) -> str:
    machine = run["machine"]
    rates = ", ".join(f"{kind} {rate / 1e9:,.0f} GFLOP/s" for kind, rate in machine["operations"].items())
    versions = run["versions"]
    lines = [
        f"{machine['processor']}, {machine['threads']} threads; {rates}, memory {machine['bandwidth'] / 1e9:.1f} GB/s.",
        f"torch {versions['torch']}, transformers {versions['transformers']}; press {run['press']}.",
    ]
    if run["busy"]:
        lines.append(f"**Not a quiet machine**: {run['load_average']:.1f} processes were waiting for it at the start.")
    lines += [f"**Failed**: `{name}`, {' '.join(message.split())}" for name, message in run.get("failures", {}).items()]
    if run["quick"]:
        lines.append("**A quick run**: small sizes, to see that everything works; its numbers mean nothing.")
    return "\n".join(lines)


def _named(result: dict[str, Any], notes: Sequence[str]) -> str:
    return f"{result['name']} [{1 + notes.index(result['says'])}]" if result["says"] else str(result["name"])


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"


def _spread(values: dict[str, float]) -> str:
    middle = _number(values["median"])
    return (
        middle
        if values["runs"] == 1
        else f"{middle} ({_number(values['low'])} to {_number(values['high'])}, {values['runs']})"
    )


def _target(result: dict[str, Any]) -> str:
    if result["target"] is None:
        return ""
    return f"{_TARGET[result['target']['bound']]} {result['target']['value']:g}: {'met' if result['met'] else 'MISSED'}"


def _least(side: dict[str, Any]) -> str:
    return "" if side["floor"] is None else f"{_number(side['floor'])} {side['unit']}"


def _shares(report: dict[str, Any]) -> str:
    rows = [(name, f"{share:.1f}") for name, share in report["percent"].items()]
    top = ", ".join(f"`{name}` {share:.1f}" for name, share in report["top"].items())
    return (
        f"{report['name']}, {report['seconds']:.2f} s:\n\n{_table(('group', '% of the time'), rows)}\n\nLongest: {top}."
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    every = [header, *rows]
    widths = [max(len(row[i]) for row in every) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in every
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def put_into(document: Path, text: str) -> None:
    """Replaces what stands between the marks of a document.

    Raises:
        ValueError: the document has no such marks.
    """
    before, start, rest = document.read_text().partition(_START)
    _, end, after = rest.partition(_END)
    if not start or not end:
        raise ValueError(f"{document} has no lines {_START} and {_END} for the tables to stand between; add them")
    write_whole(document, f"{before}{_START}\n\n{text}\n{_END}{after}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="JSON file of a run")
    parser.add_argument("--into", type=Path, help="document to put the tables into")
    args = parser.parse_args(arguments)
    text = tables(json.loads(args.run.read_text()))
    if args.into:
        put_into(args.into, text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
