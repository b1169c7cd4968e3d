"""Depth-wise transmission: each token's anchor is drawn from its states in all layers (arXiv 2602.03784, equation 6).

    c_t = sum_l softmax(w)_l h_t^l
    a_t = sum_l softmax_l( <W_q c_t, W_k h_t^l + e_l> / (sqrt(d) tau) ) W_v h_t^l

As written, keys and values are two tensors of the size of all states. Neither is needed: W_v is linear, so the states
are mixed first and projected once, and `<q, W_k h> = <W_k^T q, h>`. What is left of the layers is three passes over the
states forward and three backward, each a weighted sum over layers or inner products with one vector a token. The states
are frozen, so nothing of their size is made, kept or returned.

The norm of a state grows with the layer (SmolLM2-135M: from 3 to 700), so at the start few layers speak, by chance.
`normalise` scales them alike; measured in docs/experiments.md.

Shape letters: L layers (the embedding output is the first), N tokens of a packed row, D width, d query width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TOKENS_AT_ONCE = 128  # what is made of the states on the way is of so many tokens, and stays in the cache


class _MixLayers(torch.autograd.Function):
    """`sum_l weights_l s_tl h_t^l` of frozen states, one weight a layer for all tokens.

    `states [L, N, D]`, `weights [L]`, `scales [L, N]` or None for 1 -> `[N, D]`.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weights: Tensor, scales: Tensor | None) -> Tensor:
        ctx.save_for_backward(states, scales)
        ctx.dtype = weights.dtype
        if scales is not None:
            return _weighted(states, weights.unsqueeze(1) * scales)
        layers, tokens, width = states.shape
        return (weights.to(states.dtype)[None] @ states.view(layers, -1)).view(tokens, width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        states, scales = ctx.saved_tensors
        grad = grads[0].to(states.dtype)
        if scales is None:  # of one column: as a vector it takes three times as long
            inner = states.view(len(states), -1) @ grad.reshape(-1, 1)
        else:
            inner = (_inner(states, grad) * scales).sum(1)
        return None, inner.flatten().to(ctx.dtype), None


class _AttendLayers(torch.autograd.Function):
    """`sum_l softmax_l(<u_t, s_tl h_t^l> + r_tl) s_tl h_t^l` of frozen states.

    `states [L, N, D]`, `queries [N, D]`, `offsets [L, N]` float32, `scales [L, N]` or None for 1 -> `[N, D]`, and the
    weights `[L, N]`, which are all that is kept for the way back.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, queries: Tensor, offsets: Tensor, scales: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        weights = torch.softmax(_scaled(_inner(states, queries), scales) + offsets, 0)
        ctx.save_for_backward(states, weights, scales)
        ctx.mark_non_differentiable(weights)
        return _weighted(states, _scaled(weights, scales)), weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        states, weights, scales = ctx.saved_tensors
        d_weights = _scaled(_inner(states, grads[0].to(states.dtype)), scales)
        d_scores = weights * (d_weights - (weights * d_weights).sum(0))
        return None, _weighted(states, _scaled(d_scores, scales)), d_scores, None


def _scaled(values: Tensor, scales: Tensor | None) -> Tensor:
    return values if scales is None else values * scales


def _inner(states: Tensor, vectors: Tensor) -> Tensor:
    """`<h_t^l, x_t>`: `[L, N, D]`, `[N, D]` -> `[L, N]`, float32 or finer.

    A block at a time: the products of all tokens would be as large as the states.
    """
    layers, tokens, width = states.shape
    out = states.new_empty(layers, tokens, dtype=torch.promote_types(states.dtype, torch.float32))
    products = states.new_empty(layers, min(tokens, _TOKENS_AT_ONCE), width)
    for start in range(0, tokens, _TOKENS_AT_ONCE):
        at = slice(start, start + _TOKENS_AT_ONCE)
        block = products[:, : len(vectors[at])]
        torch.mul(states[:, at], vectors[at], out=block)
        out[:, at] = block.sum(2)
    return out


def _weighted(states: Tensor, weights: Tensor) -> Tensor:
    """`sum_l w_lt h_t^l`: `[L, N, D]`, `[L, N]` -> `[N, D]`."""
    rows = weights.t().unsqueeze(1).to(states.dtype)
    out = states.new_empty(states.shape[1], 1, states.shape[2])
    for start in range(0, len(out), _TOKENS_AT_ONCE):  # the product copies what it reads: a block at a time
        at = slice(start, start + _TOKENS_AT_ONCE)
        torch.bmm(rows[at], states[:, at].transpose(0, 1), out=out[at])
    return out[:, 0]


class DepthTransmission(nn.Module):
    """Token anchors from the states of all layers.

    Args:
        width: D of the states.
        layers: L, the embedding output included.
        query_width: d of queries and keys.
        temperature: tau.
        normalise: beyond the paper: each state is divided by its root mean square, before it is weighed and drawn from.
    """

    def __init__(
        self, width: int, layers: int, *, query_width: int = 256, temperature: float = 0.7, normalise: bool = False
    ) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(layers))
        self.query = nn.Linear(width, query_width)
        self.key = nn.Linear(width, query_width)
        self.value = nn.Linear(width, width)
        self.layer = nn.Parameter(torch.randn(layers, query_width) * 0.02)
        self.normalise = normalise
        self.scale = 1 / (math.sqrt(query_width) * temperature)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Anchors of the tokens.

        Args:
            states: `[L, N, D]`, frozen.

        Returns:
            Anchors `[N, D]` in the states' type, and the weight of each layer for each token, `[L, N]` (for inspection,
            without gradient).
        """
        dtype = states.dtype
        scales = _inverse_rms(states) if self.normalise else None
        context = _MixLayers.apply(states, torch.softmax(self.mix, 0), scales)  # type: ignore[no-untyped-call]
        query = F.linear(context, self.query.weight.to(dtype), self.query.bias.to(dtype)) * self.scale
        exact = torch.promote_types(dtype, torch.float32)
        offsets = F.linear(query, (self.layer + self.key.bias).to(dtype)).t().to(exact)
        inner = query @ self.key.weight.to(dtype)
        mixed, weights = _AttendLayers.apply(states, inner, offsets, scales)  # type: ignore[no-untyped-call]
        return F.linear(mixed, self.value.weight.to(dtype), self.value.bias.to(dtype)), weights


def _inverse_rms(states: Tensor) -> Tensor:
    """`[L, N, D]` -> one over the root mean square of each state, `[L, N]` float32 or finer."""
    exact = torch.promote_types(states.dtype, torch.float32)
    squares = [layer.square().mean(1, dtype=exact) for layer in states]
    return (torch.stack(squares) + 1e-6).rsqrt()
