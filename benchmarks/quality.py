r"""Answers from latents, scored: SQuAD F1 and EM of presses on a question-answering set, with paired intervals.

    python -m benchmarks.quality --data dev.jsonl --questions 500 --out runs/quality \
        --press semidynamic-smollm2-135m --ratios 2,4,8,16,32,auto --press runs/reader/press --ratios 1,4,8,16

The same random questions go to every system. Predictions are written as they come, one file a system and ratio, and are
not made again; scores are computed from the files.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from pathlib import Path
from typing import Any

import latentpress
from latentpress.data.records import Record, read_records
from latentpress.evaluation.metrics import bootstrap_interval, exact_match, f1, paired_bootstrap
from latentpress.press import Press

_BATCH = 32
Question = tuple[str, str, tuple[str, ...]]
Row = dict[str, Any]


def draw_questions(records: list[Record], count: int, seed: int) -> list[Question]:
    """Context, question and answers of questions drawn at random from all of a set, one document each."""
    every = [
        (record.contexts[0], qa.question, qa.answers)
        for record in records
        if len(record.contexts) == 1
        for qa in record.qas
    ]
    return random.Random(seed).sample(every, min(count, len(every)))


def predict(press: Press, ratio: str, questions: list[Question], path: Path) -> None:
    """Answers all questions at one ratio (`auto`: the selector's), appending to a file of predictions."""
    done = len(path.read_text().splitlines()) if path.exists() else 0
    with path.open("a") as file:
        for start in range(done, len(questions), _BATCH):
            batch = questions[start : start + _BATCH]
            contexts = list(dict.fromkeys(context for context, _, _ in batch))
            began = time.perf_counter()
            latents = dict(
                zip(contexts, press.compress(contexts, ratio=None if ratio == "auto" else float(ratio)), strict=True)
            )
            answers = press.ask_many(
                [latents[c] for c, _, _ in batch], [q for _, q, _ in batch], max_new_tokens=24, batch_size=_BATCH
            )
            for (context, _, _), answer in zip(batch, answers, strict=True):
                row = {
                    "prediction": answer,
                    "tokens": latents[context].context_tokens,
                    "latents": len(latents[context]),
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            print(
                f"{path.stem}: {start + len(batch)}/{len(questions)}, {time.perf_counter() - began:.1f} s", flush=True
            )


def zero_shot(press: Press, questions: list[Question], path: Path) -> list[Row]:
    """Answers questions one by one from the full text by the base model as it is, appending to a file."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    with path.open("a") as file:
        for context, question, _ in questions[len(rows) :]:
            tokens = press.count_tokens(context)
            answer = press.ask_text(context, question, max_new_tokens=24)
            rows.append({"prediction": answer, "tokens": tokens, "latents": tokens})
            file.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
    return rows


def summarise(rows: list[Row], questions: list[Question]) -> dict[str, float]:
    """Scores of a system's predictions, in percent, with the 95% bootstrap interval of F1."""
    pairs = [(row["prediction"], answers) for row, (_, _, answers) in zip(rows, questions, strict=False)]
    mean, low, high = bootstrap_interval([f1(prediction, answers) for prediction, answers in pairs])
    return {
        "f1": 100 * mean,
        "f1_low": 100 * low,
        "f1_high": 100 * high,
        "em": 100 * sum(exact_match(prediction, answers) for prediction, answers in pairs) / len(pairs),
        "questions": len(rows),
        "ratio": sum(row["tokens"] for row in rows) / sum(row["latents"] for row in rows),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--press", action="append", required=True)
    parser.add_argument("--ratios", action="append", required=True, help="for each --press, in order")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--zero-shot", type=int, default=0, help="so many of them from the full text by the base model")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    questions = draw_questions(read_records(args.data), args.questions, args.seed)
    scores: dict[str, list[float]] = {}
    report: dict[str, dict[str, float]] = {}
    for name, ratios in zip(args.press, args.ratios, strict=True):
        press = latentpress.load(name)
        for ratio in ratios.split(","):
            path = args.out / f"{press.config.name}-x{ratio}.jsonl"
            predict(press, ratio, questions, path)
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            pairs = zip(rows, questions, strict=True)
            scores[path.stem] = [f1(row["prediction"], answers) for row, (_, _, answers) in pairs]
            report[path.stem] = summarise(rows, questions)
    if args.zero_shot:
        rows = zero_shot(press, questions[: args.zero_shot], args.out / "zero-shot-x1.jsonl")
        report["zero-shot-x1"] = summarise(rows, questions)
    for (a, first), (b, second) in itertools.permutations(scores.items(), 2):
        if a < b and a.rpartition("-x")[2] == b.rpartition("-x")[2]:
            mean, low, high = paired_bootstrap(second, first)
            report[f"{b} minus {a}"] = {"f1": 100 * mean, "f1_low": 100 * low, "f1_high": 100 * high}
    for system, row in report.items():
        rest = (
            f"EM {row['em']:5.1f}  achieved ratio {row['ratio']:5.2f}  {row['questions']} questions"
            if "em" in row
            else ""
        )
        print(f"{system:60s} F1 {row['f1']:5.1f} [{row['f1_low']:.1f}, {row['f1_high']:.1f}]  {rest}")
    (args.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
