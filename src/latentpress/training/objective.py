"""The training loss of packed rows: language modelling on targets, squared error of the predicted log2 ratio.

`loss = LM + lambda * MSE(y, y*)` (arXiv 2603.25926, equation 7). LM is the mean over the predicted tokens of the whole
batch, MSE the mean over its labelled windows. Logits are computed where there is a label and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from latentpress.backbone import Backbone
from latentpress.compressors.base import Extracted, Size, window_means
from latentpress.data.rows import KINDS, Example
from latentpress.model import PressModel
from latentpress.training.packing import pack
from latentpress.training.teacher import Teacher, divergence


@dataclass(frozen=True, slots=True, eq=False)
class RowLoss:
    """Losses of some rows, summed."""

    lm: Tensor
    """Sum of the token losses, nats: cross-entropy and, by its share, the divergence from a teacher."""
    tokens: int
    """Predicted tokens."""
    ratio: Tensor
    """Sum of the squared errors of the predicted log2 ratio."""
    labelled: int
    """Windows with a density label."""
    by_kind: dict[str, tuple[float, int]]
    """Sum and number of the token losses of each kind of branch; cross-entropy also where `lm` is distillation."""


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """What a selector's head predicts of some windows."""

    log2_ratios: Tensor
    """Of each part of every window, `[P]`."""
    parts: tuple[int, ...]
    """Parts of each window."""


def document_latents(
    model: PressModel, examples: Sequence[Example], size: Size
) -> tuple[list[list[Tensor]], Predicted | None]:
    """Latents `[M, D]` of each document of each example at one size, and what the head predicts of their windows."""
    encoded = model.encode([window for example in examples for window in example.windows])
    latents = by_document(examples, model.latents(encoded, [own for _, own in part_sizes(model, examples, size)]))
    if encoded.log2_ratios is None:
        return latents, None
    return latents, Predicted(encoded.log2_ratios, tuple(map(len, encoded.parts)))


def by_document(examples: Sequence[Example], made: Extracted) -> list[list[Tensor]]:
    """Latents `[M, D]` of each document of each example, of those of all their windows."""
    windows = iter(made.vectors.split(made.counts))
    return [[torch.cat([next(windows) for _ in range(count)]) for count in example.documents] for example in examples]


def part_sizes(model: PressModel, examples: Sequence[Example], size: Size) -> list[tuple[int, Size]]:
    """Tokens and size of each part of all windows, where a step has one size; see `RatioPolicy.spread`."""
    made: list[tuple[int, Size]] = []
    for example in examples:
        windows = iter(example.windows)
        for count in example.documents:
            tokens = [part for _ in range(count) for part in model.compressor.parts(len(next(windows)))]
            made += zip(tokens, model.policy.spread(size, tokens), strict=True)
    return made


def target_losses(
    decoder: Backbone, examples: Sequence[Example], latents: Sequence[Sequence[Tensor]]
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every predicted token, nats `[labels]`, in the order of rows and branches, and its logits."""
    embeddings, layout, at, labels = pack(decoder, examples, latents)
    logits = decoder.logits(decoder(embeddings, layout)[at])
    return F.cross_entropy(logits, labels, reduction="none"), logits


def row_loss(
    model: PressModel,
    examples: Sequence[Example],
    size: Size,
    *,
    latents: Sequence[Sequence[Tensor]] | None = None,
    teacher: Teacher | None = None,
) -> RowLoss:
    """Loss of a batch of rows at one size.

    Args:
        model: the press.
        examples: rows; each has at least one branch.
        size: ratio or length of every window, or of every document, as the press's policy spreads it.
        latents: read these instead of encoding (to measure what the wrong latents give); no ratio loss then.
        teacher: reads the full text; its share of the loss at what it predicts is the divergence from it.
    """
    predicted = None
    if latents is None:
        latents, predicted = document_latents(model, examples, size)
    losses, logits = target_losses(model.decoder, examples, latents)
    kinds = torch.tensor(
        [KINDS.index(branch.kind) for example in examples for branch in example.branches for _ in range(branch.labels)]
    )
    detached = losses.detach().cpu()
    by_kind: dict[str, tuple[float, int]] = {
        kind: (float(detached[kinds == i].sum()), int((kinds == i).sum()))
        for i, kind in enumerate(KINDS)
        if bool((kinds == i).any())
    }
    ratio, labelled = ratio_loss(examples, predicted, losses.device)
    total = losses.sum()
    if teacher is not None and teacher.share:
        told, known = teacher.told(examples)
        total = total + teacher.share * (divergence(told, logits[known]).sum() - losses[known].sum())
    return RowLoss(total, len(losses), ratio, labelled, by_kind)


IMITATION = "latents"  # its name beside the kinds of target


def imitation_loss(model: PressModel, examples: Sequence[Example], size: Size, other: PressModel) -> RowLoss:
    """How far the latents of a batch of rows are from those of another press, at one size.

    Of each latent the squared distance over the squared norm of the other's that stands for the token in its middle:
    windows and segments of the two may be cut in different ways. Both must share the text out (`Compressor.tiles`).
    """
    windows = [window for example in examples for window in example.windows]
    made = model.latents(model.encode(windows), [own for _, own in part_sizes(model, examples, size)])
    with torch.no_grad():
        told = other.latents(other.encode(windows), [own for _, own in part_sizes(other, examples, size)])
    assert made.index is not None
    assert told.index is not None
    place = torch.arange(len(made.index), dtype=torch.float32, device=made.index.device)[:, None]
    middle = window_means(place, made.index, len(made.vectors))[:, 0].long()
    mine, theirs = made.vectors.float(), told.vectors[told.index[middle]].float()
    total = ((mine - theirs).square().sum(1) / theirs.square().sum(1).clamp_min(1e-12)).sum()
    nothing = torch.zeros((), device=total.device)
    return RowLoss(total, len(mine), nothing, 0, {IMITATION: (float(total.detach()), len(mine))})


def latents_of(model: PressModel, examples: Sequence[Example], size: Size) -> int:
    """Latents that a press makes of a batch of rows at one size."""
    return sum(model.compressor.count(tokens, own) for tokens, own in part_sizes(model, examples, size))


def ratio_loss(examples: Sequence[Example], predicted: Predicted | None, device: torch.device) -> tuple[Tensor, int]:
    """Squared error of the predicted log2 ratio, summed over the windows that have a density label, and their number.

    The label of a window is that of each of its parts; its error is the mean over them.

    Args:
        examples: rows.
        predicted: log2 ratios of their windows, None without a prediction.
        device: of the result.
    """
    labels = [label for example in examples for label in example.log2_ratios]
    known = [i for i, label in enumerate(labels) if label is not None]
    if predicted is None:
        return torch.zeros((), device=device), 0
    if not known:  # part of the graph all the same: every process and every step has a gradient for the head
        return predicted.log2_ratios.sum() * 0.0, 0
    each = [
        (label or 0.0, label is not None) for label, n in zip(labels, predicted.parts, strict=True) for _ in range(n)
    ]
    target, there = torch.tensor(each, dtype=torch.float32, device=device).T
    share = torch.tensor([1 / n for n in predicted.parts for _ in range(n)], device=device)
    return ((predicted.log2_ratios - target).square() * there * share).sum(), len(known)


def passes(examples: Sequence[Example], tokens: int) -> list[Sequence[Example]]:
    """Cuts the rows of a step into passes of at most so many context tokens, or one row; into one if `tokens` is 0."""
    parts: list[list[Example]] = [[]]
    for example in examples:
        if tokens and parts[-1] and sum(one.tokens for one in parts[-1]) + example.tokens > tokens:
            parts.append([])
        parts[-1].append(example)
    return [*parts]


def step_loss(rows: RowLoss, *, labels: int, labelled: int, weight: float, processes: int) -> Tensor:
    """Loss of one process's share of a step, so that the mean over the processes is the loss of the whole step.

    `mean_p(processes * sum_p / total) = sum / total`: the token mean over the global batch, and the mean over its
    labelled windows.

    Args:
        rows: losses of the share, summed.
        labels: predicted tokens of the whole step.
        labelled: windows with a density label of the whole step.
        weight: of the ratio loss, lambda.
        processes: their number; data parallelism averages their gradients.
    """
    return processes * (rows.lm / max(1, labels) + weight * rows.ratio / max(1, labelled))
