"""A training step on packed rows beside one question per encoding with full logits: questions a second, peak memory."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

import latentpress
from benchmarks import child
from benchmarks.documents import nearest_ratio
from benchmarks.naive_training import one_question_each, padded_loss, padding_free_loss
from benchmarks.results import Report, Result, Settings, Side, Target
from benchmarks.work import Work, backward_work, kept_bytes, latents_work, logits_work, row_work, weight_bytes
from latentpress.checkpoints.config import PressConfig
from latentpress.compressors import Ratio, Size
from latentpress.data.records import read_records
from latentpress.data.rows import Example, ExampleMaker
from latentpress.evaluation.memory import peak_bytes, reset_peak, resident_bytes
from latentpress.evaluation.timing import Spread, interleave
from latentpress.model import PressModel
from latentpress.press import Press
from latentpress.training.memory import keep_freed_memory
from latentpress.training.objective import row_loss

DATA = child.ROOT / "tests" / "samples" / "squad_sample.jsonl"
PACKED, FREE, PADDED = "packed rows", "one question each, padding-free", "one question each, padded"
QUESTIONS = 5


def packed_loss(model: PressModel, examples: Sequence[Example], size: Size) -> Tensor:
    """Summed token loss of packed rows, as in training."""
    return row_loss(model, examples, size).lm


LOSSES: dict[str, Callable[[PressModel, Sequence[Example], Size], Tensor]] = {
    PACKED: packed_loss,
    FREE: padding_free_loss,
    PADDED: padded_loss,
}


def examples_of(press: Press, contexts: int) -> list[Example]:
    """See `drawn_examples`."""
    return drawn_examples(press.base.tokenizer, press.config, contexts)


def drawn_examples(tokenizer: PreTrainedTokenizerBase, config: PressConfig, contexts: int) -> list[Example]:
    """Rows of contexts drawn from the sample, with up to five questions each and nothing else."""
    maker = ExampleMaker(tokenizer, config.prompt, config.window_tokens)
    records = [maker.tokenize(record) for record in read_records(DATA)]
    short = [record for record in records if len(record.documents[0]) <= config.window_tokens]
    if not short:  # a tokenizer so small that no paragraph fits a window: take their beginnings
        first = records[: 2 * contexts]
        short = [
            type(r)(
                documents=(r.documents[0][: config.window_tokens],),
                answers=r.answers,
                summary=None,
                log2_ratio=None,
            )
            for r in first
        ]
    draw = random.Random(0)
    return [
        maker.example([record], draw, questions=QUESTIONS, quotes=0, quote_tokens=40)
        for record in draw.sample(short, contexts)
    ]


def step(model: PressModel, name: str, examples: Sequence[Example], size: Size) -> float:
    """One forward and backward pass over all questions, without the optimiser's step; returns the token loss."""
    rows = examples if name == PACKED else one_question_each(examples)
    total = LOSSES[name](model, rows, size)
    mean = total / sum(example.labels for example in rows)
    mean.backward()
    model.zero_grad(set_to_none=True)
    return float(mean.detach())


def measure_times(press: str, contexts: int, ratio: int, rounds: int) -> dict[str, Any]:
    """Times a step of each kind in turn; for a process of its own, whose allocator is set as in training."""
    keep_freed_memory()
    return times_loaded(latentpress.load(press, device="cpu", merge=False), contexts, ratio, rounds)


def times_loaded(press: Press, contexts: int, ratio: int, rounds: int) -> dict[str, Any]:
    """See `measure_times`."""
    examples, losses = examples_of(press, contexts), {}
    press.model.train()

    def side(name: str) -> None:
        losses[name] = step(press.model, name, examples, Ratio(ratio))

    times = interleave(
        {name: lambda name=name: side(name) for name in LOSSES},  # type: ignore[misc]
        rounds=rounds,
        seconds=75,
        note=lambda line: print(f"           steps, {line}", file=sys.stderr, flush=True),
    )
    return {"seconds": times.seconds, "losses": losses}


def measure_peak(press: str, name: str, contexts: int, ratio: int) -> dict[str, int]:
    """Peak memory of one step; for a process of its own, as `measure_times`."""
    keep_freed_memory()
    return peak_loaded(latentpress.load(press, device="cpu", merge=False), name, contexts, ratio)


def peak_loaded(press: Press, name: str, contexts: int, ratio: int) -> dict[str, int]:
    """See `measure_peak`: bytes above what was resident before, and in all."""
    examples = examples_of(press, contexts)
    press.model.train()
    before = resident_bytes()
    reset_peak()
    step(press.model, name, examples, Ratio(ratio))
    # In a process that has held more before, the step may fit what the allocator kept.
    return {"above": max(1, peak_bytes() - before), "all": peak_bytes()}


def run(press: Press, settings: Settings) -> list[Report]:
    """Measures in processes of their own; see `measure_times` and `measure_peak`."""
    contexts, ratio, rounds = (2, nearest_ratio(press, 4), 2) if settings.quick else (4, nearest_ratio(press, 4), 3)
    common = {"press": settings.press, "contexts": contexts, "ratio": ratio}
    settings.note("times, in a process of its own")
    times = child.call("benchmarks.training:measure_times", **common, rounds=rounds)
    peaks = {}
    for name in LOSSES:
        settings.note(f"memory of {name}, in a process of its own")
        peaks[name] = child.call("benchmarks.training:measure_peak", **common, name=name)
    return reports(press, settings, examples_of(press, contexts), ratio, times, peaks)


def reports(
    press: Press,
    settings: Settings,
    examples: Sequence[Example],
    ratio: int,
    times: Mapping[str, Any],
    peaks: Mapping[str, Any],
) -> list[Report]:
    """Ratios of time and memory of both naive ways over packed rows.

    Raises:
        RuntimeError: the ways do not give the same loss, so they are not the same training.
    """
    losses: dict[str, float] = times["losses"]
    if max(losses.values()) > 1.02 * min(losses.values()):  # bfloat16 rounds differently in each
        raise RuntimeError(f"the ways of training differ in their loss, so their speed says nothing: {losses}")
    questions = sum(len(example.branches) for example in examples)
    floors = {name: _floor(press, settings, name, examples, ratio) for name in LOSSES}
    shape = f"{len(examples)} contexts, {questions} questions, ratio {ratio}"
    sides = [
        side
        for name in LOSSES
        for side in _sides(press, name, questions, times["seconds"][name], peaks[name], floors[name])
    ]
    results: list[Report] = []
    for name in (FREE, PADDED):
        by_round = zip(times["seconds"][name], times["seconds"][PACKED], strict=True)
        results.append(
            Result(
                name=f"questions/s of {PACKED} over {name} with full logits, {shape}",
                measured=Spread.of(a / b for a, b in by_round),
                floor=floors[name][0] / floors[PACKED][0],
                target=Target("at least", 3.0),
                sides=tuple(sides),
            )
        )
    results += [
        Result(
            name=f"peak memory of {name} with full logits over {PACKED}, {shape}",
            measured=Spread.of([peaks[name]["above"] / peaks[PACKED]["above"]]),
            floor=floors[name][1] / floors[PACKED][1],
            says="above the loaded press, all questions in one step",
        )
        for name in (FREE, PADDED)
    ]
    return results


def _sides(
    press: Press,
    name: str,
    questions: int,
    seconds: Sequence[float],
    peak: Mapping[str, int],
    floor: tuple[float, float],
) -> list[Side]:
    """Time, rate and memory of one way of training; `floor` is its least seconds and least bytes above the press."""
    least, kept = floor
    above, whole = Spread.of([peak["above"] / 1e6]), Spread.of([peak["all"] / 1e6])
    rates = Spread.of(questions / one for one in seconds)
    held = (weight_bytes(press) + kept) / 1e6
    return [
        Side(name=f"step, {name}", measured=Spread.of(seconds), floor=least),
        Side(name=f"questions/s, {name}", measured=rates, floor=questions / least, unit="/s"),
        Side(name=f"peak above the loaded press, {name}", measured=above, floor=kept / 1e6, unit="MB"),
        Side(name=f"peak of the process, {name}", measured=whole, floor=held, unit="MB"),
    ]


def _floor(press: Press, settings: Settings, name: str, examples: Sequence[Example], ratio: int) -> tuple[float, float]:
    """Least seconds of a step, and least bytes kept for its backward pass."""
    work, kept = step_work(press.model, name, examples, ratio, press.base.model.config.vocab_size)
    return work.seconds(settings.machine, press.model.decoder.dtype), kept


def step_work(
    model: PressModel, name: str, examples: Sequence[Example], ratio: int, vocabulary: int
) -> tuple[Work, float]:
    """Work of a step, and least bytes kept for its backward pass; padding counts as work of the padded way."""
    encoder, rows = model.encoder, (examples if name == PACKED else one_question_each(examples))
    contexts = [example.tokens + 1 for example in rows]
    read = [row_work(model, row, -(-row.tokens // ratio)) for row in rows]
    lengths, pairs = [tokens for tokens, _ in read], sum(pairs for _, pairs in read)
    if name == PADDED:
        contexts, lengths = [max(contexts)] * len(rows), [max(lengths)] * len(rows)
        pairs = len(rows) * lengths[0] * (lengths[0] + 1) / 2
    positions = sum(row.labels for row in rows) if name == PACKED else sum(lengths)
    work = [
        backward_work(model.decoder, sum(lengths), pairs),
        logits_work(model.decoder, positions, vocabulary, backward=True),
    ]
    latents = sum(-(-row.tokens // ratio) for row in rows)
    work.append(latents_work(model, latents) * 3)
    kept = kept_bytes(model.decoder, sum(lengths)) + 4 * positions * vocabulary
    if encoder is not None:
        causal = model.compressor.visibility == "causal"
        seen = sum(n * (n + 1) / 2 if causal else n * n for n in contexts)
        work.append(backward_work(encoder, sum(contexts), seen))
        kept += kept_bytes(encoder, sum(contexts))
    return sum(work, Work(0, 0)), kept
