#!/usr/bin/env python3
"""Trains and judges presses by a plan, on a machine with a GPU and no network, in pieces of a few minutes.

    python3 scripts/train_gpu.py --minutes 9            # until the exit code is 0

Nothing need be installed but torch and transformers with what they need: whatever else there is to be comes as a parcel
(scripts/pack_for_gpu.py). Exit codes: 0 all stages are done, 3 there is more to do and the same command goes on, 4
parts of the parcel are missing, 2 something must be mended first, as the message says.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scripts.gpu_recipe.plan import Plan

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

DONE, MISTAKE, MORE, INCOMPLETE = 0, 2, 3, 4
_LESS_MEMORY = "give the stage tokens_per_pass = 8000 or less, with which it goes on: no weight depends on it"
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "true",
}


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=ROOT / "configs" / "train-gpu.toml", help="TOML file")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the runs")
    parser.add_argument("--minutes", type=float, help="stop, all stages together, after so many; 0: train nothing")
    parser.add_argument("--parcel", type=Path, default=Path("runs/gpu-parcel"), help="parts that have come, if any")
    parser.add_argument("--files", type=Path, default=Path("runs/gpu-files"), help="folder for what is in them")
    parser.add_argument("--data-dir", type=Path, default=Path(), help="where data lies that did not come in parts")
    parser.add_argument("--base", help="base model, in place of the plan's: the default's name, or a folder")
    parser.add_argument("--peak-tflops", type=float, help="of the chip in bfloat16, if its name does not tell")
    parser.add_argument("--collect", type=Path, metavar="DIR", help="pack presses, logs and scores into DIR at the end")
    parser.add_argument("--part-mib", type=float, default=15, help="with --collect: most MiB of a file")
    parser.add_argument("--collect-mib", type=float, default=64, help="with --collect: most MiB of all files")
    parser.add_argument("--collect-files", type=int, default=8, help="with --collect: most files")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line says; returns the exit code."""
    started = time.monotonic()
    given = options(argv)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from latentpress.errors import LatentpressError

    try:
        return _run(given, None if given.minutes is None else started + 60 * given.minutes)
    except LatentpressError as error:
        print(f"train_gpu: error: {error}", file=sys.stderr, flush=True)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which need not be there
            raise
        reason = str(error).splitlines()[0]
        print(f"train_gpu: error: {reason}; {_LESS_MEMORY}", file=sys.stderr, flush=True)
    return MISTAKE


def _run(given: argparse.Namespace, deadline: float | None) -> int:
    from scripts.gpu_recipe.plan import read_plan

    if not _unpacked(given):
        return INCOMPLETE
    plan = read_plan(given.plan)
    done = False
    if given.minutes != 0:
        done = _work(given, plan, deadline)
    if given.collect is not None:
        from scripts.gpu_recipe.collecting import collect

        limits = {"part_mib": given.part_mib, "most_files": given.collect_files, "most_mib": given.collect_mib}
        packed = collect(plan, given.out, given.collect, **limits)
        _say(f"collected: {len(packed.files)} files in {len(packed.parts)} parts, {packed.bytes / 2**20:.1f} MiB")
    return DONE if done or given.minutes == 0 else MORE


def _unpacked(given: argparse.Namespace) -> bool:
    """Takes in what has come, and installs packages that are missing; returns whether no part is missing."""
    from scripts.gpu_recipe.packages import install_missing
    from scripts.gpu_recipe.parcels import MANIFEST, receive

    if (given.parcel / MANIFEST).is_file() and (missing := receive(given.parcel, given.files)):
        _say(f"parcel: {', '.join(missing)} still to come")
        return False
    if installed := install_missing(given.files / "wheels", given.files):
        _say(f"from the parcel: {', '.join(installed)}")
    return True


def _work(given: argparse.Namespace, plan: Plan, deadline: float | None) -> bool:
    from latentpress.base_model import DEFAULT_BASE, base_folder, default_folder, is_complete
    from scripts.gpu_recipe.plan import base_of

    base = given.base or base_of(plan, given.files)
    if base == DEFAULT_BASE:
        if not is_complete(default_folder()):  # what is made here stays beside the files that came
            os.environ.setdefault("LATENTPRESS_CACHE", str((given.files / "cache").resolve()))
        base_folder(base, fetch=True)
    from scripts.gpu_recipe.speed import peak_tflops
    from scripts.gpu_recipe.stages import Work, device_name

    device = device_name()
    peak = peak_tflops(given.peak_tflops, device)
    _say(f"device: {device}" + (f", {peak:g} TFLOP/s at most" if peak else ""))
    work = Work(
        plan=plan,
        out=given.out,
        places=(given.files / "data", given.data_dir),
        base=base,
        deadline=deadline,
        peak=peak,
        say=_say,
    )
    return work.run()


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
