"""What a press in training knows: its loss on held-out records, with their latents and with another's, and its F1.

A decoder that ignores its latents has the same loss with the right ones and with wrong ones. The two losses part when
it reads.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from latentpress.attention import KeyValueCache
from latentpress.compressors import Size
from latentpress.data.records import Record
from latentpress.data.rows import KINDS, Example, ExampleMaker, TokenizedRecord
from latentpress.decoder.generate import Prompt, Sampling, generate, prefill, prompt_of
from latentpress.evaluation.metrics import contains_cjk, f1, f1_chinese
from latentpress.model import PressModel
from latentpress.ratios import size_name
from latentpress.tokens import equal_windows
from latentpress.training.objective import RowLoss, document_latents, ratio_loss, row_loss
from latentpress.training.recipes import Recipe

_BATCH = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class DevQuestion:
    """A question whose answer is generated."""

    row: Example
    """Its record."""
    request: tuple[int, ...]
    """Tokens of the request."""
    answers: tuple[str, ...]
    """Acceptable answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DevSet:
    """What is evaluated, the same each time."""

    batches: tuple[tuple[Example, ...], ...]
    """Rows whose loss is taken; those of a batch have the same number of documents."""
    questions: tuple[DevQuestion, ...]
    """Questions that are answered."""


def make_dev_set(
    records: Sequence[TokenizedRecord], sources: Sequence[Record], maker: ExampleMaker, recipe: Recipe
) -> DevSet:
    """Draws the rows and questions of all evaluations, by the recipe's seed."""
    draw = random.Random(f"{recipe.seed}/dev")
    most = recipe.questions if recipe.continue_tokens else max(1, recipe.questions)
    order = draw.sample(range(len(records)), len(records))

    def row(index: int) -> Example:
        return maker.example([records[index]], draw, questions=most, quotes=1, quote_tokens=recipe.quote_tokens)

    rows = sorted((row(i) for i in order[: recipe.dev_rows]), key=_documents)
    groups = [list(group) for _, group in itertools.groupby(rows, _documents)]
    # Equal batches: a row alone in its batch would have no wrong latents to read.
    batches = [group[a:b] for group in groups for a, b in equal_windows(len(group), _BATCH)]
    asked = [
        (i, request, qa.answers)
        for i in order
        if records[i].answers
        for (request, _), qa in zip(records[i].answers, sources[i].qas, strict=True)
    ]
    drawn = draw.sample(asked, min(recipe.f1_questions, len(asked)))
    questions = tuple(DevQuestion(row=row(i), request=request, answers=answers) for i, request, answers in drawn)
    return DevSet(batches=tuple(map(tuple, batches)), questions=questions)


def _documents(example: Example) -> int:
    return len(example.documents)


def dev_metrics(
    press: PressModel,
    dev: DevSet,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    *,
    share: slice,
    reduce: Callable[[Sequence[float]], list[float]],
) -> dict[str, float]:
    """Evaluates a press, in one process or in several together.

    Args:
        press: in evaluation mode.
        dev: what is evaluated.
        recipe: says at which sizes.
        tokenizer: of the decoder.
        share: which batches and questions are this process's.
        reduce: sums numbers over the processes.

    Returns:
        `x4_answer`, `x4_answer_wrong`, ... (nats a token, with the right and with wrong latents), `ratio_error`,
        `f1_x4`, and `loss`, which the best press has lowest: the mean over the sizes of the answers' loss (of the
        continuations', or of all targets, if the dev records have no answers). `m64` in place of `x4` is a length.
    """
    names = [f"{kind}{suffix}" for kind in KINDS for suffix in ("", "_wrong")] + ["ratio_error"]
    metrics: dict[str, float] = {}
    means = []
    policy = press.policy
    for value in [value for value in recipe.dev_ratios if policy.allows(value)] or list(policy.candidates):
        size = policy.fixed(value)
        sums = loss_sums(press, dev.batches[share], size)
        totals = reduce([value for name in names for value in sums.get(name, (0.0, 0))])
        pairs = zip(names, totals[::2], totals[1::2], strict=True)
        found = {name: (total, count) for name, total, count in pairs if count}
        total, count = found.pop("ratio_error", (0.0, 0.0))
        if count:
            metrics["ratio_error"] = total / count
        metrics |= {f"{size_name(size)}_{name}": total / count for name, (total, count) in found.items()}
        chief = next((kind for kind in ("answer", "continuation") if kind in found), None)
        judged = [found[chief]] if chief else [found[kind] for kind in KINDS if kind in found]
        means.append(sum(total for total, _ in judged) / sum(count for _, count in judged))
    metrics["loss"] = sum(means) / len(means)
    if dev.questions and policy.allows(recipe.f1_ratio):
        size = policy.fixed(recipe.f1_ratio)
        scores = evaluate_f1(press, tokenizer, dev.questions[share], size)
        total, count = reduce([sum(scores), len(scores)])
        metrics[f"f1_{size_name(size)}"] = total / count
    return metrics


@torch.no_grad()
def loss_sums(model: PressModel, batches: Sequence[Sequence[Example]], size: Size) -> dict[str, tuple[float, int]]:
    """Losses of rows at a size, summed.

    Returns:
        Sum and count by name: `answer`, `summary`, `quote` (nats a token) with the right latents, the same names with
        `_wrong` with those of the next row of the batch, and `ratio_error` (squared, a labelled window).
    """
    sums: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))

    def add(name: str, total: float, count: int) -> None:
        before = sums[name]
        sums[name] = (before[0] + total, before[1] + count)

    def add_kinds(loss: RowLoss, suffix: str) -> None:
        for kind, (total, count) in loss.by_kind.items():
            add(kind + suffix, total, count)

    for batch in batches:
        latents, predicted = document_latents(model, batch, size)
        error, labelled = ratio_loss(batch, predicted, model.decoder.device)
        add("ratio_error", float(error), labelled)
        add_kinds(row_loss(model, batch, size, latents=latents), "")
        if len(batch) > 1:
            add_kinds(row_loss(model, batch, size, latents=[*latents[1:], latents[0]]), "_wrong")
    return dict(sums)


@torch.no_grad()
def evaluate_f1(
    model: PressModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[DevQuestion],
    size: Size,
    *,
    max_new_tokens: int = 32,
    batch_size: int = 16,
) -> list[float]:
    """F1 of each question, answered greedily from the latents alone (CMRC's F1 where the answer is Chinese)."""
    scores: list[float] = []
    for start in range(0, len(questions), batch_size):
        batch = questions[start : start + batch_size]
        latents, _ = document_latents(model, [question.row for question in batch], size)
        prompts = [
            prompt_of(model.decoder, [*question.row.prefix, list(question.request)], documents)
            for question, documents in zip(batch, latents, strict=True)
        ]
        for question, text in zip(batch, _answers(model, tokenizer, prompts, max_new_tokens), strict=True):
            score = f1_chinese if contains_cjk("".join(question.answers)) else f1
            scores.append(score(text, question.answers))
    return scores


def _answers(
    model: PressModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], max_new_tokens: int
) -> list[str]:
    cache = KeyValueCache(len(prompts))
    states = prefill(model.decoder, prompts, cache)
    stops = frozenset({int(tokenizer.eos_token_id)})
    tokens: list[list[int]] = [[] for _ in prompts]
    for row in generate(model.decoder, states, cache, stops, Sampling(max_new_tokens=max_new_tokens)):
        for answer, token in zip(tokens, row, strict=True):
            if token is not None:
                answer.append(token)
    return [str(tokenizer.decode(answer, skip_special_tokens=True)) for answer in tokens]
