"""Ablations of the recipes: one setting changed at a time, each trained from nothing on the same small budget.

    python -m benchmarks.recipe_ablations cache --data train.jsonl.xz --dev squad.jsonl.xz --out runs/recipes \
        [--steps 50] [--seeds 0] [--only "usual,rank 4"]

Two set-ups: `cache` is the recipe `semidynamic-kv` (pooled cache entries), `embeddings` the recipe `semidynamic`
(latents as input embeddings). A variant differs from "usual" in what its name says and in nothing else, and sees the
same contexts in the same order. What is reported is the loss of answers to development questions (and of quotes) at 4x
and 16x, and the paired difference of the answers' to "usual" of the same seed, with a 95% interval over the rows.

Every run has a folder of its own; the same command goes on where it stopped, and several may run side by side with
different --only. `report.md`, `results.json` and `curves.png` hold what is finished.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks.ablations import read
from latentpress.attention import Layout
from latentpress.backbone import Backbone
from latentpress.compressors.base import Extracted, Size
from latentpress.data.records import read_records
from latentpress.data.rows import Example, ExampleMaker
from latentpress.decoder.prompt import Slot
from latentpress.errors import InputError, LatentpressError
from latentpress.files import write_whole
from latentpress.loading import load_model
from latentpress.model import Encoded, PressModel
from latentpress.training import objective
from latentpress.training.objective import document_latents, target_losses
from latentpress.training.plot import save
from latentpress.training.run import train

USUAL = "usual"
RATIOS = (4, 16)
KINDS = ("answer", "quote")
_RESAMPLED = 10_000
_OTHER_TEXTS = 1000  # added to the seed of a first part, or the rest would begin with the texts of the first again
_SMOOTHED = 5  # lines of the log in one point of a curve


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """What is changed."""

    overrides: tuple[str, ...] = ()
    """Of all steps."""
    first: tuple[str, ...] = ()
    """Of a first part of the steps beside `overrides`: a run of its own, which the rest starts from."""
    change: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    """What the library has no setting for, changed while this is open: in training and judging."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """A recipe and the variants of it."""

    recipe: str
    every: tuple[str, ...]
    """Overrides of every variant."""
    variants: dict[str, Variant]


@contextlib.contextmanager
def normalised_latents() -> Iterator[None]:
    """Every latent has the mean norm of the decoder's input embeddings."""
    plain = PressModel.latents

    def latents(self: PressModel, encoded: Encoded, sizes: Size | Sequence[Size]) -> Extracted:
        made = plain(self, encoded, sizes)
        norm = self.decoder.body.get_input_embeddings().weight.detach().float().norm(dim=-1).mean()
        vectors = made.vectors.float()
        vectors = vectors * (norm / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-6))
        return dataclasses.replace(made, vectors=vectors.to(made.vectors.dtype))

    with mock.patch.object(PressModel, "latents", latents):
        yield


@contextlib.contextmanager
def places_of_the_text() -> Iterator[None]:
    """Latents stand in the middle of the tokens that they stand for, and what follows them behind the whole text."""
    plain = objective.pack

    def pack(
        decoder: Backbone, examples: Sequence[Example], latents: Sequence[Sequence[Tensor]]
    ) -> tuple[Tensor, Layout, Tensor, Tensor]:
        embeddings, layout, at, labels = plain(decoder, examples, latents)
        rows = zip(examples, latents, strict=True)
        positions = torch.cat([spread_positions(row, list(map(len, documents))) for row, documents in rows])
        positions = positions.to(layout.positions.device)
        return embeddings, dataclasses.replace(layout, positions=positions), at, labels

    with mock.patch.object(objective, "pack", pack):
        yield


def spread_positions(example: Example, latents: Sequence[int]) -> Tensor:
    """Position ids `[T]` of a row whose documents have so many latents, each latent amid its share of the tokens."""
    windows = iter(example.windows)
    tokens = [sum(len(next(windows)) for _ in range(count)) for count in example.documents]
    at, made = 0, []
    for piece in example.prefix:
        if isinstance(piece, Slot):
            count, span = latents[piece.document], tokens[piece.document]
            made.append(at + (2 * torch.arange(count) + 1) * span // (2 * count))
            at += span
        else:
            made.append(at + torch.arange(len(piece)))
            at += len(piece)
    return torch.cat([*made, *(at + torch.arange(len(branch.ids)) for branch in example.branches)])


_EVERY = (
    "tokens_per_step=500",
    "max_context_tokens=260",
    "long_documents=0",
    "ratio_loss=0",
    "quote_schedule=0:1",
    "questions=3",
    "warmup_steps=10",
    "log_every=1",
    "dev_rows=1",
    "f1_questions=0",
)
_WITHOUT_QUOTES = "quote_schedule=0:0"
_QUOTES_FIRST = ("questions=0", "quote_schedule=0:3", "schedule=constant")
_NEXT_TOKENS_FIRST = ("questions=0", _WITHOUT_QUOTES, "continue_tokens=50", "schedule=constant")
SETUPS = {
    "cache": Setup(
        recipe="semidynamic-kv",
        every=(*_EVERY, "ratio_schedule=0:8/16/28/24/16/8"),
        variants={
            USUAL: Variant(),
            "equal windows": Variant(overrides=("compressor_settings.windows=equal",)),
            "rank 4": Variant(overrides=("decoder_lora.rank=4", "decoder_lora.alpha=8")),
            "rank 32": Variant(overrides=("decoder_lora.rank=32", "decoder_lora.alpha=64")),
            "half the rate": Variant(overrides=("learning_rate=7.5e-4",)),
            "twice the rate": Variant(overrides=("learning_rate=3e-3",)),
            "low ratios first": Variant(overrides=("ratio_schedule=0:6/6/6/2/0/0,0.5:8/16/28/24/16/8",)),
            "without quotes": Variant(overrides=(_WITHOUT_QUOTES,)),
            "quotes alone first": Variant(first=_QUOTES_FIRST),
            "next tokens first": Variant(first=_NEXT_TOKENS_FIRST),
        },
    ),
    "embeddings": Setup(
        recipe="semidynamic",
        # In so few steps one ratio is learned, and that from quotes: with one quote and all ratios, next to nothing is.
        every=(*_EVERY, "quote_schedule=0:3", "ratio_schedule=0:0/1/0/0/0"),
        variants={
            USUAL: Variant(),
            "encoder of 6 layers": Variant(overrides=("encoder_layers=6",)),
            "encoder of all layers": Variant(overrides=("encoder_layers=none",)),
            "causal encoder": Variant(overrides=("compressor_settings.attention=causal",)),
            "converter of width 512": Variant(overrides=("converter_width=512",)),
            "normalised latents": Variant(change=normalised_latents),
            "places of the text": Variant(change=places_of_the_text),
            "mean residual": Variant(overrides=("residual=mean",)),
            "without residual": Variant(overrides=("residual=none",)),
            "rank 4": Variant(
                overrides=("encoder_lora.rank=4", "encoder_lora.alpha=8", "decoder_lora.rank=4", "decoder_lora.alpha=8")
            ),
            "low ratios first": Variant(overrides=("ratio_schedule=0:1/0/0/0/0,0.5:0/1/0/0/0",)),
            "without quotes": Variant(overrides=(_WITHOUT_QUOTES,)),
            "quotes alone first": Variant(first=_QUOTES_FIRST),
            "next tokens first": Variant(first=_NEXT_TOKENS_FIRST),
        },
    ),
}


def phases(setup: Setup, name: str, seed: int, steps: int) -> list[list[str]]:
    """Overrides of the runs that a variant takes, one or two; all together have `steps` steps."""
    variant = setup.variants[name]
    first = first_steps(variant, steps)

    def overrides(count: int, drawn: int, more: Sequence[str]) -> list[str]:
        own = [f"steps={count}", f"seed={drawn}", f"eval_every={count}", f"save_every={max(1, count // 2)}"]
        return [*setup.every, *own, *variant.overrides, *more]

    rest = overrides(steps - first, seed, ())
    return [overrides(first, seed + _OTHER_TEXTS, variant.first), rest] if first else [rest]


def first_steps(variant: Variant, steps: int) -> int:
    """Steps of the first part of a variant that has one."""
    return steps // 3 if variant.first else 0


def folders(out: Path, setup: str, name: str, seed: int, parts: int) -> list[Path]:
    """Folders of the runs of a variant, the one that is judged last."""
    own = out / setup / f"{name.replace(' ', '-')}-{seed}"
    return [own / "first"] * (parts - 1) + [own / "rest" if parts > 1 else own]


def dev_rows(maker: ExampleMaker, path: str, count: int, most: int) -> list[Example]:
    """Rows of development contexts of at most so many tokens, up to 3 questions and a quote each; always the same."""
    draw = random.Random("recipe ablations")
    records = read_records(path)
    made: list[Example] = []
    for place in draw.sample(range(len(records)), len(records)):
        record = maker.tokenize(records[place])
        if len(record.documents) == 1 and record.tokens <= most and record.answers:
            made.append(maker.example([record], draw, questions=3, quotes=1, quote_tokens=40))
        if len(made) == count:
            break
    return made


@torch.no_grad()
def judged(model: PressModel, rows: Sequence[Example], ratios: Sequence[int] = RATIOS) -> dict[str, list[list[float]]]:
    """Loss of each row by ratio and kind, summed, and its predicted tokens: `{"x4 answer": [[sum, tokens], ...]}`."""
    found: dict[str, list[list[float]]] = {}
    for ratio in ratios:
        size = model.policy.fixed(ratio)
        for row in rows:
            latents, _ = document_latents(model, [row], size)
            losses, _ = target_losses(model.decoder, [row], latents)
            parts = losses.float().split([branch.labels for branch in row.branches])
            for kind in KINDS:
                own = [part for part, branch in zip(parts, row.branches, strict=True) if branch.kind == kind]
                total = [float(sum(part.sum() for part in own)), float(sum(map(len, own)))]
                found.setdefault(f"x{ratio} {kind}", []).append(total)
    return found


def judge(folder: Path, dev: str, count: int) -> None:
    """Judges the press of a finished run, unless it has been.

    Raises:
        InputError: it was judged on other records, or on another number of them.
    """
    file = folder / "judged.json"
    about = {"dev": hashlib.sha256(Path(dev).read_bytes()).hexdigest(), "asked": count}
    if file.is_file():
        then = json.loads(file.read_text())
        if any(then.get(key) != value for key, value in about.items()):
            raise InputError(f"{file} is of another --dev or --rows than {dev} and {count}; give another --out")
        return
    model, (base, _), fingerprint = load_model(folder / "press")
    maker = ExampleMaker(base.tokenizer, model.config.prompt, model.config.window_tokens)
    rows = dev_rows(maker, dev, count, 300)
    found = {**about, "rows": len(rows), "press": fingerprint, "losses": judged(model, rows)}
    write_whole(file, json.dumps(found) + "\n")


def mean(losses: Sequence[Sequence[float]]) -> float:
    """Nats a token."""
    sums = np.asarray(losses).sum(0)
    return float(sums[0] / sums[1])


def difference(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Loss of one minus the other's, nats a token, and its 95% bootstrap interval over rows, which both share."""
    a, b = np.asarray(one), np.asarray(other)
    drawn = np.random.default_rng(0).integers(len(a), size=(_RESAMPLED, len(a)))
    tokens = a[drawn, 1].sum(1)
    values = (a[drawn, 0] - b[drawn, 0]).sum(1) / tokens
    low, high = np.quantile(values, (0.025, 0.975))
    return mean(one) - mean(other), float(low), float(high)


def collect(out: Path, setup: str, seeds: Sequence[int], steps: int) -> list[dict[str, Any]]:
    """A row for each judged run: its losses, the differences to the usual one of its seed, seconds a step."""
    rows = []
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for name in SETUPS[setup].variants:
        for seed in seeds:
            parts = phases(SETUPS[setup], name, seed, steps)
            runs = folders(out, setup, name, seed, len(parts))
            log = read(runs[-1])
            done = [line["step"] for line in log if "loss" in line]
            file = runs[-1] / "judged.json"
            last = steps - first_steps(SETUPS[setup].variants[name], steps)
            if file.is_file() and done and max(done) == last:
                found[name, seed] = {**json.loads(file.read_text()), "log": log}
    for (name, seed), one in found.items():
        row: dict[str, Any] = {"variant": name, "seed": seed, "steps": steps, "rows": one["rows"]}
        usual = found.get((USUAL, seed))
        for what, losses in one["losses"].items():
            row[what] = mean(losses)
            if usual and name != USUAL:
                row[f"{what} minus usual"] = difference(losses, usual["losses"][what])
        rates = [line["context_tokens_per_second"] for line in one["log"] if "context_tokens_per_second" in line]
        row["tokens/s"] = float(np.median(rates)) if rates else None
        row["questions"] = max((line.get("questions_seen", 0) for line in one["log"]), default=0)
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, in the order of the variants."""
    lines = [
        "| variant | seed | answers x4 | minus usual | answers x16 | minus usual | quotes x4 | quotes x16 |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def paired(row: dict[str, Any], what: str) -> str:
        if (key := f"{what} minus usual") not in row:
            return "–"
        middle, low, high = row[key]
        return f"{middle:+.3f} ({low:+.3f} to {high:+.3f})"

    for row in rows:
        answers = [f"{row[f'x{ratio} answer']:.3f} | {paired(row, f'x{ratio} answer')}" for ratio in RATIOS]
        quotes = [f"{row[f'x{ratio} quote']:.3f}" for ratio in RATIOS]
        lines.append(f"| {row['variant']} | {row['seed']} | {' | '.join([*answers, *quotes])} |")
    return "\n".join(lines) + "\n"


def plot(out: Path, setup: str, rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Training loss of answers over the steps, a line a run of the first seed, smoothed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, row in enumerate(row for row in rows if row["seed"] == rows[0]["seed"]):
        parts = len(phases(SETUPS[setup], row["variant"], row["seed"], row["steps"]))
        runs = folders(out, setup, row["variant"], row["seed"], parts)
        before = first_steps(SETUPS[setup].variants[row["variant"]], row["steps"])
        if not (points := [(before + line["step"], line["answer"]) for line in read(runs[-1]) if "answer" in line]):
            continue
        steps, losses = (np.asarray(values, dtype=float) for values in zip(*points, strict=True))
        width = min(_SMOOTHED, len(losses))
        smooth = np.convolve(losses, np.ones(width) / width, "valid")
        style = ("-", "--")[place // 10 % 2]  # there are ten colours
        axes.plot(steps[width - 1 :], smooth, style, label=row["variant"], linewidth=1.2)
    axes.set_xlabel("steps")
    axes.set_ylabel(f"training loss of answers, nats a token, mean of {_SMOOTHED} steps")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    save(figure, path)


def write(out: Path, setup: str, seeds: Sequence[int], steps: int) -> str:
    """Writes the results of the finished runs; returns the table."""
    rows = collect(out, setup, seeds, steps)
    text = table(rows)
    if rows:
        write_whole(out / setup / "results.json", json.dumps(rows, indent=1) + "\n")
        write_whole(out / setup / "report.md", text)
        plot(out, setup, rows, out / setup / "curves.png")
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and judges what is not finished, and writes the results after each variant."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("setup", choices=SETUPS)
    parser.add_argument("--data", action="append", required=True, help="training records; may be given several times")
    parser.add_argument("--dev", required=True, help="records to judge on")
    parser.add_argument("--rows", type=int, default=60, help="of these, contexts to judge on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", help="variants, separated by commas; all if left out")
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE of every run")
    given = parser.parse_args(arguments)
    setup = SETUPS[given.setup]
    seeds = [int(seed) for seed in given.seeds.split(",")]
    names = [name.strip() for name in given.only.split(",")] if given.only else list(setup.variants)
    if unknown := [name for name in names if name not in setup.variants]:
        raise SystemExit(f"no variant {unknown[0]!r}; choose of {', '.join(setup.variants)}")
    for seed in seeds:
        for name in names:
            parts = phases(setup, name, seed, given.steps)
            runs = folders(given.out, given.setup, name, seed, len(parts))
            before: str | None = None
            try:
                with setup.variants[name].change():
                    for run, overrides in zip(runs, parts, strict=True):
                        run.parent.mkdir(parents=True, exist_ok=True)
                        more = [*overrides, *given.set]
                        train(setup.recipe, data=given.data, out=run, overrides=more, from_press=before)
                        before = str(run / "press")
                    judge(runs[-1], given.dev, given.rows)
            except LatentpressError as error:
                raise SystemExit(f"{name}, seed {seed}: {error}") from error
            print(write(given.out, given.setup, seeds, given.steps), flush=True)


if __name__ == "__main__":
    main()
