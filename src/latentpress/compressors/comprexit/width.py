"""Width-wise transmission: the anchors of a segment are carried into its slots by optimal transport.

Tokens send, slots receive (arXiv 2602.03784): a slot's receiver is the mean anchor of its stretch of the segment, the
utility of a pair is the cosine of both after one projection, and the plan of least cost under the tokens' learned
capacities and the slots' equal ones says how much of each token goes where.

    U_tk = cos(W_u LN_u(a_t), W_u LN_u(r_k)),  C = 1 - U
    p = (1 - q) softmax(<w_p, LN_p(a)> + b) + q uniform,  b_k = 1 / K
    z_k = MLP( (sum_t P_tk W_g LN_g(a_t)) / b_k )

W_g and the affine part of LN_g are linear, so tokens are carried first and the few slots projected: their cost falls
with the ratio. The three norms normalise the anchors once.

Shape letters: G segments, W tokens of a segment, K slots of a segment, N tokens and M slots of all, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentpress.compressors.comprexit.sinkhorn import Gradient, transport_plan


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """How the tokens of a packed row are laid into segments, and those into slots; by true tokens, never padding."""

    tokens: Tensor
    """Tokens of each segment, `[G]`."""
    slots: Tensor
    """Slots of each segment, `[G]`: ceil(tokens / ratio)."""
    counts: tuple[int, ...]
    """Slots of each text."""
    spans: Tensor
    """Stretch of its text that each slot's receiver averages, `[M, 2]` int64."""
    places: tuple[tuple[int, int, int], ...]
    """Text, first token and end of each segment, counted from the start of its text."""
    most_tokens: int
    """Tokens of the longest segment, W."""
    most_slots: int
    """Slots of the segment that has most, K."""

    @staticmethod
    def of(lengths: Sequence[int], ratios: Sequence[int], segment: int, device: torch.device) -> Segments:
        """Lays texts into segments of so many tokens; the last of a text may be shorter.

        Args:
            lengths: tokens of each text.
            ratios: one a segment, end to end.
            segment: most tokens of a segment.
            device: of the indices.
        """
        needed = sum(-(-length // segment) for length in lengths)
        assert len(ratios) == needed, f"{len(ratios)} ratios for {needed} segments"
        chosen = iter(ratios)
        sizes, slots, counts, places = [], [], [], []
        spans: list[tuple[int, int]] = []
        for text, length in enumerate(lengths):
            counts.append(0)
            for start in range(0, length, segment):
                size = min(segment, length - start)
                count = -(-size // next(chosen))
                quotient, rest = divmod(size, count)
                edges = [start + k * quotient + min(k, rest) for k in range(count + 1)]
                spans += itertools.pairwise(edges)
                places.append((text, start, start + size))
                sizes.append(size)
                slots.append(count)
                counts[-1] += count
        return Segments(
            torch.tensor(sizes, device=device),
            torch.tensor(slots, device=device),
            tuple(counts),
            torch.tensor(spans, device=device),
            tuple(places),
            max(sizes),
            max(slots),
        )

    @property
    def tokens_there(self) -> Tensor:
        """Which places of each segment hold a token, `[G, W]` bool; in order, they are the tokens of the row."""
        return torch.arange(self.most_tokens, device=self.tokens.device) < self.tokens[:, None]

    @property
    def slots_there(self) -> Tensor:
        """Which places hold a slot, `[G, K]` bool; in order, they are all slots."""
        return torch.arange(self.most_slots, device=self.slots.device) < self.slots[:, None]

    @property
    def shuffled(self) -> Tensor:
        """Index of each slot's receiver in an order of their own within each segment, `[M]` int64; always the same.

        No receiver keeps its slot, but where there is only one: a shuffled order is moved along by one against another.
        """
        parts, before = [], 0
        for count in self.slots.tolist():
            order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
            part = torch.empty_like(order)
            part[order] = order.roll(1)
            parts.append(part + before)
            before += count
        return torch.cat(parts).to(self.slots.device)

    @property
    def slot_of(self) -> Tensor:
        """Slot whose receiver averages each token, `[N]` int64: near-equal stretches, the first ones longer."""
        sizes = self.spans[:, 1] - self.spans[:, 0]
        return torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)

    def away(self, there: Tensor) -> Tensor:
        """How many slots lie between each slot of a segment and that of each token, `[G, W, K]` int64, 0 for its own.

        Args:
            there: `tokens_there`.
        """
        first = self.slots.cumsum(0) - self.slots
        own = _laid(self.slot_of[:, None], there) - first[:, None, None]  # [G, W, 1]
        return (own - torch.arange(self.most_slots, device=own.device)).abs()


@dataclass(frozen=True, slots=True, eq=False)
class Transmission:
    """What went where, for inspection."""

    plan: Tensor
    """`[G, W, K]`, float32."""
    capacity: Tensor
    """Capacity of each token, `[G, W]`, float32; each segment's sum to 1."""


class WidthTransmission(nn.Module):
    """Slots from anchors.

    Args:
        width: D of the anchors.
        out: width of the slots.
        query_width: width of the projected pair.
        epsilon: entropic regularisation.
        iterations: Sinkhorn iterations.
        uniform: share q of the senders' capacity that all tokens have alike.
        gradient: see `transport_plan`.
        stretches: no transport: each slot attends to the tokens of its own stretch alone, by utility / epsilon.
        shuffled: the receivers of a segment in another, fixed order.
        locality: beyond the paper: cost added to a pair of a token and the slot of another stretch, half of it to the
            slots next to the token's own.
    """

    def __init__(
        self,
        width: int,
        out: int,
        *,
        query_width: int = 256,
        epsilon: float = 0.1,
        iterations: int = 30,
        uniform: float = 0.05,
        gradient: Gradient = "iterations",
        stretches: bool = False,
        shuffled: bool = False,
        locality: float = 0.0,
    ) -> None:
        super().__init__()
        self.utility_norm = nn.LayerNorm(width)
        self.utility = nn.Linear(width, query_width)
        self.capacity_norm = nn.LayerNorm(width)
        self.capacity = nn.Linear(width, 1)
        nn.init.zeros_(self.capacity.weight)
        nn.init.zeros_(self.capacity.bias)
        self.value_norm = nn.LayerNorm(width)
        self.value = nn.Linear(width, width)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, out)
        for layer in (self.up, self.down):
            nn.init.xavier_uniform_(layer.weight, gain=0.4)
            nn.init.zeros_(layer.bias)
        self.epsilon, self.iterations, self.uniform = epsilon, iterations, uniform
        self.stretches, self.shuffled, self.locality = stretches, shuffled, locality
        self.gradient: Gradient = gradient
        if stretches:  # every slot is filled from its own stretch, whatever its tokens would send
            self.capacity.requires_grad_(False)
            self.capacity_norm.requires_grad_(False)

    def forward(self, anchors: Tensor, segments: Segments) -> tuple[Tensor, Transmission]:
        """Slots of all segments, end to end.

        Args:
            anchors: `[N, D]`.
            segments: how the tokens lie in segments.

        Returns:
            Slots `[M, out]` in the anchors' type, and what was transmitted.
        """
        dtype = anchors.dtype
        exact = torch.promote_types(dtype, torch.float32)
        there, open_slots = segments.tokens_there, segments.slots_there
        away = segments.away(there)
        inside = (away == 0) & there.unsqueeze(2)
        sums = torch.bmm(inside.transpose(1, 2).to(dtype), _laid(anchors, there))[open_slots]
        receivers = (sums / (segments.spans[:, 1] - segments.spans[:, 0])[:, None]).to(dtype)
        if self.shuffled:
            receivers = receivers[segments.shuffled]
        plain = F.layer_norm(anchors, anchors.shape[1:])
        taken = _affine(F.layer_norm(receivers, receivers.shape[1:]), self.utility_norm, self.utility)
        sent = _affine(plain, self.utility_norm, self.utility).to(exact)
        lengths = torch.linalg.vector_norm(sent, dim=1, keepdim=True).clamp_min(1e-12)  # divided by after the product
        inner = torch.bmm(_laid(sent, there), _laid(F.normalize(taken.to(exact), dim=1), open_slots).transpose(1, 2))
        cost = 1 - inner / _laid(lengths, there).masked_fill(~there.unsqueeze(2), 1.0)
        score = _laid(_affine(plain, self.capacity_norm, self.capacity).to(exact), there)[..., 0]
        share = torch.softmax(score.masked_fill(~there, -torch.inf), 1)
        senders = (1 - self.uniform) * share + self.uniform * there / segments.tokens[:, None]
        capacity = open_slots.to(exact) / segments.slots[:, None]
        if self.locality:
            cost = cost + self.locality * (away.to(exact) / 2).clamp(max=1)
        if self.stretches:
            scores = (cost / -self.epsilon).masked_fill(~inside, torch.finfo(exact).min)
            plan = torch.softmax(scores, 1) * inside * capacity.unsqueeze(1)
        else:
            plan = transport_plan(
                cost,
                senders,
                capacity,
                epsilon=self.epsilon,
                iterations=self.iterations,
                gradient=self.gradient,
                most=2 + self.locality,
            )
        received = plan * segments.slots[:, None, None]
        carried = torch.bmm(received.transpose(1, 2).to(dtype), _laid(plain, there))[open_slots]
        mass = received.sum(1)[open_slots].to(dtype)[:, None]
        norm, value = self.value_norm, self.value
        moved = carried * norm.weight.to(dtype) + mass * norm.bias.to(dtype)
        slots = F.linear(moved, value.weight.to(dtype)) + mass * value.bias.to(dtype)
        hidden = F.gelu(F.linear(slots, self.up.weight.to(dtype), self.up.bias.to(dtype)))
        return F.linear(hidden, self.down.weight.to(dtype), self.down.bias.to(dtype)), Transmission(plan, senders)


def _affine(plain: Tensor, norm: nn.LayerNorm, layer: nn.Linear) -> Tensor:
    """`layer(norm(x))` from x normalised: the affine part of the norm goes into the layer's weights."""
    weight = layer.weight * norm.weight
    bias = torch.addmv(layer.bias, layer.weight, norm.bias)
    return F.linear(plain, weight.to(plain.dtype), bias.to(plain.dtype))


def _laid(values: Tensor, there: Tensor) -> Tensor:
    """Rows `[N, D]` laid into the places that there are, zero elsewhere: `[G, W, D]`."""
    if len(values) == there.numel():
        return values.view(*there.shape, -1)
    empty = values.new_zeros(*there.shape, values.shape[-1])
    return empty.masked_scatter(there.unsqueeze(2), values)
