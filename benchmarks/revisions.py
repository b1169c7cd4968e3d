"""Speed of training beside that of an earlier revision of this repository, in one run.

    python -m benchmarks.revisions REVISION --data train.jsonl.xz --out runs/revisions [--rounds 3] [--steps 12] \
        [NAME=VALUE ...]

Both train the recipe `semidynamic` on the same data with the same settings, in turn, the order changing from round to
round, each in a process of its own with the same packages. The first steps of each do not count. What is reported is
the median over the steps that count of context tokens and of questions a second, and the ratio of both sides' round by
round. Settings that the earlier revision does not know cannot be given.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.ablations import read
from benchmarks.child import ROOT
from latentpress.evaluation.origin import processor
from latentpress.files import write_whole

NOW = "now"
RECIPE = "semidynamic"
WARM = 3
"""Steps of a run that do not count."""


@contextmanager
def checkout(revision: str, folder: Path) -> Iterator[Path]:
    """The files of a revision, in a folder that is removed afterwards.

    Raises:
        SystemExit: there is no such revision.
    """

    def git(*command: str) -> None:
        subprocess.run(["git", "-C", str(ROOT), *command], check=True, capture_output=True, text=True)

    try:
        git("worktree", "add", "--detach", str(folder), revision)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"no checkout of {revision!r}: {error.stderr.strip()}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        git("worktree", "prune")


def train(source: Path, out: Path, data: Sequence[str], steps: int, overrides: Sequence[str]) -> None:
    """One run in a process of its own, with the library from a source folder.

    Raises:
        SystemExit: it failed.
    """
    every = [f"steps={steps}", f"eval_every={steps}", f"save_every={steps}", "log_every=1", "dev_rows=1"]
    given = [part for path in data for part in ("--data", path)]
    command = [sys.executable, "-m", "latentpress", "train", RECIPE, *given, "--out", str(out)]
    done = subprocess.run(
        [*command, *every, "f1_questions=0", *overrides],
        check=False,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"the run with {source} failed:\n{done.stderr[-2000:]}")


def rates(log: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Median of context tokens, and of questions, a second, over the steps that count.

    Raises:
        SystemExit: the log has no step that counts.
    """
    steps = [line for line in log if "context_tokens_per_second" in line]
    tokens, questions = [], []
    for before, line in itertools.pairwise(steps):
        if line["step"] > WARM:
            rate = line["context_tokens_per_second"]
            seconds = (line["context_tokens_seen"] - before["context_tokens_seen"]) / rate
            tokens.append(rate)
            questions.append((line["questions_seen"] - before["questions_seen"]) / seconds)
    if not tokens:
        raise SystemExit(f"no step counts; give --steps of more than {WARM}")
    return {"tokens": median(tokens), "questions": median(questions)}


def table(rounds: Sequence[dict[str, dict[str, float]]], former: str) -> str:
    """Markdown: both sides, medians of the rounds, and their ratio with the lowest and highest round."""
    lines = [f"| a second | {former} | {NOW} | ratio |", "|---|---|---|---|"]
    for what in ("tokens", "questions"):
        sides = {side: median(one[side][what] for one in rounds) for side in (former, NOW)}
        ratios = sorted(one[NOW][what] / one[former][what] for one in rounds)
        lines.append(
            f"| {'context tokens' if what == 'tokens' else what} | {sides[former]:.3g} | {sides[NOW]:.3g} "
            f"| {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains both in turn and prints the table after each round."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("revision")
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--data", action="append", required=True, help="training records; may be given several times")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of results.json")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_intermixed_args(arguments)
    out, data = given.out.resolve(), [str(Path(path).resolve()) for path in given.data]
    if given.revision == NOW:
        raise SystemExit(f"{NOW!r} is this checkout; give a commit to compare it with")
    if out.exists() and any(out.iterdir()):
        raise SystemExit(f"{out} holds files of another run, which would not be timed in turn; give another --out")
    rounds: list[dict[str, dict[str, float]]] = []
    with checkout(given.revision, out / "checkout") as former:
        sources = {given.revision: former / "src", NOW: ROOT / "src"}
        for number in range(given.rounds):
            found = {}
            for side in sorted(sources, reverse=number % 2 == 1):
                run = out / f"{side}-{number}"
                train(sources[side], run, data, given.steps, given.overrides)
                found[side] = rates(read(run))
            rounds.append(found)
            about = {"revision": given.revision, "processor": processor(), "steps": given.steps, "rounds": rounds}
            write_whole(out / "results.json", json.dumps(about, indent=1) + "\n")
            print(table(rounds, given.revision), flush=True)


if __name__ == "__main__":
    main()
