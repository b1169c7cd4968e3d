"""The kernels for a GPU give the plan and the gradients of the library's own iterations.

Without a GPU they run in Triton's interpreter, where Triton is installed: `TRITON_INTERPRET=1 pytest ...`.
"""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch
from torch import Tensor

from latentpress.compressors.comprexit.sinkhorn import transport_plan

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed, and there is no GPU that would need it", allow_module_level=True)
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from latentpress.compressors.comprexit import on_chip
from latentpress.compressors.comprexit.on_chip import fits, on_chip_plan

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
runs = pytest.mark.skipif(
    not torch.cuda.is_available() and not INTERPRETED,
    reason="there is no GPU; TRITON_INTERPRET=1 runs the kernels without one",
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def problem(segments: int, tokens: int, slots: int, seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    cost = 2 * torch.rand(segments, tokens, slots, generator=draw)
    senders = torch.softmax(torch.randn(segments, tokens, generator=draw), 1)
    receivers = torch.full((segments, slots), 1 / slots)
    return [one.to(DEVICE).requires_grad_() for one in (cost, senders, receivers)]


def agree(found: Tensor, expected: Tensor) -> None:
    """To 1e-5 of the largest magnitude, where there is any."""
    error, largest = (float(one.detach().abs().max()) for one in (found - expected, expected))
    assert error <= 1e-5 * largest + 1e-12


@runs
@pytest.mark.parametrize(("tokens", "slots"), [(128, 32), (128, 64), (45, 12), (7, 1), (1, 1)])
@pytest.mark.parametrize("iterations", [1, 30])
def test_plans_and_gradients_are_the_librarys(tokens: int, slots: int, iterations: int) -> None:
    given = problem(2, tokens, slots)
    exact = [one.detach().double().requires_grad_() for one in given]
    found = on_chip_plan(*given, 0.1, iterations)
    expected = transport_plan(*exact, epsilon=0.1, iterations=iterations)
    agree(found, expected)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    ours = torch.autograd.grad((found * weights).sum(), given)
    theirs = torch.autograd.grad((expected * weights).sum(), exact)
    for one, other in zip(ours, theirs, strict=True):
        agree(one, other)


@runs
def test_what_is_not_there_carries_nothing() -> None:
    cost, senders, receivers = problem(2, 9, 6)
    with torch.no_grad():
        senders[0, 6:], receivers[0, 4:], cost[0, 6:], cost[0, :, 4:] = 0, 0, torch.inf, torch.inf
    found = on_chip_plan(cost, senders, receivers, 0.1, 30)
    assert not bool(found[0, 6:].any() | found[0, :, 4:].any())
    for gradient in torch.autograd.grad(found.square().sum(), (cost, senders, receivers)):
        assert bool(gradient.isfinite().all())


def test_segments_too_large_for_a_program_are_known() -> None:
    assert fits(torch.empty(1, 128, 128))
    assert not fits(torch.empty(1, 1024, 64))


@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels are not compiled")
@pytest.mark.parametrize("slots", [1, 32, 64])
def test_both_kernels_compile_for_a_gpu_that_is_not_here(slots: int) -> None:
    """The interpreter does not check types as the compiler does."""
    floats = ("cost", "senders", "receivers", "plan", "d_plan", "d_cost", "d_senders", "d_receivers")
    types = dict.fromkeys(floats, "*fp32") | {
        "us": "*fp64",
        "vs": "*fp64",
        "width": "i32",
        "slots": "i32",
        "less": "fp32",
    }
    blocks = {"iterations": 30, "W": 128, "K": slots}
    for kernel in (on_chip._iterate, on_chip._go_back):
        signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=signature, constexprs=blocks)
        assert "ptx" in triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm
