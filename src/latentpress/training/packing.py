"""Rows of a batch side by side, as a decoder reads them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latentpress.attention import Layout
from latentpress.backbone import Backbone
from latentpress.branches import Branches
from latentpress.data.rows import Example
from latentpress.decoder.generate import embed_pieces


def pack(
    decoder: Backbone, examples: Sequence[Example], latents: Sequence[Sequence[Tensor]]
) -> tuple[Tensor, Layout, Tensor, Tensor]:
    """Lays the rows of a batch side by side, for a decoder to read.

    Returns:
        Embeddings `[N, D]`, their layout, indices of the states that predict a label, and the labels.
    """
    device = decoder.device
    embeddings, lengths, positions, forks, before = [], [], [], [], 0
    at: list[int] = []
    labels: list[int] = []
    for example, documents in zip(examples, latents, strict=True):
        shared = embed_pieces(decoder, example.prefix, documents)
        prefix = len(shared)
        ids = [i for branch in example.branches for i in branch.ids]
        fork = Branches(prefix, tuple(len(branch.ids) for branch in example.branches))
        start = before + prefix
        for branch in example.branches:
            end = start + len(branch.ids)
            at += range(start + branch.first_label - 1, end - 1)
            labels += branch.ids[branch.first_label :]
            start = end
        embeddings += [shared, decoder.embed(torch.tensor(ids, device=device))]
        lengths.append(fork.tokens)
        positions.append(fork.positions())
        forks.append(fork)
        before = start
    layout = Layout(tuple(lengths), torch.cat(positions).to(device), tuple(forks))
    return torch.cat(embeddings), layout, torch.tensor(at, device=device), torch.tensor(labels, device=device)
