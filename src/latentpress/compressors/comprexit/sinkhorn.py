"""Entropic optimal transport by Sinkhorn's iterations, with the gradient of exactly these iterations.

The method (ComprExIT, arXiv 2602.03784) is a fixed number of iterations, thirty, which have not converged: its gradient
is theirs, not that of the converged plan. Backward runs the iterations again instead of keeping them, so what is saved
between the passes does not grow with their number; it does so in float64.

Shape letters: G segments, W tokens of a segment, K slots of a segment.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from latentpress.errors import InputError

Gradient = Literal["iterations", "implicit"]
# A scaling is at most the inverse of the smallest kernel entry: exp(60) is far within float32.
_SAFE_EXPONENT = 60.0
_SEGMENTS_AT_ONCE = 64  # in backward, which holds the iterates of so many segments


def transport_plan(
    cost: Tensor,
    senders: Tensor,
    receivers: Tensor,
    *,
    epsilon: float = 0.1,
    iterations: int = 30,
    gradient: Gradient = "iterations",
    most: float | None = None,
) -> Tensor:
    """Transmission plan between senders and receivers.

    `g = 0; repeat: f = eps (log p - LSE_k((g - C) / eps)), g = eps (log b - LSE_t((f - C) / eps))`, rows before
    columns, and `P = exp((f + g - C) / eps)`. Where the cost allows it the iterations run on `u = exp(f / eps)` and
    `v = exp(g / eps)`, which makes each two products of a matrix and a vector; else in the log domain.

    Args:
        cost: `[G, W, K]`, float32 or float64.
        senders: capacities p of the tokens, `[G, W]`, at least 0; a token of capacity 0 is not there.
        receivers: capacities b of the slots, `[G, K]`, likewise; both sum to the same in each segment.
        epsilon: entropic regularisation.
        iterations: at least 1.
        most: all costs lie between 0 and this, where it is known: nobody then has to look at them.
        gradient: of these iterations, or of the plan that they converge to (`implicit`, right only if they have).

    Returns:
        `[G, W, K]`; rows and columns without capacity are 0.

    Raises:
        InputError: no iteration, or an epsilon of 0 or less.
    """
    if iterations < 1 or not epsilon > 0:
        raise InputError(
            f"transport with iterations={iterations} and epsilon={epsilon:g} has no plan; "
            "give 1 iteration or more and an epsilon above 0"
        )
    least = torch.finfo(cost.dtype).tiny  # less has no inverse in the type, so it is not there, on either way
    senders, receivers = (one.masked_fill(one < least, 0.0) for one in (senders, receivers))
    safe = most is not None and most <= _SAFE_EXPONENT * epsilon
    if safe and gradient == "iterations" and cost.is_cuda and cost.dtype == torch.float32 and _has_triton():
        from latentpress.compressors.comprexit.on_chip import fits, on_chip_plan

        if fits(cost):
            return on_chip_plan(cost, senders, receivers, epsilon, iterations)
    result: Tensor = _Plan.apply(cost, senders, receivers, epsilon, iterations, gradient, safe)  # type: ignore[no-untyped-call]
    return result


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


class _Plan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        cost: Tensor,
        senders: Tensor,
        receivers: Tensor,
        epsilon: float,
        iterations: int,
        gradient: Gradient,
        safe: bool,
    ) -> Tensor:
        ctx.epsilon, ctx.iterations, ctx.gradient, ctx.safe = epsilon, iterations, gradient, safe
        problem = _problem(cost, senders, receivers, epsilon, safe)
        for u, v in problem.iterates(iterations):  # noqa: B007, the last pair is the plan's
            pass
        plan = problem.plan(u, v)
        ctx.save_for_backward(cost, senders, receivers, *([plan] if gradient == "implicit" else []))
        return plan

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        cost, senders, receivers, *kept = ctx.saved_tensors
        # The terms of a cost's gradient nearly cancel: in float32 it would be off by 2e-5 of the largest.
        dtype = cost.dtype if cost.device.type == "mps" else torch.float64
        parts = []
        for start in range(0, len(cost), _SEGMENTS_AT_ONCE):
            some = slice(start, start + _SEGMENTS_AT_ONCE)
            own = [one[some].to(dtype) for one in (cost, senders, receivers)]
            grad = grads[0][some].to(dtype)
            if kept:
                found = _implicit(kept[0][some].to(dtype), own[1], own[2], grad, ctx.epsilon)
            else:
                problem = _problem(own[0], own[1], own[2], ctx.epsilon, ctx.safe)
                found = problem.gradients(grad, ctx.iterations)
            parts.append([one.to(cost.dtype) for one in found])
        d_cost, d_senders, d_receivers = (torch.cat(part) for part in zip(*parts, strict=True))
        return d_cost, d_senders, d_receivers, None, None, None, None


def _problem(cost: Tensor, senders: Tensor, receivers: Tensor, epsilon: float, safe: bool) -> _Scaled | _Logarithmic:
    """The iterations in the domain that their costs allow; `safe` ones are known to allow scalings."""
    there = (senders > 0).unsqueeze(2) & (receivers > 0).unsqueeze(1)
    if safe:
        return _Scaled(cost, there, senders, receivers, epsilon)
    # A constant added to the cost of a segment changes its scalings, not its plan.
    low = cost.masked_fill(~there, torch.inf).amin((1, 2), keepdim=True)
    above = (cost - low).masked_fill(~there, 0.0)
    kind = _Scaled if float(above.amax()) <= _SAFE_EXPONENT * epsilon else _Logarithmic
    return kind(above, there, senders, receivers, epsilon)


class _Scaled:
    """The iterations on `u [G, 1, W]` and `v [G, 1, K]`: vector-matrix products with one kernel.

    Vectors are rows and the kernel is kept in both orders, as a vector times a contiguous matrix takes a quarter of the
    time of a matrix times a vector (measured on a CPU).
    """

    def __init__(self, cost: Tensor, there: Tensor, senders: Tensor, receivers: Tensor, epsilon: float) -> None:
        self.kernel = (cost / -epsilon).exp() * there
        self.across = self.kernel.transpose(1, 2).contiguous()
        self.senders, self.receivers, self.epsilon = senders.unsqueeze(1), receivers.unsqueeze(1), epsilon
        # What is not there receives nothing: it is divided by 1, not by 0.
        dtype = self.kernel.dtype
        self.no_sender, self.no_receiver = (self.senders == 0).to(dtype), (self.receivers == 0).to(dtype)

    def iterates(self, iterations: int) -> Iterator[tuple[Tensor, Tensor]]:
        """`u` and `v` after each iteration."""
        v = 1 - self.no_receiver
        for _ in range(iterations):
            u = self.senders / torch.baddbmm(self.no_sender, v, self.across)
            v = self.receivers / torch.baddbmm(self.no_receiver, u, self.kernel)
            yield u, v

    def plan(self, u: Tensor, v: Tensor) -> Tensor:
        """`P = diag(u) K diag(v)`."""
        return u.transpose(1, 2) * self.kernel * v

    def gradients(self, d_plan: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of cost and capacities, from last iteration to first.

        With a and c the gradients of `log u` and `log v`: `log v = log b - log(K^T u)` sends `y = c v / b` back through
        K, and `log u = log p - log(K v)` sends `x = a u / p`. Each step adds an outer product to the kernel's gradient;
        all of them are one matrix product at the end.
        """
        us, vs = (torch.stack(iterates) for iterates in zip(*self.iterates(iterations), strict=True))
        before = torch.cat(((1 - self.no_receiver)[None], vs[:-1]))
        by_sender = (1 - self.no_sender) / (self.senders + self.no_sender)
        by_receiver = (1 - self.no_receiver) / (self.receivers + self.no_receiver)
        u_shares, v_shares, less_u, less_before = us * by_sender, vs * by_receiver, -us, -before
        through = d_plan * self.plan(us[-1], vs[-1])
        at_u: list[Tensor] = []
        at_v = [through.sum(1, keepdim=True)]
        xs, ys = torch.empty_like(us), torch.empty_like(vs)
        for i in range(iterations - 1, -1, -1):
            torch.mul(at_v[-1], v_shares[i], out=ys[i])
            a = less_u[i] * torch.bmm(ys[i], self.across)
            at_u.append(a if at_u else a + through.sum(2).unsqueeze(1))
            torch.mul(at_u[-1], u_shares[i], out=xs[i])
            at_v.append(less_before[i] * torch.bmm(xs[i], self.kernel))
        d_senders = torch.stack(at_u).sum(0) * by_sender
        d_receivers = torch.stack(at_v[:-1]).sum(0) * by_receiver
        left, right = torch.cat((us, xs)).squeeze(2), torch.cat((ys, before)).squeeze(2)  # rows of the outer products
        d_kernel = torch.bmm(left.permute(1, 2, 0), right.transpose(0, 1))
        return (d_kernel * self.kernel - through) / self.epsilon, d_senders[:, 0], d_receivers[:, 0]


class _Logarithmic:
    """The same iterations on `f / eps` and `g / eps`, for costs whose kernel would leave the range of the type."""

    def __init__(self, cost: Tensor, there: Tensor, senders: Tensor, receivers: Tensor, epsilon: float) -> None:
        self.log_kernel = (cost / -epsilon).masked_fill(~there, -torch.inf)
        self.senders, self.receivers, self.epsilon = senders, receivers, epsilon

    def iterates(self, iterations: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Logarithms of `u [G, W]` and `v [G, K]` after each iteration, -inf where there is no capacity."""
        v = self._start()
        for _ in range(iterations):
            u = _log_ratio(self.senders, torch.logsumexp(self.log_kernel + v.unsqueeze(1), 2))
            v = _log_ratio(self.receivers, torch.logsumexp(self.log_kernel + u.unsqueeze(2), 1))
            yield u, v

    def _start(self) -> Tensor:
        return torch.zeros_like(self.receivers).masked_fill(self.receivers <= 0, -torch.inf)

    def plan(self, u: Tensor, v: Tensor) -> Tensor:
        """`P = exp(log u + log K + log v)`."""
        return (u.unsqueeze(2) + self.log_kernel + v.unsqueeze(1)).exp()

    def gradients(self, d_plan: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
        """See `_Scaled.gradients`; here each step has a plan of its own."""
        pairs = list(self.iterates(iterations))
        through = d_plan * self.plan(*pairs[-1])
        a, c = through.sum(2), through.sum(1)
        d_senders, d_receivers = torch.zeros_like(self.senders), torch.zeros_like(self.receivers)
        d_log_kernel = through.clone()
        for i in range(iterations - 1, -1, -1):
            u, v = pairs[i]
            before = pairs[i - 1][1] if i else self._start()
            d_receivers += _ratio(c, self.receivers)
            sent = self.plan(u, v) * _ratio(c, self.receivers).unsqueeze(1)
            d_log_kernel -= sent
            a = a - sent.sum(2)
            d_senders += _ratio(a, self.senders)
            sent = self.plan(u, before) * _ratio(a, self.senders).unsqueeze(2)
            d_log_kernel -= sent
            c = -sent.sum(1)
            a = torch.zeros_like(a)
        return d_log_kernel / -self.epsilon, d_senders, d_receivers


def _ratio(value: Tensor, by: Tensor) -> Tensor:
    """`value / by`, 0 where there is nothing to divide by."""
    return torch.where(by > 0, value / by, 0.0)


def _log_ratio(value: Tensor, log_by: Tensor) -> Tensor:
    """`log(value) - log_by`, -inf where the value is 0."""
    return torch.where(value > 0, value.log() - log_by, -torch.inf)


def _implicit(
    plan: Tensor, senders: Tensor, receivers: Tensor, d_plan: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a converged plan, whose marginals are its capacities, by one linear system a segment.

    `[diag(p) P; P^T diag(b)] [alpha; beta] = [(dP * P) 1; (dP * P)^T 1]`. The system knows alpha + s, beta - s only up
    to s, which no gradient feels; absent rows and columns are given the identity.
    """
    tokens = plan.shape[1]
    through = d_plan * plan
    top = torch.cat((torch.diag_embed(senders), plan), 2)
    bottom = torch.cat((plan.transpose(1, 2), torch.diag_embed(receivers)), 2)
    system = torch.cat((top, bottom), 1)
    absent = torch.cat((senders, receivers), 1) <= 0
    # One equation is redundant; a rank-one term along the null vector (1, -1) makes the system regular.
    null = torch.cat((torch.ones_like(senders), -torch.ones_like(receivers)), 1).masked_fill(absent, 0.0)
    system = system + torch.diag_embed(absent.to(plan.dtype)) + null.unsqueeze(2) * null.unsqueeze(1) / null.shape[1]
    right = torch.cat((through.sum(2), through.sum(1)), 1)
    solved = torch.linalg.solve(system, right.unsqueeze(2)).squeeze(2).masked_fill(absent, 0.0)
    alpha, beta = solved[:, :tokens], solved[:, tokens:]
    return ((alpha.unsqueeze(2) + beta.unsqueeze(1)) * plan - through) / epsilon, alpha, beta
