"""How many steps a stage can take in its minutes: measured by some steps on a sample of its data."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latentpress.checkpoints.io import read_config
from latentpress.data.records import file_rows
from latentpress.training.run import train
from scripts.gpu_recipe.speed import Meter

_LINES = 600  # of the sample: a few steps of many rows
_PASSES = 3  # over the sample
_SECONDS = 45.0  # of measuring, at most
_UNREACHED = 1_000_000  # steps, or steps between two of what is not to be measured


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What steps take."""

    first: float
    """Seconds of a step in the first pass over the data, in which a teacher predicts what it has not."""
    later: float
    """Seconds of a step after that."""
    epoch: int
    """Steps of a pass over all data."""

    def steps(self, minutes: float) -> int:
        """Steps that take so long, at least one."""
        left = 60 * minutes - self.first * self.epoch
        many = 60 * minutes / self.first if left < 0 else self.epoch + left / self.later
        return max(1, math.floor(many))


def measure(
    recipe: str,
    settings: Sequence[str],
    *,
    data: Sequence[Path],
    folder: Path,
    base: str,
    from_press: str | None,
    imitates: bool,
) -> Cost:
    """Trains for some steps on a sample of the data, and throws the result away.

    Args:
        recipe: of the stage; no pipeline.
        settings: its overrides, without `steps`.
        data: its files.
        folder: to work in; removed afterwards.
        base: base model.
        from_press: press to start from.
        imitates: whether it learns latents alone.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    taken, share = _sample(data, folder / "sample.jsonl")
    never = [f"{name}={_UNREACHED}" for name in ("steps", "eval_every", "save_every", "log_every")]
    meter = Meter([imitates], samples=_PASSES * taken, seconds=_SECONDS)
    press = train(
        recipe,
        data=[str(folder / "sample.jsonl")],
        out=folder / "run",
        base=base,
        overrides=[*settings, *never, "dev_rows=1", "f1_questions=0"],
        from_press=from_press,
        callbacks=[meter],
    )
    records = int(read_config(press)[0].trained["records"])
    shutil.rmtree(folder, ignore_errors=True)
    return cost_of(meter.steps, records=records, share=share)


def _sample(files: Sequence[Path], to: Path) -> tuple[int, float]:
    """Writes rows from all over the files; returns their number, and their share of all."""
    rows = [row for file in files for _, row in file_rows(file)]
    apart = max(1, len(rows) // _LINES)
    taken = rows[::apart]
    to.write_text("".join(json.dumps(row) + "\n" for row in taken), encoding="utf-8")
    return len(taken), len(taken) / len(rows)


def cost_of(steps: Sequence[tuple[float, int]], *, records: int, share: float) -> Cost:
    """What the steps of some passes over a sample say about a training on all data.

    Args:
        steps: seconds and samples of each; the first makes everything ready, and is left out if there are others.
        records: of the sample.
        share: of all records that they are.
    """
    timed = steps[1:] or steps
    seen, first, later = steps[0][1] if len(steps) > 1 else 0, [], []
    for seconds, samples in timed:
        (first if seen < records else later).append(seconds)
        seen += samples
    each = statistics.mean(samples for _, samples in timed)
    once = statistics.mean(first or later)
    return Cost(
        first=once,
        later=min(once, statistics.median(later or first)),
        epoch=max(1, round(records / share / each)),
    )
