"""Latents as entries of the decoder's key/value cache: what attention needs to see them, and how they are turned.

A rotary embedding turns each key by its position (Su et al. 2021, arXiv 2104.09864, eq. 34), so a key can be turned
back, pooled with its neighbours, and turned to where its latent is placed in a prompt. Latents are therefore kept
without a position, one row a latent: of every layer and every key/value head the key, then the value.

Shape letters: N tokens of a packed row, M latents, L layers, K key/value heads, D head width, W = L * K * 2 * D.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from latentpress.errors import BaseModelError

# Architectures with one rotary embedding for all layers that turns the two halves of a whole head, and no other.
_TURNED = {f"{name}ForCausalLM" for name in ("Llama", "Qwen2", "Qwen3", "Mistral")}


class Turns(NamedTuple):
    """What a rotary embedding turns keys by."""

    cos: Tensor
    """`[N, D]`, float32 or finer."""
    sin: Tensor
    """`[N, D]`."""
    scale: float
    """Factor that both carry."""


class PlacedEntries:
    """Keys and values that stand among those of a packed row without being computed in it.

    No dataclass, for the reason that `CapturedEntries` is none.

    Args:
        keys: of each layer, at their positions, `[K, M, D]`.
        values: of each layer, `[K, M, D]`.
        order: for each key of the row, its index in `cat(keys of tokens, keys of latents)`, `[N + M]`.
        counts: keys of each sequence, tokens and latents.
        positions: position id of every key of the row, `[N + M]`.
    """

    __slots__ = ("counts", "keys", "order", "positions", "values")

    def __init__(
        self,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        order: Tensor,
        counts: tuple[int, ...],
        positions: Tensor,
    ) -> None:
        self.keys, self.values = tuple(keys), tuple(values)
        self.order, self.counts, self.positions = order, counts, positions

    def beside(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values `[K, N, D]` of a row's tokens with the latents' among them, `[K, N + M, D]`."""
        both = ((key, self.keys[layer]), (value, self.values[layer]))
        keys, values = (torch.cat(pair, 1).index_select(1, self.order) for pair in both)
        return keys, values


class CapturedEntries:
    """Keys and values of a pass, taken from each layer's attention in turn and freed of their positions.

    No dataclass: FSDP gives each layer a copy of those that hold tensors with a gradient.

    Args:
        rotation: of the model that runs.
        positions: position id of every token, `[N]`.
    """

    __slots__ = ("_layers", "_positions", "_rotation", "_turns")

    def __init__(self, rotation: KeyRotation, positions: Tensor) -> None:
        self._rotation, self._positions = rotation, positions
        self._turns: Turns | None = None
        self._layers: list[Tensor] = []

    def take(self, key: Tensor, value: Tensor) -> None:
        """Adds those of the next layer, `[K, N, D]` each, the keys turned to their positions.

        Layer by layer, since turned back in float32 all layers at once would take several times the memory.
        """
        if self._turns is None:
            self._turns = self._rotation.turns(self._positions, key.dtype)
        key = self._rotation.turned_back(key, self._turns).to(value.dtype)
        self._layers.append(torch.cat((key, value), -1).transpose(0, 1))

    def entries(self) -> Tensor:
        """All of them, `[N, W]` in the type of the pass."""
        assert len(self._layers) == self._rotation.layers, "a key of every layer"
        return torch.stack(self._layers, 1).flatten(1)


class KeyRotation:
    """Turns keys of a model to positions and back.

    Args:
        body: the model without its output layer.
        config: its settings.
        kind: name of its class.

    Raises:
        BaseModelError: keys of such a model cannot be turned in this way.
    """

    def __init__(self, body: nn.Module, config: Any, kind: str) -> None:
        if kind not in _TURNED:
            listed = ", ".join(sorted(name.removesuffix("ForCausalLM") for name in _TURNED))
            raise BaseModelError(
                f"latents cannot be cache entries of a {kind}: its keys are not turned by one rotary embedding of "
                f"whole heads, as those of {listed} are; choose such a base model, or a compressor whose latents are "
                "input embeddings"
            )
        self._rotary: Any = body.rotary_emb
        self.layers = len(body.layers)  # type: ignore[arg-type]
        self.heads = int(config.num_key_value_heads)
        own = getattr(config, "head_dim", None)
        self.head_width = int(own or config.hidden_size // config.num_attention_heads)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Layers, heads, and numbers of a key and its value together; their product is the width W of a latent."""
        return self.layers, self.heads, 2 * self.head_width

    def turned_back(self, keys: Tensor, turns: Turns) -> Tensor:
        """Keys `[..., N, D]` without their positions, in float32 or finer."""
        cos, sin, scale = turns
        return (keys * cos - _half_turned(keys) * sin) / scale**2

    def placed(self, latents: Tensor, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values `[L, K, M, D]` of latents `[M, W]` at positions `[M]`."""
        split = latents.view(len(latents), self.layers, self.heads, 2 * self.head_width).permute(1, 2, 0, 3)
        keys, values = split.split(self.head_width, -1)
        cos, sin, _ = self.turns(positions, keys.dtype)
        return (keys * cos + _half_turned(keys) * sin).to(dtype), values.to(dtype)

    def turns(self, positions: Tensor, dtype: torch.dtype) -> Turns:
        """What turns keys of a type to positions `[N]`."""
        exact = torch.promote_types(dtype, torch.float32)
        cos, sin = self._rotary(positions.new_empty(0, dtype=exact), positions[None])
        return Turns(cos[0], sin[0], float(getattr(self._rotary, "attention_scaling", 1.0)))


def _half_turned(x: Tensor) -> Tensor:
    """A quarter turn of every pair that a rotary embedding turns: one number of each half of a head."""
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def place_entries(
    rotation: KeyRotation,
    latents: Sequence[Tensor],
    places: Sequence[tuple[Tensor, Tensor]],
    positions: Tensor,
    dtype: torch.dtype,
) -> PlacedEntries:
    """Puts latents among the keys of a packed row.

    Args:
        rotation: of the model that reads them.
        latents: of each sequence, `[M, W]`.
        places: for each sequence where its tokens `[T]` and its latents `[M]` stand among its keys, which for latents
            is their position id too.
        positions: position id of every token, `[N]`.
        dtype: of the model's keys.
    """
    at = torch.cat([own for _, own in places])
    keys, values = rotation.placed(torch.cat(list(latents)), at, dtype)
    order, counts, token, latent = [], [], 0, len(positions)
    for own, entries in places:
        index = torch.empty(len(own) + len(entries), dtype=torch.int64, device=at.device)
        index[own] = torch.arange(token, token + len(own), device=at.device)
        index[entries] = torch.arange(latent, latent + len(entries), device=at.device)
        token, latent = token + len(own), latent + len(entries)
        order.append(index)
        counts.append(len(index))
    row = torch.cat(order)
    return PlacedEntries(keys.unbind(0), values.unbind(0), row, tuple(counts), torch.cat((positions, at))[row])
