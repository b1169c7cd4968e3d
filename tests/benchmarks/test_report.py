"""Tables say what was measured, against what, and on what machine; a document is changed between its marks only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def _run(**changes: Any) -> dict[str, Any]:
    from benchmarks.results import Result, Shares, Side, Target, to_json
    from latentpress.evaluation.timing import Spread

    side = Side(name="a side", measured=Spread(0.5, 0.4, 0.6, 3), floor=0.25)
    met = Result(
        name="good", measured=Spread(1.1, 1.05, 1.2, 3), floor=1.01, target=Target("at most", 1.15), sides=(side,)
    )
    missed = Result(
        name="bad", measured=Spread(0.7, 0.7, 0.7, 1), floor=None, target=Target("at least", 0.8), says="why"
    )
    spent = Shares(name="something", seconds=2.0, percent={"matrix products": 60.0}, top={"mm": 55.0})
    return {
        "press": "tiny",
        "quick": False,
        "busy": False,
        "load_average": 0.1,
        "seconds": 12.0,
        "machine": {"processor": "a CPU", "threads": 2, "operations": {"bfloat16": 1e12}, "bandwidth": 2e10},
        "versions": {"torch": "2", "transformers": "5"},
        "benchmarks": {"one": [to_json(met), to_json(missed)], "two": [to_json(spent)]},
        **changes,
    }


def test_tables_hold_ratio_spread_target_floor_and_shares() -> None:
    from benchmarks.report import tables

    text = tables(_run())
    assert "a CPU, 2 threads; bfloat16 1,000 GFLOP/s, memory 20.0 GB/s." in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert ["one", "good", "1.10 (1.05 to 1.20, 3)", "≤ 1.15: met", "1.01"] in rows
    assert ["one", "bad [1]", "0.7", "≥ 0.8: MISSED", ""] in rows
    assert "\n1. why\n" in text
    assert ["one", "a side", "0.5 (0.4 to 0.6, 3) s", "0.25 s"] in rows
    assert ["matrix products", "60.0"] in rows
    assert "Not a quiet machine" not in text


def test_busy_machine_and_quick_run_are_said() -> None:
    from benchmarks.report import tables

    assert "Not a quiet machine" in tables(_run(busy=True))
    assert "A quick run" in tables(_run(quick=True))


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    from benchmarks.report import put_into

    document = tmp_path / "page.md"
    document.write_text("before\n<!-- measured: start -->\nold\n<!-- measured: end -->\nafter\n")
    for text in ("first", "second"):
        put_into(document, text)
    assert document.read_text() == "before\n<!-- measured: start -->\n\nsecond\n<!-- measured: end -->\nafter\n"
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]


def test_document_without_marks_is_refused_and_left_alone(tmp_path: Path) -> None:
    from benchmarks.report import put_into

    document = tmp_path / "page.md"
    document.write_text("no marks\n")
    with pytest.raises(ValueError, match="measured: start"):
        put_into(document, "tables")
    assert document.read_text() == "no marks\n"
