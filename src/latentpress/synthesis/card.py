"""What was made, in numbers: card.json and card.md beside the data."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from latentpress import __version__
from latentpress.evaluation.markdown import table
from latentpress.synthesis.assembly import Tally
from latentpress.synthesis.corpus import Corpus, corpus_names
from latentpress.synthesis.journal import Journal
from latentpress.synthesis.settings import TASKS, Plan, Prices, TeacherSpec

CARD_JSON, CARD_TEXT = "card.json", "card.md"


def make_card(
    *,
    plan: Plan,
    spec: TeacherSpec,
    prompts: str,
    tokenizer: str,
    corpus: Corpus,
    asked: Mapping[str, int],
    journal: Journal,
    tally: Tally,
    prices: Prices,
) -> dict[str, Any]:
    """Everything about the data in an out folder, as plain data.

    Args:
        plan: what was asked for.
        spec: who was asked.
        prompts: digest of the texts of the requests.
        tokenizer: whose tokens are counted.
        corpus: what was read.
        asked: requests of the plan, by task.
        journal: what came, over all runs.
        tally: what became of it.
        prices: of the tokens.
    """
    times = sorted(entry.time for entry in journal.entries())
    return {
        "latentpress": __version__,
        "from": times[0] if times else None,
        "to": times[-1] if times else None,
        "teacher": {
            "kind": spec.kind,
            "model": spec.model,
            "address": spec.place if spec.kind == "openai" else None,
            "temperature": spec.temperature,
            "reply_tokens": spec.reply_tokens,
            "refused": dict(_refused(journal).most_common()),
        },
        "prompts": prompts,
        "seed": plan.seed,
        "corpora": corpus_names(plan),
        "tokenizer": tokenizer,
        "passages": {
            "number": len(corpus.passages),
            "documents": corpus.documents,
            "shortest_allowed": plan.min_passage_tokens,
            "longest_allowed": plan.max_passage_tokens,
            "tokens": sum(passage.tokens for passage in corpus.passages),
            "median_tokens": statistics.median(passage.tokens for passage in corpus.passages),
            "left_out": corpus.left_out,
        },
        "records": tally.records,
        "records_by_language": dict(tally.by_language.most_common()),
        "records_by_source": dict(tally.by_source.most_common()),
        "tasks": {
            task: {
                "requests": asked.get(task, 0),
                "replies": tally.replies[task],
                "made": tally.made[task],
                "rejected": sum(count for (of, _), count in tally.rejected.items() if of == task),
            }
            for task in TASKS
            if asked.get(task, 0) or tally.replies[task]
        },
        "answers_not_in_context": tally.outside,
        "rejects": [
            {"task": task, "reason": reason, "number": count}
            for (task, reason), count in sorted(tally.rejected.items(), key=lambda item: (-item[1], item[0]))
        ],
        "density": _density(tally.log2_ratios),
        "ultra_concise_not_shorter_than_summary": tally.not_shorter,
        "spent": {
            "requests": journal.requests,
            "tokens_in": journal.tokens_in,
            "tokens_out": journal.tokens_out,
            "tokens_without_reply": journal.tokens_lost,
            "estimated_replies": sum(entry.estimated for entry in journal.entries()),
            "cost": prices.cost(journal.tokens_in, journal.tokens_out) if prices.known else None,
            "prices": dataclasses.asdict(prices),
        },
        "without_reply": {
            "given_up": sum(entry.reply is None for entry in journal.entries()),
            "errors": _common_errors(journal),
        },
    }


def _density(labels: Sequence[float]) -> dict[str, float] | None:
    if not labels:
        return None
    return {
        "labels": len(labels),
        "mean_log2_ratio": statistics.fmean(labels),
        "standard_deviation": statistics.pstdev(labels),
        "lowest": min(labels),
        "highest": max(labels),
    }


def _refused(journal: Journal) -> Counter[str]:
    """Parameters that the teacher took no requests with, and how many replies came without each."""
    return Counter(name for entry in journal.entries() for name in entry.refused.split(", ") if name)


def _common_errors(journal: Journal) -> list[str]:
    errors = [entry.error for entry in journal.entries() if entry.error is not None]
    return list(dict.fromkeys(errors))[:5]


def render(card: Mapping[str, Any]) -> str:
    """The card as text."""
    teacher, passages, spent = card["teacher"], card["passages"], card["spent"]
    where = f" at {teacher['address']}" if teacher["address"] else ""
    lines = [
        "# Data card",
        "",
        f"{card['records']:,} records, written by the teacher `{teacher['model']}` ({teacher['kind']}{where}) from "
        f"{card['from'] or '-'} to {card['to'] or '-'}, at temperature {teacher['temperature']:g} and at most "
        f"{teacher['reply_tokens']:,} tokens a reply; prompts {card['prompts']}, seed {card['seed']}, latentpress "
        f"{card['latentpress']}.",
        "",
        *_refused_lines(teacher["refused"]),
        f"They are about {passages['number']:,} passages of {passages['shortest_allowed']} to "
        f"{passages['longest_allowed']:,} tokens (median {passages['median_tokens']:g}, {passages['tokens']:,} in all, "
        f"counted by {card['tokenizer']}) from {passages['documents']:,} documents of "
        f"{', '.join(card['corpora'])}. The texts keep their licences, and a teacher's terms may bind what it writes.",
        "",
        *_table(["left out", "number"], sorted(passages["left_out"].items())),
        *_table(
            ["task", "requests", "replies", "made", "rejected"],
            [(task, *numbers.values()) for task, numbers in card["tasks"].items()],
        ),
        f"Answers that do not stand in the text word for word, as the teacher says itself: "
        f"{card['answers_not_in_context']:,}.",
        "",
        *_table(["rejected of", "because", "number"], [tuple(row.values()) for row in card["rejects"]]),
        *_table(["language", "records"], card["records_by_language"].items()),
        *_table(["source", "records"], card["records_by_source"].items()),
        *_density_lines(card["density"], card["ultra_concise_not_shorter_than_summary"]),
        f"Spent: {spent['requests']:,} requests, {spent['tokens_in']:,} tokens of prompts and "
        f"{spent['tokens_out']:,} of replies ({spent['estimated_replies']:,} replies counted here, as the teacher does "
        f"not say; {spent['tokens_without_reply']:,} of the tokens are estimates for tries without a reply, which the "
        f"teacher may have worked on); {_cost(spent)}.",
        "",
    ]
    if card["without_reply"]["given_up"]:
        lines += [f"Requests given up: {card['without_reply']['given_up']:,}; the same command asks them again.", ""]
        lines += [*(f"- {error}" for error in card["without_reply"]["errors"]), ""]
    return "\n".join(lines)


def _refused_lines(refused: Mapping[str, int]) -> list[str]:
    if not refused:
        return []
    named = ", ".join(
        f"`{name}` ({'sent as `max_completion_tokens`' if name == 'max_tokens' else 'left out'}, {count:,} replies)"
        for name, count in refused.items()
    )
    return [f"Parameters that the teacher takes no requests with: {named}.", ""]


def _cost(spent: Mapping[str, Any]) -> str:
    if spent["cost"] is None:
        return "no prices were given"
    prices = spent["prices"]
    return f"cost {spent['cost']:,.2f} at {prices['per_million_in']:g} and {prices['per_million_out']:g} a million"


def _density_lines(density: Mapping[str, float] | None, not_shorter: int) -> list[str]:
    if density is None:
        return []
    return [
        f"Density labels, log2 of text over ultra-concise summary: {density['labels']:,}, mean "
        f"{density['mean_log2_ratio']:.2f}, standard deviation {density['standard_deviation']:.2f}, from "
        f"{density['lowest']:.2f} to {density['highest']:.2f}; {not_shorter:,} of these summaries are not "
        "shorter than the normal one of the same text.",
        "",
    ]


def _table(head: Sequence[str], rows: Any) -> list[str]:
    """A table, nothing where there are no rows."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    return [table(head, cells), ""] if cells else []
