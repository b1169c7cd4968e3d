# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"
"""The scaled iterations of `sinkhorn` as Triton kernels: a segment's kernel matrix stays on the chip for all of them.

A program is a segment. Forward it reads costs and capacities, iterates and writes the plan. Backward it iterates again,
writes the pairs (u, v) of all iterations to a scratch in device memory (19 kB a segment of 128 tokens and 32 slots),
and goes back through them with the gradient of the kernel matrix in registers, in float64 as `sinkhorn` does.

Never needed: it is used on CUDA where Triton is installed. The formulas are those of `_Scaled.gradients`.

Shape letters: G segments, W tokens of a segment, K slots of a segment, I iterations.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_MOST = 256 * 128  # places of a segment that fit a program's registers


def fits(cost: Tensor) -> bool:
    """Whether segments `[G, W, K]` are small enough for a program each."""
    blocks = _blocks(*cost.shape[1:])
    return blocks["W"] * blocks["K"] <= _MOST


def _blocks(width: int, slots: int) -> dict[str, int]:
    """Sizes of a program's matrix, powers of two."""
    return {"W": triton.next_power_of_2(width), "K": triton.next_power_of_2(slots)}


@triton.jit
def _iterate(
    cost, senders, receivers, plan, width, slots, less, iterations: tl.constexpr, W: tl.constexpr, K: tl.constexpr
):
    segment = tl.program_id(0)
    w, k = tl.arange(0, W), tl.arange(0, K)
    there = (w < width)[:, None] & (k < slots)[None, :]
    places = segment * width * slots + w[:, None] * slots + k[None, :]
    p = tl.load(senders + segment * width + w, mask=w < width, other=0.0)
    b = tl.load(receivers + segment * slots + k, mask=k < slots, other=0.0)
    kernel = tl.exp(tl.load(cost + places, mask=there, other=0.0) * less)
    kernel = tl.where((p > 0)[:, None] & (b > 0)[None, :], kernel, 0.0)
    no_sender, no_receiver = tl.where(p > 0, 0.0, 1.0), tl.where(b > 0, 0.0, 1.0)
    u, v = p, 1.0 - no_receiver
    for _ in range(iterations):
        u = p / (tl.sum(kernel * v[None, :], 1) + no_sender)
        v = b / (tl.sum(kernel * u[:, None], 0) + no_receiver)
    tl.store(plan + places, u[:, None] * kernel * v[None, :], mask=there)


@triton.jit
def _go_back(
    cost, senders, receivers, d_plan, us, vs, d_cost, d_senders, d_receivers,
    width, slots, less, iterations: tl.constexpr, W: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    segment = tl.program_id(0)
    w, k = tl.arange(0, W), tl.arange(0, K)
    in_w, in_k = w < width, k < slots
    there = in_w[:, None] & in_k[None, :]
    places = segment * width * slots + w[:, None] * slots + k[None, :]
    p = tl.load(senders + segment * width + w, mask=in_w, other=0.0).to(tl.float64)
    b = tl.load(receivers + segment * slots + k, mask=in_k, other=0.0).to(tl.float64)
    kernel = tl.exp(tl.load(cost + places, mask=there, other=0.0).to(tl.float64) * less)
    kernel = tl.where((p > 0)[:, None] & (b > 0)[None, :], kernel, 0.0)
    no_sender, no_receiver = tl.where(p > 0, 0.0, 1.0), tl.where(b > 0, 0.0, 1.0)
    start = (1.0 - no_receiver).to(tl.float64)  # as all that follows: a loop keeps the type of its variables
    u, v = p, start
    for i in range(iterations):
        u = p / (tl.sum(kernel * v[None, :], 1) + no_sender)
        v = b / (tl.sum(kernel * u[:, None], 0) + no_receiver)
        tl.store(us + (segment * iterations + i) * width + w, u, mask=in_w)
        tl.store(vs + (segment * iterations + i) * slots + k, v, mask=in_k)
    tl.debug_barrier()  # what one thread wrote another reads
    by_sender, by_receiver = (1.0 - no_sender) / (p + no_sender), (1.0 - no_receiver) / (b + no_receiver)
    through = tl.load(d_plan + places, mask=there, other=0.0).to(tl.float64) * u[:, None] * kernel * v[None, :]
    c = tl.sum(through, 0)
    last = tl.sum(through, 1)
    sum_a, sum_c = p * 0.0, b * 0.0
    d_kernel = kernel * 0.0
    for step in range(iterations):
        i = iterations - 1 - step
        u = tl.load(us + (segment * iterations + i) * width + w, mask=in_w, other=0.0)
        v = tl.load(vs + (segment * iterations + i) * slots + k, mask=in_k, other=0.0)
        before = tl.load(vs + (segment * iterations + i - 1) * slots + k, mask=in_k & (i > 0), other=0.0)
        before = tl.where(i > 0, before, start)
        sum_c += c
        y = c * v * by_receiver
        a = -u * tl.sum(kernel * y[None, :], 1) + tl.where(step == 0, last, 0.0)
        sum_a += a
        x = a * u * by_sender
        c = -before * tl.sum(kernel * x[:, None], 0)
        d_kernel += u[:, None] * y[None, :] + x[:, None] * before[None, :]
    tl.store(d_cost + places, ((d_kernel * kernel - through) * -less).to(tl.float32), mask=there)
    tl.store(d_senders + segment * width + w, (sum_a * by_sender).to(tl.float32), mask=in_w)
    tl.store(d_receivers + segment * slots + k, (sum_c * by_receiver).to(tl.float32), mask=in_k)


def on_chip_plan(cost: Tensor, senders: Tensor, receivers: Tensor, epsilon: float, iterations: int) -> Tensor:
    """`transport_plan` of float32 costs that lie within what scalings can hold; gradient of the iterations.

    Capacities are 0 or have an inverse in float32.
    """
    plan: Tensor = _Plan.apply(cost, senders, receivers, epsilon, iterations)  # type: ignore[no-untyped-call]
    return plan


class _Plan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cost: Tensor, senders: Tensor, receivers: Tensor, epsilon: float, iterations: int) -> Tensor:
        given = [one.contiguous() for one in (cost, senders, receivers)]
        ctx.save_for_backward(*given)
        ctx.epsilon, ctx.iterations = epsilon, iterations
        plan = torch.empty_like(given[0])
        segments, width, slots = plan.shape
        blocks = _blocks(width, slots)
        _iterate[(segments,)](*given, plan, width, slots, -1 / epsilon, iterations, **blocks)
        return plan

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        given = ctx.saved_tensors
        segments, width, slots = given[0].shape
        us, vs = (given[0].new_empty(segments, ctx.iterations, n, dtype=torch.float64) for n in (width, slots))
        found = [torch.empty_like(one) for one in given]
        blocks = _blocks(width, slots)
        _go_back[(segments,)](
            *given, grads[0].contiguous(), us, vs, *found, width, slots, -1 / ctx.epsilon, ctx.iterations, **blocks
        )
        return *found, None, None
