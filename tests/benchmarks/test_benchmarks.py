"""Every benchmark runs on a tiny press and reports finite numbers; none of them is judged here."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from benchmarks.results import Report, Settings
    from latentpress.press import Press

MODULES = ("compress", "ragged", "first_token", "length", "dtype", "training", "comprexit")


def _reports(module: str, press: Press, settings: Settings) -> list[Report]:
    found: list[Report] = importlib.import_module(f"benchmarks.{module}").run(press, settings)
    return found


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("module", MODULES)
def test_benchmark_reports_ratios_with_floors(module: str, tiny_press: Press, quick: Settings) -> None:
    from benchmarks.results import Result, to_json

    reports = _reports(module, tiny_press, quick)
    assert reports
    for report in reports:
        assert isinstance(report, Result)
        assert math.isfinite(report.measured.median)
        assert report.measured.low <= report.measured.median <= report.measured.high
        assert report.floor is not None
        assert report.floor > 0
        assert all(side.floor is not None and side.floor > 0 for side in report.sides)
        json.dumps(to_json(report), allow_nan=False)


def test_shares_of_time_add_up_and_attention_is_told_apart(tiny_press: Press, quick: Settings) -> None:
    from benchmarks.results import Shares

    for report in _reports("breakdown", tiny_press, quick):
        assert isinstance(report, Shares)
        assert sum(report.percent.values()) == pytest.approx(100)
        assert min(report.percent.values()) > 0


def test_document_that_fits_the_room_left_in_memory_has_a_ratio_all_the_same(
    tiny_press: Press, quick: Settings
) -> None:
    from benchmarks.length import reports

    lengths = (64, 128)
    found = {"seconds": {"64": [1.0], "128": [2.0]}, "peak": {"64": 0, "128": 0}}
    assert all(math.isfinite(report.measured.median) for report in reports(tiny_press, quick, lengths, 8, found))


def test_slope_of_a_power_is_its_exponent() -> None:
    from benchmarks.length import slope

    lengths = (1024, 4096, 16384, 65536)
    found = slope(lengths, {n: [n**1.3, n**1.3] for n in lengths})
    assert (found.low, found.median, found.high) == pytest.approx((1.3, 1.3, 1.3))


def test_timed_answer_is_the_answer_of_ask(tiny_press: Press) -> None:
    from benchmarks.documents import QUESTION
    from benchmarks.first_token import Asker

    latents = tiny_press.compress("The treaty was signed in Paris on the first day of May.", ratio=4)
    tokens = Asker(tiny_press).tokens(latents, 6)
    answer = tiny_press.ask(latents, QUESTION, max_new_tokens=6)
    text = tiny_press.base.tokenizer.decode(tokens, skip_special_tokens=True)
    assert str(text).startswith(answer)
    assert answer


def test_ways_of_training_that_differ_are_refused(tiny_press: Press, quick: Settings) -> None:
    from benchmarks import training

    times = {
        "seconds": {name: [1.0] for name in training.LOSSES},
        "losses": dict(zip(training.LOSSES, (1, 1, 2), strict=True)),
    }
    with pytest.raises(RuntimeError, match="differ in their loss"):
        training.reports(tiny_press, quick, training.examples_of(tiny_press, 2), 4, times, {})


def test_unknown_benchmark_and_unknown_press_are_usage_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.run import main

    with pytest.raises(SystemExit) as unknown:
        main(["speed"])
    assert unknown.value.code == 2
    assert "no benchmark 'speed'" in capsys.readouterr().err
    assert main(["ragged", "--quick", "--press", "nowhere", "--json", str(tmp_path / "out.json")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_run_writes_what_it_prints(tiny_press_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import report
    from benchmarks.run import main

    out = tmp_path / "new" / "out.json"
    assert main(["ragged", "compress", "--quick", "--press", str(tiny_press_folder), "--json", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(report.tables(json.loads(out.read_text())))
    assert "ragged: round 1 of 2" in printed.err


def test_failing_benchmark_is_named_and_takes_no_other_with_it(
    tiny_press_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import length, ragged, training
    from benchmarks.results import Result
    from benchmarks.run import main
    from latentpress.evaluation.timing import Spread

    def fail(*_: object) -> None:
        raise RuntimeError("a child\nwas killed")

    def result(value: float) -> list[Result]:
        return [Result(name="one", measured=Spread(value, value, value, 1), floor=None)]

    monkeypatch.setattr(ragged, "run", lambda *_: result(1.0))
    monkeypatch.setattr(length, "run", fail)
    monkeypatch.setattr(training, "run", lambda *_: result(math.nan))
    out = tmp_path / "out.json"
    names = ["ragged", "length", "training"]
    assert main([*names, "--quick", "--press", str(tiny_press_folder), "--json", str(out)]) == 1
    run = json.loads(out.read_text())
    assert set(run["benchmarks"]) == {"ragged"}
    assert run["failures"]["length"] == "RuntimeError: a child\nwas killed"
    assert run["failures"]["training"].startswith("ValueError: Out of range float")
    printed = capsys.readouterr()
    assert "**Failed**: `length`, RuntimeError: a child was killed\n" in printed.out
    assert "benchmarks: error: training: ValueError" in printed.err


def test_run_is_on_disk_after_each_benchmark(
    tiny_press_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import length, ragged
    from benchmarks.run import main

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ragged, "run", lambda *_: [])
    monkeypatch.setattr(length, "run", interrupt)
    out = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        main(["ragged", "length", "--quick", "--press", str(tiny_press_folder), "--json", str(out)])
    assert json.loads(out.read_text())["benchmarks"] == {"ragged": []}


@pytest.mark.slow
def test_quick_run_of_everything_through_the_command(tiny_press_folder: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks.run", "--quick", "--press", str(tiny_press_folder), "--json", str(out)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(out.read_text())["benchmarks"]) >= {"length", "training", "breakdown"}
    assert "log-log slope" in done.stdout


@pytest.mark.parametrize("node", ["_EagerAttention", "_EagerAttentionBackward", "BranchedAttention"])
def test_what_runs_inside_attention_is_attention(node: str) -> None:
    from types import SimpleNamespace

    from benchmarks.breakdown import group

    above = SimpleNamespace(name=node, cpu_parent=SimpleNamespace(name="autograd::engine", cpu_parent=None))
    assert group(SimpleNamespace(name="aten::bmm", cpu_parent=above)) == "attention"
    assert group(SimpleNamespace(name="aten::bmm", cpu_parent=None)) == "matrix products"


@pytest.mark.parametrize("texts", [1, 2])
def test_the_plain_formula_gives_the_slots_and_gradients_of_the_library(texts: int) -> None:
    import torch

    from benchmarks.comprexit import make, ours, plain

    head, states = make(24, 5, texts, 256, torch.float32)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    results = []
    for side in (ours, plain):
        head.zero_grad()
        slots = side(head, states, texts)
        slots.square().mean().backward()
        results.append([slots.detach(), *(p.grad.clone() for p in head.parameters() if p.grad is not None)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-3)
