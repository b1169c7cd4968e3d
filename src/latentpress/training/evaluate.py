"""What a press in training knows: its loss on held-out records, beside the loss with another record's latents, and its F1.

A decoder that ignores its latents has the same loss with the right ones and with wrong ones. The two losses part when it reads.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from latentpress.attention import KeyValueCache
from latentpress.compressors import Ratio
from latentpress.data.records import Record
from latentpress.data.rows import Example, ExampleMaker, TokenizedRecord
from latentpress.decoder.generate import Sampling, embed_pieces, generate, prefill
from latentpress.evaluation.metrics import contains_cjk, f1, f1_chinese
from latentpress.model import PressModel
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


def make_dev_set(records: Sequence[TokenizedRecord], sources: Sequence[Record], maker: ExampleMaker, recipe: Recipe) -> DevSet:
    """Draws the rows and questions of all evaluations, by the recipe's seed."""
    draw = random.Random(f"{recipe.seed}/dev")
    order = draw.sample(range(len(records)), len(records))

    def row(index: int) -> Example:
        return maker.example([records[index]], draw, questions=max(1, recipe.questions), quotes=1, quote_tokens=recipe.quote_tokens)

    rows = sorted((row(i) for i in order[: recipe.dev_rows]), key=lambda example: len(example.documents))
    batches: list[list[Example]] = []
    for example in rows:
        if not batches or len(batches[-1]) == _BATCH or len(batches[-1][0].documents) != len(example.documents):
            batches.append([])
        batches[-1].append(example)
    asked = [(i, request, qa.answers) for i in order for (request, _), qa in zip(records[i].answers, sources[i].qas, strict=True)]
    drawn = draw.sample(asked, min(recipe.f1_questions, len(asked)))
    questions = tuple(DevQuestion(row=row(i), request=request, answers=answers) for i, request, answers in drawn)
    return DevSet(batches=tuple(map(tuple, batches)), questions=questions)


@torch.no_grad()
def loss_sums(model: PressModel, batches: Sequence[Sequence[Example]], ratio: int) -> dict[str, tuple[float, int]]:
    """Losses of rows at a ratio, summed.

    Returns:
        Sum and count by name: `answer`, `summary`, `quote` (nats a token) with the right latents, the same names with `_wrong` with
        those of the next row of the batch, and `ratio_error` (squared, a labelled window).
    """
    sums: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))

    def add(name: str, total: float, count: int) -> None:
        before = sums[name]
        sums[name] = (before[0] + total, before[1] + count)

    def add_kinds(loss: RowLoss, suffix: str) -> None:
        for kind, (total, count) in loss.by_kind.items():
            add(kind + suffix, total, count)

    for batch in batches:
        latents, predicted = document_latents(model, batch, Ratio(ratio))
        error, labelled = ratio_loss(batch, predicted, model.decoder.device)
        add("ratio_error", float(error), labelled)
        add_kinds(row_loss(model, batch, Ratio(ratio), latents=latents), "")
        if len(batch) > 1:
            add_kinds(row_loss(model, batch, Ratio(ratio), latents=[*latents[1:], latents[0]]), "_wrong")
    return dict(sums)


@torch.no_grad()
def evaluate_f1(
    model: PressModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[DevQuestion], ratio: int, *, max_new_tokens: int = 32, batch_size: int = 16
) -> list[float]:
    """F1 of each question, answered greedily from the latents alone (CMRC's F1 where the answer is Chinese)."""
    scores: list[float] = []
    for start in range(0, len(questions), batch_size):
        batch = questions[start : start + batch_size]
        latents, _ = document_latents(model, [question.row for question in batch], Ratio(ratio))
        prompts = [embed_pieces(model.decoder, [*question.row.prefix, list(question.request)], documents) for question, documents in zip(batch, latents, strict=True)]
        for question, text in zip(batch, _answers(model, tokenizer, prompts, max_new_tokens), strict=True):
            score = f1_chinese if contains_cjk("".join(question.answers)) else f1
            scores.append(score(text, question.answers))
    return scores


def _answers(model: PressModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Tensor], max_new_tokens: int) -> list[str]:
    cache = KeyValueCache(len(prompts))
    states = prefill(model.decoder, prompts, cache)
    stops = frozenset({int(tokenizer.eos_token_id)})  # type: ignore[arg-type]
    tokens: list[list[int]] = [[] for _ in prompts]
    for row in generate(model.decoder, states, cache, stops, Sampling(max_new_tokens=max_new_tokens)):
        for answer, token in zip(tokens, row, strict=True):
            if token is not None:
                answer.append(token)
    return [str(tokenizer.decode(answer, skip_special_tokens=True)) for answer in tokens]
