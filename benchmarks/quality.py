r"""Answers from latents, scored: SQuAD F1 and EM of presses on a question-answering set, with paired intervals.

    python -m benchmarks.quality --data dev.jsonl --questions 500 --out runs/quality \
        --press semidynamic-smollm2-135m --ratios 2,4,8,16,32,auto --press runs/reader/press --ratios 1,4,8,16

The same random questions go to every system. With `--join 4000` neighbouring contexts of the set are joined to
documents of up to so many tokens of the first press, and the questions are asked of those. Predictions are written as
they come, one file a system (a press of these very weights) and ratio, and are not made again for the same questions;
scores are computed from the files.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import latentpress
from benchmarks import report as files
from benchmarks.predictions import Predictions, Question, Row
from latentpress.data.records import Record, read_records
from latentpress.errors import InputError, LatentpressError
from latentpress.evaluation.metrics import bootstrap_interval, exact_match, f1, paired_bootstrap

if TYPE_CHECKING:
    from latentpress.latents import EmbeddingLatents
    from latentpress.press import Press

_BATCH = 32
_NEW_TOKENS = 24
_READ = 16_000  # latents of a batch, whose keys and values are in memory together
_BETWEEN = "\n\n"
_SHORT = 8  # characters of a fingerprint in a name


class System(NamedTuple):
    """A press at one ratio."""

    name: str
    """Of the press."""
    fingerprint: str
    """Of the press's files."""
    ratio: str
    """Asked for; `auto` is the selector's."""

    @property
    def full(self) -> str:
        """A name that another press of the same name does not share."""
        return f"{self.name}-{self.fingerprint[:_SHORT]}-x{self.ratio}"


def draw_questions(records: list[Record], count: int, seed: int) -> list[Question]:
    """Context, question and answers of questions drawn at random from all of a set, one document each."""
    every = [
        (record.contexts[0], qa.question, qa.answers)
        for record in records
        if len(record.contexts) == 1
        for qa in record.qas
    ]
    return random.Random(seed).sample(every, min(count, len(every)))


def joined(records: Sequence[Record], press: Press, limit: int) -> list[Record]:
    """Documents of neighbouring contexts, up to `limit` tokens, with all their questions; a longer one stays alone."""
    parts: list[list[Record]] = []
    tokens = limit
    for record in (one for one in records if len(one.contexts) == 1):
        more = press.count_tokens(_BETWEEN + record.contexts[0])
        if tokens + more > limit:
            parts.append([])
            tokens = 0
        parts[-1].append(record)
        tokens += more
    return [
        dataclasses.replace(
            part[0],
            contexts=(_BETWEEN.join(record.contexts[0] for record in part),),
            qas=tuple(qa for record in part for qa in record.qas),
            summary=None,
            short_summary=None,
        )
        for part in parts
    ]


def predict(press: Press, ratio: str, questions: list[Question], seed: int, out: Path) -> tuple[System, list[Row]]:
    """Answers all questions at one ratio (`auto`: the selector's) that have no prediction in the folder yet."""
    system = System(press.config.name, press.fingerprint, ratio)
    made_by = {"press": press.fingerprint, "ratio": ratio, "seed": seed, "max_new_tokens": _NEW_TOKENS}
    predictions = Predictions(out / f"{system.full}.jsonl", made_by, questions)
    latents: dict[str, EmbeddingLatents] = {}
    while batch := predictions.missing[:_BATCH]:
        contexts = [context for context in dict.fromkeys(context for context, _, _ in batch) if context not in latents]
        began = time.perf_counter()
        if contexts:
            made = press.compress(contexts, ratio=None if ratio == "auto" else float(ratio))
            latents |= zip(contexts, made, strict=True)
        answers = press.ask_many(
            [latents[c] for c, _, _ in batch],
            [q for _, q, _ in batch],
            max_new_tokens=_NEW_TOKENS,
            batch_size=max(1, min(_BATCH, _READ // max(len(latents[c]) for c, _, _ in batch))),
        )
        predictions.add(
            [
                {"prediction": answer, "tokens": latents[context].context_tokens, "latents": len(latents[context])}
                for (context, _, _), answer in zip(batch, answers, strict=True)
            ]
        )
        done, seconds = len(predictions.rows), time.perf_counter() - began
        print(f"{system.full}: {done}/{len(questions)}, {seconds:.1f} s", flush=True)
    return system, predictions.rows


def zero_shot(press: Press, questions: list[Question], seed: int, out: Path) -> list[Row]:
    """Answers questions one by one from the full text by the base model as it is, in the words of a press's prompt."""
    base = press.base.fingerprint
    prompt = dataclasses.asdict(press.config.prompt)
    made_by = {"base": base, "prompt": prompt, "seed": seed, "max_new_tokens": _NEW_TOKENS}
    predictions = Predictions(out / f"zero-shot-{base[:_SHORT]}-x1.jsonl", made_by, questions)
    while batch := predictions.missing[:1]:
        context, question, _ = batch[0]
        tokens = press.count_tokens(context)
        answer = press.ask_text(context, question, max_new_tokens=_NEW_TOKENS)
        predictions.add([{"prediction": answer, "tokens": tokens, "latents": tokens}])
    return predictions.rows


def labelled(systems: Sequence[System]) -> dict[System, str]:
    """Names for the report: `name-xRATIO`, with the fingerprint too where presses share a name."""
    presses = {(system.name, system.fingerprint) for system in systems}
    names = [name for name, _ in presses]
    return {
        system: system.full if names.count(system.name) > 1 else f"{system.name}-x{system.ratio}" for system in systems
    }


def summarise(rows: list[Row], questions: list[Question]) -> dict[str, float]:
    """Scores of a system's predictions, in percent, with the 95% bootstrap interval of F1."""
    pairs = [(row["prediction"], answers) for row, (_, _, answers) in zip(rows, questions, strict=True)]
    mean, low, high = bootstrap_interval([f1(prediction, answers) for prediction, answers in pairs])
    return {
        "f1": 100 * mean,
        "f1_low": 100 * low,
        "f1_high": 100 * high,
        "em": 100 * sum(exact_match(prediction, answers) for prediction, answers in pairs) / len(pairs),
        "questions": len(rows),
        "ratio": sum(row["tokens"] for row in rows) / sum(row["latents"] for row in rows),
    }


def differences(made: dict[str, list[Row]], questions: list[Question]) -> dict[str, dict[str, float]]:
    """Paired differences in F1 of every two systems of one ratio."""
    scores = {
        label: [f1(row["prediction"], answers) for row, (_, _, answers) in zip(rows, questions, strict=True)]
        for label, rows in made.items()
    }
    found = {}
    for (a, first), (b, second) in itertools.permutations(scores.items(), 2):
        if a < b and a.rpartition("-x")[2] == b.rpartition("-x")[2]:
            mean, low, high = paired_bootstrap(second, first)
            found[f"{b} minus {a}"] = {"f1": 100 * mean, "f1_low": 100 * low, "f1_high": 100 * high}
    return found


def measure(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Answers what has no answer yet, and scores everything."""
    records = read_records(args.data)
    if args.join < 0:
        raise InputError(f"--join {args.join} must be 0 (contexts as they are) or a number of tokens above it")
    if args.join:
        records = joined(records, latentpress.load(args.press[0]), args.join)
    questions = draw_questions(records, args.questions, args.seed)
    made: dict[System, list[Row]] = {}
    for name, ratios in zip(args.press, args.ratios, strict=True):
        press = latentpress.load(name)
        made |= dict(predict(press, ratio, questions, args.seed, args.out) for ratio in ratios.split(","))
    labels = labelled([*made])
    report = {labels[system]: summarise(rows, questions) for system, rows in made.items()}
    if args.zero_shot:
        some = questions[: args.zero_shot]
        report["zero-shot-x1"] = summarise(zero_shot(press, some, args.seed, args.out), some)
    return report | differences({labels[system]: rows for system, rows in made.items()}, questions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--press", action="append", required=True)
    parser.add_argument("--ratios", action="append", required=True, help="for each --press, in order")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--join", type=int, default=0, help="ask of documents of up to so many tokens, joined contexts")
    parser.add_argument("--zero-shot", type=int, default=0, help="so many of them from the full text by the base model")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        report = measure(args)
    except LatentpressError as error:
        print(f"quality: error: {error}", file=sys.stderr)
        return 2
    for system, row in report.items():
        print(f"{system:60s} {_line(row)}")
    files.replace(args.out / "report.json", json.dumps(report, indent=2) + "\n")
    return 0


def _line(row: dict[str, Any]) -> str:
    scores = f"F1 {row['f1']:5.1f} [{row['f1_low']:.1f}, {row['f1_high']:.1f}]  "
    if "em" not in row:
        return scores
    return f"{scores}EM {row['em']:5.1f}  achieved ratio {row['ratio']:5.2f}  {row['questions']} questions"


if __name__ == "__main__":
    sys.exit(main())
