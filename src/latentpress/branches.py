"""Attention of sequences that fork, without the scores that nobody sees.

A training row is a shared prefix (prompt and latents) with a request a branch behind it. Written as a mask, most of its
square of scores is hidden: half of the prefix, and all that one branch would see of the others. Here queries are taken
in chunks of neighbours, each against the keys in front of it and its own, so that little is computed that is not seen
and the scores of a chunk stay in the caches (docs/experiments.md). `packed_attention` does so on a CPU where nothing
else hides a key; elsewhere the same is said by a mask.

Keys without queries (`latentpress.cache_entries`) may stand inside the prefix: latents that are cache entries. What
follows them sees them.

Shape letters as in `latentpress.attention`: T tokens of a sequence, C its keys, H query heads, K key/value heads, D
head width; t tokens of a chunk, c keys that it is compared with.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

# A longer chunk computes more that is hidden, a shorter one pays more calls (docs/experiments.md).
_CHUNK_QUERIES = 160
# Weights of so many bytes a layer are kept for the way back, more are computed again: memory grows with the length of a
# row, not with the square of it.
_KEPT_BYTES = 80 * 2**20


@dataclass(frozen=True, slots=True)
class Branches:
    """What the tokens of a sequence see: the prefix causally, each branch the prefix and, causally, itself."""

    prefix: int
    """Tokens of the prefix."""
    lengths: tuple[int, ...]
    """Tokens of each branch, in order."""
    entries: tuple[tuple[int, int], ...] = ()
    """Keys without queries: before which token of the prefix (its length: behind the last), ascending, and how many."""

    @property
    def tokens(self) -> int:
        """Tokens of the sequence."""
        return self.prefix + sum(self.lengths)

    @property
    def keys(self) -> int:
        """Keys of the sequence: its tokens, and the entries among them."""
        return self.tokens + sum(count for _, count in self.entries)

    def mask(self, device: torch.device | None = None) -> Tensor:
        """The same as a boolean mask `[T, C]`, True where query (row) sees key (column)."""
        own, _ = self.places(device)
        owner = torch.zeros(self.keys, dtype=torch.int64, device=device)
        owner[own] = self._owners(device)
        order = torch.arange(self.keys, device=device)
        return (own[:, None] >= order) & ((owner[own, None] == owner) | (owner == 0))

    def positions(self, device: torch.device | None = None) -> Tensor:
        """Position ids `[T]`: those of every branch follow the prefix, entries included."""
        own, _ = self.places(device)
        before = self.keys - sum(self.lengths)
        spans = [torch.arange(before, before + length, device=device) for length in self.lengths]
        return torch.cat([own[: self.prefix], *spans])

    def places(self, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Where its tokens `[T]` and its entries stand among its keys; for entries that is their position id too."""
        own, entries, at, first = [], [], 0, 0
        for before, count in (*self.entries, (self.tokens, 0)):
            own.append(torch.arange(at, at + before - first, device=device))
            at += before - first
            entries.append(torch.arange(at, at + count, device=device))
            at, first = at + count, before
        return torch.cat(own), torch.cat(entries)

    def chunks(self, device: torch.device | None = None) -> list[Chunk]:
        """Cuts the queries into chunks of neighbours; a branch is never cut, so a long one is a long chunk.

        Entries lie between two chunks, never inside one.
        """
        cuts = sorted({0, self.prefix, *(before for before, _ in self.entries)})
        spans = [
            (at, min(at + _CHUNK_QUERIES, last))
            for first, last in itertools.pairwise(cuts)
            for at in range(first, last, _CHUNK_QUERIES)
        ]
        start = end = self.prefix
        for length in self.lengths:
            if end > start and end + length - start > _CHUNK_QUERIES:
                spans.append((start, end))
                start = end
            end += length
        if end > start:
            spans.append((start, end))
        owner = self._owners(device)
        more = [(before, count) for before, count in self.entries]

        def chunk(first: int, last: int) -> Chunk:
            beside = sum(count for before, count in more if before <= first)
            return Chunk.of(owner, first, last, front=min(first, self.prefix) + beside, own=first + beside)

        return [chunk(first, last) for first, last in spans]

    def _owners(self, device: torch.device | None) -> Tensor:
        """Number of the branch of each token, from 1; 0 for the prefix."""
        sizes = torch.tensor((self.prefix, *self.lengths), device=device)
        return torch.arange(len(sizes), device=device).repeat_interleave(sizes)


class Chunk(NamedTuple):
    """Neighbouring queries: they see all keys in front, and of their own those that the mask lets through."""

    start: int
    """First query."""
    end: int
    """Query behind the last."""
    front: int
    """Number of keys, from the first of the sequence on, that all of them see."""
    own: int
    """Key of the first query; the chunk's own keys begin there."""
    hidden: Tensor
    """`[t, t]` bool, True where a query does not see one of the chunk's own keys."""

    @property
    def keys(self) -> int:
        """Number c of keys that its queries are compared with."""
        return self.front + self.end - self.start

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """Softmax of its scores `[K, H / K * t, c]`: scaled queries of the sequence `[H, T, D]`, keys `[K, c, D]`."""
        grouped = query[:, self.start : self.end].reshape(len(key), -1, key.shape[-1])
        scores = torch.bmm(grouped, key.transpose(1, 2))
        own = scores.view(len(query), -1, self.keys)[..., self.front :]
        own.masked_fill_(self.hidden, torch.finfo(scores.dtype).min)
        return torch.softmax(scores, -1)

    @classmethod
    def of(cls, owner: Tensor, start: int, end: int, *, front: int, own: int) -> Chunk:
        """Makes a chunk of a sequence whose tokens belong to these branches."""
        mine, order = owner[start:end], torch.arange(end - start, device=owner.device)
        return cls(start, end, front, own, (order[:, None] < order) | (mine[:, None] != mine))


class BranchedAttention(torch.autograd.Function):
    """Softmax attention of one packed row of `Branches`: `query [H, N, D]`, `key, value [K, C, D]` -> `[H, N, D]`.

    `lengths` and `rows` hold tokens and keys of each sequence and its chunks, counted from its first token and key.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lengths: Sequence[tuple[int, int]],
        rows: Sequence[Sequence[Chunk]],
        scale: float,
    ) -> Tensor:
        """Keeps the weights of every chunk for the way back, if they are not too many."""
        out = query.new_empty(*query.shape[:2], value.shape[-1])
        scaled = query * scale
        kept = []
        scores = sum((chunk.end - chunk.start) * chunk.keys for chunks in rows for chunk in chunks)
        keeps = any(ctx.needs_input_grad) and scores * len(query) * query.element_size() <= _KEPT_BYTES
        for part, held, chunks in _parts(lengths, rows):
            q, o = scaled[:, part], out[:, part]
            for chunk, k, v in _with_keys(chunks, key[:, held], value[:, held]):
                weights = chunk.weights(q, k)
                o[:, chunk.start : chunk.end] = torch.bmm(weights, v).view(len(o), -1, v.shape[-1])
                if keeps:
                    kept.append(weights)
        ctx.save_for_backward(scaled, key, value, *kept)
        ctx.lengths, ctx.rows, ctx.scale = lengths, rows, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Gradients of query, key and value; those of keys that many chunks see are summed in float32 or finer."""
        scaled, key, value, *saved = ctx.saved_tensors
        (d_out,) = grads
        kv, width = len(key), key.shape[-1]
        d_query = torch.empty_like(scaled)
        exact = torch.promote_types(key.dtype, torch.float32)
        d_key, d_value = (torch.zeros(one.shape, dtype=exact, device=one.device) for one in (key, value))
        kept = iter(saved)
        for part, held, chunks in _parts(ctx.lengths, ctx.rows):
            q, d = scaled[:, part], d_out[:, part]
            dq, dk, dv = d_query[:, part], d_key[:, held], d_value[:, held]
            for chunk, k, v in _with_keys(chunks, key[:, held], value[:, held]):
                weights = next(kept) if saved else chunk.weights(q, k)
                grouped = q[:, chunk.start : chunk.end].reshape(kv, -1, width)
                d_part = d[:, chunk.start : chunk.end].reshape(kv, -1, value.shape[-1])
                d_weights = torch.bmm(d_part, v.transpose(1, 2))
                d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
                dq[:, chunk.start : chunk.end] = torch.bmm(d_scores, k).view(len(d), -1, width)
                for total, left, right in ((dk, d_scores, grouped), (dv, weights, d_part)):
                    found = torch.bmm(left.transpose(1, 2), right)
                    total[:, : chunk.front] += found[:, : chunk.front]
                    total[:, chunk.own : chunk.own + chunk.end - chunk.start] += found[:, chunk.front :]
        return d_query.mul_(ctx.scale), d_key.to(key.dtype), d_value.to(value.dtype), None, None, None


def _parts(
    lengths: Sequence[tuple[int, int]], rows: Sequence[Sequence[Chunk]]
) -> Iterator[tuple[slice, slice, Sequence[Chunk]]]:
    """Where tokens and keys of each sequence lie in the row, and its chunks."""
    start = first = 0
    for (tokens, keys), chunks in zip(lengths, rows, strict=True):
        yield slice(start, start + tokens), slice(first, first + keys), chunks
        start, first = start + tokens, first + keys


def _with_keys(chunks: Sequence[Chunk], key: Tensor, value: Tensor) -> Iterator[tuple[Chunk, Tensor, Tensor]]:
    """Each chunk with the keys and values that it is compared with, `[K, c, D]`: those in front, then its own.

    Valid until the next chunk is asked for: they lie in one buffer, into which the prefix is copied once.
    """
    buffers: list[Tensor] = []
    for chunk in chunks:
        if chunk.front == chunk.own:
            yield chunk, key[:, : chunk.keys], value[:, : chunk.keys]
            continue
        if not buffers:
            most = chunk.front + max(other.end - other.start for other in chunks)
            buffers = [one.new_empty(one.shape[0], most, one.shape[2]) for one in (key, value)]
            for buffer, one in zip(buffers, (key, value), strict=True):
                buffer[:, : chunk.front] = one[:, : chunk.front]
        for buffer, one in zip(buffers, (key, value), strict=True):
            buffer[:, chunk.front : chunk.keys] = one[:, chunk.own : chunk.own + chunk.end - chunk.start]
        yield chunk, buffers[0][:, : chunk.keys], buffers[1][:, : chunk.keys]
