"""Which tokens of a text are asked for: what a training's questions say about it, learned before its first step."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from latentpress.data.rows import TokenizedRecord
from latentpress.model import PressModel
from latentpress.tokens import equal_windows
from latentpress.training.recipe import Recipe

_TOKENS = 100_000
"""Tokens of text that it is learned from: with half as many it is told a little less well (docs/experiments.md)."""
_PASS = 2048
"""Tokens that are read at a time."""


@torch.no_grad()
def learn_what_is_asked(
    press: PressModel, records: Sequence[TokenizedRecord], tokenizer: PreTrainedTokenizerBase, recipe: Recipe
) -> str:
    """Fits what a compressor tells tokens by that are asked for, from how the press reads the texts as it is.

    Does nothing where no answer stands in its text as it is.

    Args:
        press: whose compressor asks for clues.
        records: those trained on, with their questions.
        tokenizer: of the records.
        recipe: draws some of them, by its seed, and says how long windows are.

    Returns:
        What was learned from, in words.
    """
    training = press.training
    press.eval()
    names = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    kinds: dict[str, int] = {}
    kind = [kinds.setdefault(name.strip(), len(kinds)) for name in names]
    draw = random.Random(f"{recipe.seed}/asked")
    clues, asked, tokens = [], [], 0
    for batch in _batches(draw.sample(records, len(records)), recipe.window_tokens):
        texts = [text for text, _ in batch]
        clues.append(press.compressor.clues(press.encode(texts).states).float().cpu())
        asked += [torch.tensor(answered(text, answers, kind)) for text, answers in batch]
        tokens += len(clues[-1])
        if tokens >= _TOKENS:
            break
    press.train(training)
    known = torch.cat(asked) if asked else torch.zeros(0, dtype=torch.bool)
    if not bool(known.any()) or bool(known.all()):
        return "windows: no answer stands in its text as it is, so that all tokens count as asked for alike"
    press.compressor.start_from_asked(torch.cat(clues), known)
    share = 100 * float(known.float().mean())
    return f"windows: learned what is asked for from {len(known):,} tokens of text, {share:.1f}% of them in answers"


def answered(text: Sequence[int], answers: Iterable[Sequence[int]], kind: Sequence[int]) -> list[bool]:
    """Whether each token of a text is part of an answer, wherever one occurs.

    Args:
        text: its tokens.
        answers: tokens of each answer.
        kind: of each vocabulary entry; entries that differ in white space around them alone are of one.
    """
    plain = [kind[i] for i in text]
    part = [False] * len(plain)
    for answer in answers:
        sought = [kind[i] for i in answer]
        for start in range(len(plain) - len(sought) + 1 if sought else 0):
            if plain[start : start + len(sought)] == sought:
                part[start : start + len(sought)] = [True] * len(sought)
    return part


_Text = tuple[tuple[int, ...], list[tuple[int, ...]]]


def _batches(records: Iterable[TokenizedRecord], most: int) -> Iterable[list[_Text]]:
    """Windows of records that have answers, with these, as many as are read at a time."""
    batch: list[_Text] = []
    for record in records:
        answers = [target[:-1] for _, target in record.answers]  # without the end of the text
        for document in record.documents if answers else ():
            for start, end in equal_windows(len(document), most):
                batch.append((document[start:end], answers))
                if sum(len(text) for text, _ in batch) >= _PASS:
                    yield batch
                    batch = []
    if batch:
        yield batch
