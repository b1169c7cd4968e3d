"""Measures speed and memory: ratios between two things measured side by side, each with its floor beside it.

The result file is written after each benchmark. One that fails is named there, the others go on, the exit code is 1.

python -m benchmarks.run                        everything, on a quiet machine (make bench)
python -m benchmarks.run ragged length          only these
python -m benchmarks.run --quick                small sizes, to see that everything works
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import report

if TYPE_CHECKING:
    from benchmarks.results import Settings
    from benchmarks.work import Machine
    from latentpress.press import Press

BENCHMARKS = {
    "compress": "compressing beside the bare forward pass of the encoder",
    "ragged": "texts of 32 to 1,300 tokens beside equal ones",
    "first-token": "first token and first answer, latents beside the full text",
    "length": "seconds and peak memory from 1,000 to 64,000 tokens",
    "dtype": "bfloat16 beside float32",
    "training": "packed rows beside one question per encoding with full logits",
    "comprexit": "ComprExIT's head beside its plain formula, and beside the frozen base",
    "breakdown": "where the time of compressing and of a training step goes",
}
SCHEMA_VERSION = 1
_BUSY = 0.5  # processes waiting at the start, above which times are of a shared machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns its exit code."""
    args = _parse(arguments)
    import torch

    import latentpress
    from benchmarks.results import Settings
    from benchmarks.work import measure_machine
    from latentpress.errors import LatentpressError
    from latentpress.files import write_whole

    started = time.perf_counter()
    load_average = os.getloadavg()[0]
    if load_average > _BUSY and not args.quick:
        _note(started, f"warning: {load_average:.1f} processes wait for this machine; measure on a quiet one")
    try:
        _note(started, f"loading {args.press}")
        press = latentpress.load(args.press, device="cpu")
        _note(started, f"rates of this machine with {torch.get_num_threads()} threads")
        machine = measure_machine(size=256, megabytes=16) if args.quick else measure_machine()
        settings = Settings(press=args.press, quick=args.quick, machine=machine, note=lambda _: None)
    except LatentpressError as error:
        print(f"benchmarks: error: {error}", file=sys.stderr)
        return 2
    args.json.parent.mkdir(parents=True, exist_ok=True)
    run = _new_run(press, args.quick, load_average, _machine(machine, torch.get_num_threads()))
    for name in args.names or BENCHMARKS:
        _measure(name, press, settings, started, run)
        run["seconds"] = time.perf_counter() - started
        # After each one, so that nothing that ends this process later takes what was measured with it.
        write_whole(args.json, json.dumps(run, indent=2, allow_nan=False) + "\n")
    print(report.tables(run))
    print(f"also in {args.json}")
    for name, message in run["failures"].items():
        print(f"benchmarks: error: {name}: {message}", file=sys.stderr)
    return 1 if run["failures"] else 0


def _new_run(press: Press, quick: bool, load_average: float, machine: dict[str, Any]) -> dict[str, Any]:
    """A run without results."""
    return {
        "schema_version": SCHEMA_VERSION,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "press": press.config.name,
        "press_fingerprint": press.fingerprint,
        "quick": quick,
        "busy": load_average > _BUSY,
        "load_average": load_average,
        "seconds": 0.0,
        "machine": machine,
        "versions": _versions(),
        "benchmarks": {},
        "failures": {},
    }


def _measure(name: str, press: Press, settings: Settings, started: float, run: dict[str, Any]) -> None:
    """Adds a benchmark's reports to a run, or what it failed with."""
    try:
        found = _run(name, press, settings, started)
        json.dumps(found, allow_nan=False)  # a number that is none fails this benchmark, not the file
    except Exception as error:  # noqa: BLE001  # whatever it is, the benchmarks before and after it stand
        traceback.print_exc()
        run["failures"][name] = f"{type(error).__name__}: {error}"
        press.model.eval()  # as the next one expects it, wherever this one stopped
    else:
        run["benchmarks"][name] = found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = "\n".join(f"  {name:12s} {says}" for name, says in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=f"{__doc__}\nbenchmarks:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which to run, all if none is named")
    parser.add_argument(
        "--press", default="semidynamic-smollm2-135m", help="name, folder or hub id (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes; the numbers mean nothing")
    parser.add_argument(
        "--json",
        type=Path,
        default=Path("build/benchmarks.json"),
        metavar="OUT",
        help="result file (default: %(default)s)",
    )
    args = parser.parse_args(arguments)
    unknown = [name for name in args.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; choose from {', '.join(BENCHMARKS)}")
    return args


def _run(name: str, press: Press, settings: Settings, started: float) -> list[dict[str, Any]]:
    import dataclasses

    from benchmarks.results import to_json

    _note(started, f"{name}: {BENCHMARKS[name]}")
    module = importlib.import_module(f"benchmarks.{name.replace('-', '_')}")
    told = dataclasses.replace(settings, note=lambda line: _note(started, f"{name}: {line}"))
    return [to_json(one) for one in module.run(press, told)]


def _note(started: float, line: str) -> None:
    print(f"[{time.perf_counter() - started:6.1f} s] {line}", file=sys.stderr, flush=True)


def _machine(machine: Machine, threads: int) -> dict[str, Any]:
    from latentpress.evaluation.origin import processor

    return {
        "processor": processor(),
        "system": platform.platform(),
        "threads": threads,
        "operations": machine.operations,
        "bandwidth": machine.bandwidth,
    }


def _versions() -> dict[str, str]:
    import torch
    import transformers

    import latentpress

    versions = {
        "latentpress": latentpress.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return {**versions, "python": platform.python_version()}


if __name__ == "__main__":
    sys.exit(main())
