"""Attention over packed rows: sequences of different lengths side by side, without padding.

Every forward pass of this library, in training and in inference, lays its sequences end to end in one row `[1, N, D]`
and tells attention where each begins. No token is padding, so the result of a sequence cannot depend on padding or on
its side, and nothing is computed for tokens that are not there. The mask is explicit (`Visibility`), never a flag of
the model that a back-end may ignore.

Registered with transformers' `AttentionInterface` under `PACKED`, and so usable by every architecture that goes through
it (Llama, Qwen2, Qwen3, Mistral, Gemma and most others). Grouped-query attention needs no repeated keys here.

Shape letters: N tokens of the whole row, T tokens of one sequence, C cached and new tokens of one sequence, H query
heads, K key/value heads, G = H / K, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from latentpress.branches import BranchedAttention, Branches, Chunk
from latentpress.cache_entries import CapturedEntries, PlacedEntries
from latentpress.errors import InputError

PACKED = "latentpress_packed"
Visibility = Literal["bidirectional", "causal"]
Backend = Literal["auto", "eager", "sdpa"]
# Above this many tokens the score matrix of one sequence outgrows the caches and flash kernels win, measured on two CPU
# architectures.
_EAGER_TOKENS = 640


class _Stored:
    """Keys and values of one sequence in one layer, in buffers with room to grow."""

    __slots__ = ("keys", "length", "owned", "positions", "values")

    def __init__(self, keys: Tensor, values: Tensor, positions: Tensor, length: int, *, owned: bool) -> None:
        self.keys, self.values, self.positions = keys, values, positions
        self.length, self.owned = length, owned

    def borrowed(self) -> _Stored:
        """The same contents, which the borrower copies before it adds to them."""
        return _Stored(self.keys, self.values, self.positions, self.length, owned=False)

    def append(self, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        """Adds `[K, T, D]` keys and values at `positions [T]`."""
        end = self.length + keys.shape[1]
        if not self.owned or end > self.keys.shape[1]:
            room = end + end // 4 + 64
            self.keys, self.values = (_grown(old, self.length, room, 1) for old in (self.keys, self.values))
            self.positions = _grown(self.positions, self.length, room, 0)
            self.owned = True
        self.keys[:, self.length : end] = keys
        self.values[:, self.length : end] = values
        self.positions[self.length : end] = positions
        self.length = end


def _grown(old: Tensor, length: int, room: int, axis: int) -> Tensor:
    shape = list(old.shape)
    shape[axis] = room
    new = old.new_empty(shape)
    new.narrow(axis, 0, length).copy_(old.narrow(axis, 0, length))
    return new


class KeyValueCache:
    """Keys and values of the sequences of a row, per layer; grows by what each forward pass adds.

    Copies made by `fork` and `join` share what is stored and copy it when they first add to it, so several
    continuations of one prefix never see each other. Not for training: gradients do not flow into it.
    """

    def __init__(self, sequences: int) -> None:
        self.sequences = sequences
        self._layers: dict[int, list[_Stored | None]] = {}

    def fork(self) -> KeyValueCache:
        """Returns a cache that continues from this one and leaves it as it is."""
        return KeyValueCache.join([self])

    def keep(self, sequences: Sequence[int]) -> KeyValueCache:
        """Returns a cache of some of the sequences, in the given order; this one must not be used any more."""
        new = KeyValueCache(len(sequences))
        new._layers = {layer: [stored[i] for i in sequences] for layer, stored in self._layers.items()}
        return new

    @staticmethod
    def join(caches: Sequence[KeyValueCache]) -> KeyValueCache:
        """Returns one cache that continues from the sequences of several, in order, and leaves them as they are."""
        new = KeyValueCache(sum(cache.sequences for cache in caches))
        for layer in dict.fromkeys(layer for cache in caches for layer in cache._layers):
            # A cache may still be empty.
            rows = (cache._layers.get(layer, [None] * cache.sequences) for cache in caches)
            new._layers[layer] = [stored.borrowed() if stored else None for row in rows for stored in row]
        return new

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forgets what came after so many tokens of each sequence, and keeps the room it took."""
        for stored in self._layers.values():
            for one, length in zip(stored, lengths, strict=True):
                if one:
                    one.length = length

    def length(self, sequence: int) -> int:
        """Number of tokens held for a sequence."""
        for stored in self._layers.values():
            held = stored[sequence]
            return held.length if held else 0
        return 0

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values held."""
        held = [one for stored in self._layers.values() for one in stored if one]
        return sum(2 * one.keys[:, : one.length].numel() * one.keys.element_size() for one in held)

    def extend(
        self, layer: int, sequence: int, key: Tensor, value: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Adds keys and values `[K, T, D]` at `positions [T]`; returns all of them `[K, C, D]`, `[C]`."""
        stored = self._layers.setdefault(layer, [None] * self.sequences)
        held = stored[sequence]
        if held is None:
            held = stored[sequence] = _Stored(key, value, positions, key.shape[1], owned=False)
        else:
            held.append(key, value, positions)
        return held.keys[:, : held.length], held.values[:, : held.length], held.positions[: held.length]


class LastTokenAttention:
    """How the last token of a prompt shares its attention out among some keys, as the mean of all heads of some layers.

    Each head's attention to all other keys is left out: what it gives to these sums to 1.

    Args:
        keys: which, by their place among all keys of the sequence, `[M]`.
        layers: which.
    """

    def __init__(self, keys: Tensor, layers: range) -> None:
        self._keys, self._layers = keys, layers
        self._first, self._last = int(keys[0]), int(keys[-1])
        self._sum: Tensor | None = None
        self._seen = 0

    def take(
        self, layer: int, query: Tensor, key: Tensor, scale: float, *, window: int | None, softcap: float | None
    ) -> None:
        """Looks at a layer, if it counts, the keys are there, and its sliding window holds them all.

        Args:
            layer: which.
            query: `[H, T, D]`, those of the last tokens of the sequence.
            key: `[K, C, D]`, all so far.
            scale: factor of the scores.
            window: sliding window of the layer in tokens, None for full attention.
            softcap: tanh cap of the scores, None for none.
        """
        count = key.shape[1]
        if layer not in self._layers or count <= self._last:
            return
        if window is not None and count - 1 - self._first >= window:
            return
        grouped = query[:, -1].reshape(key.shape[0], -1, query.shape[-1]).float()
        scores = torch.bmm(grouped, key[:, self._keys.to(key.device)].float().transpose(1, 2)) * scale
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        given = torch.softmax(scores, -1).mean((0, 1))
        self._sum = given if self._sum is None else self._sum + given
        self._seen += 1

    def shares(self) -> Tensor | None:
        """Share of each key, `[M]` float32, which sum to 1; None if no layer that counts sees them all."""
        return None if self._sum is None else self._sum / self._seen


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the sequences of a packed row lie and what each of their tokens sees."""

    lengths: tuple[int, ...]
    """Number of tokens of each sequence; their sum is the length of the row."""
    positions: Tensor
    """Position id of every token of the row, `[N]` int64."""
    visibility: Visibility | tuple[Tensor | Branches, ...]
    """`bidirectional`, `causal`, or for each sequence what it is that forks in `Branches`, or a boolean mask `[T, C]`,
    True where query (row) sees key (column)."""
    cache: KeyValueCache | None = None
    """Keys and values that came before; extended by the pass."""
    backend: Backend = "auto"
    """`eager` (matrix products), `sdpa` (PyTorch's fused attention), or what is fastest for what is seen."""
    placed: PlacedEntries | None = None
    """Keys and values that stand among those of the row; for training, where there is no cache."""
    captured: CapturedEntries | None = None
    """Given the keys and values of every layer."""
    watched: LastTokenAttention | None = None
    """Given queries and keys of every layer, of a row that is one sequence with a cache."""
    _additive: dict[Any, Tensor | None] = field(default_factory=dict)
    _chunks: dict[int | None, list[list[Chunk]]] = field(default_factory=dict)

    @staticmethod
    def of(lengths: Sequence[int], visibility: Visibility, *, device: torch.device | str | None = None) -> Layout:
        """Lays sequences of the given lengths side by side, the positions of each counting from 0."""
        positions = torch.cat([torch.arange(n, device=device) for n in lengths])
        return Layout(tuple(lengths), positions, visibility)

    @property
    def keys(self) -> tuple[int, ...]:
        """Number of keys of each sequence, those of a cache not counted."""
        return self.lengths if self.placed is None else self.placed.counts

    def additive(
        self, index: int, keys: Tensor, queries: Tensor, window: int | None, dtype: torch.dtype
    ) -> Tensor | None:
        """Additive mask `[T, C]` of a sequence, None where every query sees every key.

        Computed once a pass and layer kind, then reused by all layers.

        Args:
            index: which sequence.
            keys: position ids of its keys, `[C]`.
            queries: position ids of its queries, `[T]`.
            window: sliding window of the layer in tokens, None for full attention.
            dtype: of the scores.
        """
        at = (index, window, dtype)
        if at not in self._additive:
            self._additive[at] = self._build(index, keys, queries, window, dtype)
        return self._additive[at]

    def chunks(self, window: int | None) -> list[list[Chunk]]:
        """Chunks of each sequence, nothing where they do not all fork or a window hides more.

        Args:
            window: sliding window of the layer in tokens, None for full attention.
        """
        if window not in self._chunks:
            sees = () if isinstance(self.visibility, str) else self.visibility
            forks = [one for one in sees if isinstance(one, Branches)]
            plain = len(forks) == len(self.lengths) and (window is None or int(self.positions.max()) < window)
            there = [(fork.tokens, fork.keys) for fork in forks]
            assert not plain or there == list(zip(self.lengths, self.keys, strict=True)), "as long as what forks in it"
            self._chunks[window] = [fork.chunks(self.positions.device) for fork in forks] if plain else []
        return self._chunks[window]

    def plainly_causal(self, columns: int, rows: int, window: int | None) -> bool:
        """Whether a sequence needs no mask but the triangle, which fused attention knows without one.

        Half the time of an explicit mask at 2,048 tokens on a CPU, where the kernel skips what is not seen.

        Args:
            columns: number of its keys, the cached ones included.
            rows: number of its queries.
            window: sliding window of the layer in tokens, None for full attention.
        """
        return self.visibility == "causal" and rows == columns and (window is None or columns <= window)

    def _build(
        self, index: int, keys: Tensor, queries: Tensor, window: int | None, dtype: torch.dtype
    ) -> Tensor | None:
        rows, columns = queries.shape[0], keys.shape[0]
        if window is not None and columns <= window:
            window = None
        seen: Tensor | None = None
        if not isinstance(self.visibility, str):
            sees = self.visibility[index]
            seen = sees.mask(keys.device) if isinstance(sees, Branches) else sees
        elif self.visibility == "causal" and rows > 1:
            order = torch.arange(columns, device=keys.device)
            seen = order[columns - rows :, None] >= order[None, :]
        if window is not None:
            near = (queries[:, None] - keys[None, :]).abs() < window
            seen = near if seen is None else seen & near
        if seen is None:
            return None
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


class _EagerAttention(torch.autograd.Function):
    """Softmax attention of one packed row by matrix products, all sequences in one node of the graph.

    1.4 to 1.6 times as fast as PyTorch's flash kernel, forward and backward, at 200 to 400 tokens on a CPU; keys and
    values are not repeated for grouped queries.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: Any, masks: Any, scale: float) -> Tensor:
        heads, n, width = query.shape
        kv = key.shape[0]
        out = query.new_empty(heads, n, value.shape[-1])
        saved = []
        start = 0
        for length, mask in zip(lengths, masks, strict=True):
            part = slice(start, start + length)
            grouped = query[:, part].reshape(kv, -1, width)
            weights = torch.bmm(grouped, key[:, part].transpose(1, 2)).mul_(scale)
            if mask is not None:
                weights.view(kv, -1, length, length).add_(mask)
            weights = torch.softmax(weights, -1)
            out[:, part] = torch.bmm(weights, value[:, part]).view(heads, length, -1)
            saved += [grouped, weights]
            start += length
        ctx.save_for_backward(key, value, *saved)
        ctx.lengths, ctx.scale = lengths, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        key, value, *saved = ctx.saved_tensors
        (d_out,) = grads
        kv, _, width = key.shape
        d_query = d_out.new_empty(d_out.shape[0], d_out.shape[1], width)
        d_key, d_value = torch.empty_like(key), torch.empty_like(value)
        start = 0
        for i, length in enumerate(ctx.lengths):
            part = slice(start, start + length)
            grouped, weights = saved[2 * i], saved[2 * i + 1]
            d_part = d_out[:, part].reshape(kv, -1, value.shape[-1])
            d_value[:, part] = torch.bmm(weights.transpose(1, 2), d_part)
            d_weights = torch.bmm(d_part, value[:, part].transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype).mul_(ctx.scale)
            d_query[:, part] = torch.bmm(d_scores, key[:, part]).view(-1, length, width)
            d_key[:, part] = torch.bmm(d_scores.transpose(1, 2), grouped)
            start += length
        return d_query, d_key, d_value, None, None, None


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, *, causal: bool) -> Tensor:
    """PyTorch's attention of one sequence: `query [H, T, D]`, `key, value [K, C, D]`, `mask [T, C]` -> `[H, T, D]`.

    A single query's heads that share keys are rows over them: `enable_gqa` repeats keys and values, which a step of
    decoding does little else than read (a fifth of the time at 250 keys and more on a CPU).
    """
    heads, rows, width = query.shape
    grouped = heads != key.shape[0]
    if grouped and rows == 1:
        query = query.view(key.shape[0], -1, width)
        mask = None if mask is None else mask.expand(query.shape[1], -1)
        return _fused(query, key, value, mask, scale, causal=False).view(heads, 1, -1)
    return F.scaled_dot_product_attention(
        query[None], key[None], value[None], attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
    )[0]


def _by_products(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    """The same by matrix products, with a cap of the scores if there is one."""
    heads, rows, width = query.shape
    grouped = query.reshape(key.shape[0], -1, width)
    scores = torch.bmm(grouped, key.transpose(1, 2)).mul(scale).view(heads, rows, -1)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    weights = torch.softmax(scores, -1).view(key.shape[0], -1, key.shape[1])
    return torch.bmm(weights, value).view(heads, rows, -1)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """Attention of a packed row, in the signature of transformers' attention interface.

    Args:
        module: the attention layer; its `layer_idx` names the layer in the cache.
        query: `[1, H, N, D]`.
        key: `[1, K, N, D]`.
        value: `[1, K, N, D]`.
        attention_mask: must be None; what is visible is in `layout`.
        scaling: factor of the scores, 1 / sqrt(D) if None.
        dropout: must be 0.
        layout: the sequences of the row.
        sliding_window: of this layer, in tokens, None for full attention.
        softcap: tanh cap of the scores (Gemma 2), None for none.

    Returns:
        `[1, N, H, D]` and None.

    Raises:
        InputError: without a layout, or with attention dropout.
    """
    if layout is None or attention_mask is not None or dropout:
        raise InputError(
            "packed attention needs a Layout, no attention_mask and no attention dropout; "
            "call it through latentpress.backbone.Backbone"
        )
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    q, k, v = query[0], key[0], value[0]
    if layout.captured is not None:
        layout.captured.take(k, v)
    if layout.placed is not None:
        k, v = layout.placed.beside(int(module.layer_idx), k, v)  # type: ignore[arg-type]
    by_chunks = layout.backend == "auto" and q.device.type == "cpu" and layout.cache is None and softcap is None
    if by_chunks and (chunks := layout.chunks(sliding_window)):
        counts = list(zip(layout.lengths, layout.keys, strict=True))
        out: Tensor = BranchedAttention.apply(q, k, v, counts, chunks, scale)  # type: ignore[no-untyped-call]
        return out.transpose(0, 1)[None].contiguous(), None
    longest = max(layout.lengths)
    eager = layout.backend == "eager" or (
        layout.backend == "auto" and q.device.type == "cpu" and longest <= _EAGER_TOKENS and layout.cache is None
    )
    queries = layout.positions.split(layout.lengths)
    if eager and layout.cache is None and layout.placed is None and softcap is None:
        masks = [layout.additive(i, at, at, sliding_window, q.dtype) for i, at in enumerate(queries)]
        out = _EagerAttention.apply(q, k, v, layout.lengths, masks, scale)  # type: ignore[no-untyped-call]
        return out.transpose(0, 1)[None].contiguous(), None
    keys = queries if layout.placed is None else layout.placed.positions.split(layout.keys)
    parts = []
    fused = softcap is None and not eager
    for i, (a, b, c) in enumerate(
        zip(q.split(layout.lengths, 1), k.split(layout.keys, 1), v.split(layout.keys, 1), strict=True)
    ):
        if not layout.lengths[i]:
            continue  # a prompt of a batch that has nothing more to be read
        at = keys[i]
        if layout.cache is not None:
            b, c, at = layout.cache.extend(int(module.layer_idx), i, b, c, at)  # type: ignore[arg-type]
            if layout.watched is not None:
                layer = int(module.layer_idx)  # type: ignore[arg-type]
                layout.watched.take(layer, a, b, scale, window=sliding_window, softcap=softcap)
        causal = fused and layout.plainly_causal(b.shape[1], a.shape[1], sliding_window)
        mask = None if causal else layout.additive(i, at, queries[i], sliding_window, a.dtype)
        if fused:
            parts.append(_fused(a, b, c, mask, scale, causal=causal))
        else:
            parts.append(_by_products(a, b, c, mask, scale, softcap))
    return torch.cat(parts, 1).transpose(0, 1)[None].contiguous(), None


AttentionInterface.register(PACKED, packed_attention)
