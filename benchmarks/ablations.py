"""Ablations of ComprExIT: each variant trained on the same small budget with the same seeds, in a table and curves.

    python -m benchmarks.ablations --data train.jsonl.xz --out runs/ablations [--steps 100] [--seeds 0,1] [--only a,b]

A variant differs from the shipped press's compressor (locality and normalised states) in the settings given here and
in nothing else; "as in the paper" is the one with neither, which learns too little in a small budget to take anything
away from. All learn to be the latents of one shipped press (`Recipe.imitate`), whose decoder then reads them: a budget
of minutes tells heads apart by that, while answers alone teach a head next to nothing in as long
(docs/experiments.md). What is reported is the loss of held-back answers read from the latents, and the distance to
the latents that were learned from.

Every run has a folder of its own; the same command goes on where it stopped, and writes `report.md`, `results.json`
and `curves.png` after each from the variants whose runs are finished.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentpress.errors import LatentpressError
from latentpress.training.plot import save
from latentpress.training.run import train

_FROZEN = ("encoder_layers=none", "encoder_lora=none")
VARIANTS: dict[str, tuple[str, ...]] = {
    "comprexit": (),
    "as in the paper": ("compressor_settings.locality=0", "compressor_settings.normalise=false"),
    "without locality": ("compressor_settings.locality=0",),
    "without normalised states": ("compressor_settings.normalise=false",),
    "window attention": ("compressor_settings.transport=window",),
    "embedding layer": ("compressor_settings.layer=0",),
    "layer 10": ("compressor_settings.layer=10",),
    "layer 20": ("compressor_settings.layer=20",),
    "last layer": ("compressor_settings.layer=-1",),
    "uniform capacity": ("compressor_settings.capacity=uniform",),
    "shuffled receivers": ("compressor_settings.receivers=shuffled",),
    "implicit gradient": ("compressor_settings.gradient=implicit",),
    "mean pooling of the last layer": ("compressor=mean-pooling", "compressor_settings.attention=causal"),
}
"""Overrides of the recipe by variant; the recipe itself has locality and normalised states."""
RECIPE = "comprexit-tuned-latents"


def overrides(variant: str, seed: int, steps: int) -> list[str]:
    """Settings of one run."""
    return [
        *_FROZEN,
        f"steps={steps}",
        f"seed={seed}",
        "warmup_steps=20",
        "log_every=10",
        f"eval_every={steps}",
        f"save_every={max(1, steps // 2)}",
        "dev_rows=32",
        "f1_questions=0",
        *VARIANTS[variant],
    ]


def folder_of(out: Path, variant: str, seed: int) -> Path:
    """Folder of one run."""
    return out / f"{variant.replace(' ', '-')}-{seed}"


def read(folder: Path) -> list[dict[str, Any]]:
    """Lines of a run's log, nothing if there is none."""
    log = folder / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def collect(out: Path, seeds: Sequence[int], steps: int) -> list[dict[str, Any]]:
    """A row for each variant whose runs are finished: means over the seeds, and each seed's own."""
    rows = []
    for variant in VARIANTS:
        logs = [read(folder_of(out, variant, seed)) for seed in seeds]
        last = [[line for line in log if "eval_loss" in line and line["step"] == steps] for log in logs]
        if not all(last):
            continue
        row: dict[str, Any] = {"variant": variant, "seeds": list(seeds), "steps": steps}
        for name in ("eval_x4_answer", "eval_x16_answer", "eval_x4_answer_wrong"):
            row[name] = [found[-1][name] for found in last]
        row["distance"] = [[line["latents"] for line in log if "latents" in line][-1] for log in logs]
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, sorted by the loss of answers at x4; each number is the mean of the seeds, theirs in brackets."""

    def cell(values: Sequence[float]) -> str:
        own = ", ".join(f"{value:.3f}" for value in values)
        return f"{sum(values) / len(values):.3f} ({own})"

    lines = [
        "| variant | answers at x4, nats a token | at x16 | distance to the latents, end of training |",
        "|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: sum(row["eval_x4_answer"])):
        cells = [cell(row[name]) for name in ("eval_x4_answer", "eval_x16_answer", "distance")]
        lines.append(f"| {row['variant']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(out: Path, rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Distance to the latents over the steps, a line a variant: the mean over its seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, row in enumerate(rows):
        logs = [read(folder_of(out, row["variant"], seed)) for seed in row["seeds"]]
        curves = [{line["step"]: line["latents"] for line in log if "latents" in line} for log in logs]
        steps = sorted(set.intersection(*map(set, curves)))
        means = [sum(curve[step] for curve in curves) / len(curves) for step in steps]
        style = ("-", "--")[place // 10 % 2]  # there are ten colours
        axes.plot(steps, means, style, label=row["variant"], linewidth=1.2)
    axes.set_xlabel("steps")
    axes.set_ylabel("squared distance to the latents learned from, over their squared norm")
    axes.grid(alpha=0.3)
    if rows:
        axes.legend(fontsize="small")
    save(figure, path)


def write(out: Path, seeds: Sequence[int], steps: int) -> str:
    """Writes the results of the finished runs; returns the table."""
    rows = collect(out, seeds, steps)
    text = table(rows)
    (out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    (out / "report.md").write_text(text)
    plot(out, rows, out / "curves.png")
    return text


def main() -> None:
    """Trains what is not finished, and writes the results after each variant."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", action="append", required=True, help="training records; may be given several times")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--only", default=",".join(VARIANTS), help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE of every run")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    names = [name.strip() for name in given.only.split(",")]
    if unknown := [name for name in names if name not in VARIANTS]:
        raise SystemExit(f"no variant {unknown[0]!r}; choose of {', '.join(VARIANTS)}")
    given.out.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for name in names:
            try:
                train(
                    RECIPE,
                    data=given.data,
                    out=folder_of(given.out, name, seed),
                    overrides=[*overrides(name, seed, given.steps), *given.set],
                )
            except LatentpressError as error:
                raise SystemExit(f"{name}, seed {seed}: {error}") from error
            finally:
                whole = seeds[: seeds.index(seed) + (name == names[-1])] or seeds[:1]
                print(write(given.out, whole, given.steps), flush=True)


if __name__ == "__main__":
    main()
