"""ComprExIT's formula written out plainly, one text at a time, in the type of what it is given (float64 in the tests).

Keys and values of every layer, segments and slots in loops, thirty steps of logsumexp under autograd: nothing here is
clever, so that it can be read beside the paper (arXiv 2602.03784, equation 6 and section 3).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from latentpress.compressors.comprexit.depth import DepthTransmission
from latentpress.compressors.comprexit.width import WidthTransmission


def anchors(depth: DepthTransmission, states: Tensor, *, temperature: float = 0.7) -> Tensor:
    """`[L, T, D]` -> `[T, D]`."""
    if depth.normalise:
        states = states / (states.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    mixed = (torch.softmax(depth.mix, 0)[:, None, None] * states).sum(0)
    query = depth.query(mixed)
    keys = depth.key(states) + depth.layer[:, None]
    values = depth.value(states)
    scores = (query * keys).sum(-1) / (math.sqrt(query.shape[-1]) * temperature)
    return (torch.softmax(scores, 0).unsqueeze(-1) * values).sum(0)


def sinkhorn(cost: Tensor, senders: Tensor, receivers: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Plan `[W, K]` of one segment by log-domain iterations, rows before columns, from v = 0."""
    log_kernel = -cost / epsilon
    v = torch.zeros_like(receivers)
    for _ in range(iterations):
        u = senders.log() - torch.logsumexp(log_kernel + v, 1)
        v = receivers.log() - torch.logsumexp(log_kernel + u[:, None], 0)
    return (u[:, None] + log_kernel + v).exp()


def slots(width: WidthTransmission, anchor: Tensor, ratio: int, segment: int) -> Tensor:
    """`[T, D]` -> `[M, out]`."""
    found = []
    for a in anchor.split(segment):
        tokens, count = len(a), math.ceil(len(a) / ratio)
        sizes = [tokens // count + (k < tokens % count) for k in range(count)]
        receivers = torch.stack([part.mean(0) for part in a.split(sizes)])
        sent = F.normalize(width.utility(width.utility_norm(a)), dim=-1)
        taken = F.normalize(width.utility(width.utility_norm(receivers)), dim=-1)
        score = width.capacity(width.capacity_norm(a))[:, 0]
        senders = (1 - width.uniform) * torch.softmax(score, 0) + width.uniform / tokens
        b = torch.full((count,), 1 / count, dtype=a.dtype)
        cost = 1 - sent @ taken.t()
        own = [k for k, size in enumerate(sizes) for _ in range(size)]
        for t in range(tokens if width.locality else 0):
            for k in range(count):
                cost[t, k] += width.locality * min(1.0, abs(own[t] - k) / 2)
        plan = sinkhorn(cost, senders, b, width.epsilon, width.iterations)
        carried = plan.t() @ width.value(width.value_norm(a)) / b[:, None]
        found.append(width.down(F.gelu(width.up(carried))))
    return torch.cat(found)
