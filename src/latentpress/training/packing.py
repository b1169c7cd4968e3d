"""Rows of a batch side by side, as a decoder reads them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latentpress.attention import Layout
from latentpress.backbone import Backbone
from latentpress.branches import Branches
from latentpress.cache_entries import place_entries
from latentpress.data.rows import Example
from latentpress.decoder.generate import embed_pieces
from latentpress.decoder.prompt import Piece, Slot


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
    held: list[Tensor] = []
    for example, documents in zip(examples, latents, strict=True):
        shared, entries = _shared(decoder, example.prefix, documents)
        held += [documents[slot] for _, slot in entries]
        prefix = len(shared)
        ids = [i for branch in example.branches for i in branch.ids]
        counts = tuple((before_token, len(documents[slot])) for before_token, slot in entries)
        fork = Branches(prefix, tuple(len(branch.ids) for branch in example.branches), counts)
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
    ids_at, there = torch.cat(positions).to(device), None
    if decoder.rotation is not None:
        there = place_entries(decoder.rotation, held, [fork.places(device) for fork in forks], ids_at, decoder.dtype)
    layout = Layout(tuple(lengths), ids_at, tuple(forks), placed=there)
    return torch.cat(embeddings), layout, torch.tensor(at, device=device), torch.tensor(labels, device=device)


def _shared(
    decoder: Backbone, prefix: Sequence[Piece], documents: Sequence[Tensor]
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Embeddings of what the branches of a row share, and the slots whose latents are cache entries.

    Returns:
        `[T, D]`, and for each such slot the token that it stands before and its document.
    """
    if decoder.rotation is None:
        return embed_pieces(decoder, prefix, documents), []
    entries, tokens = [], 0
    for piece in prefix:
        if isinstance(piece, Slot):
            entries.append((tokens, piece.document))
        else:
            tokens += len(piece)
    return embed_pieces(decoder, [piece for piece in prefix if not isinstance(piece, Slot)], []), entries
