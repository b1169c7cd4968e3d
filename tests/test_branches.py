"""Attention of sequences that fork equals attention under the mask that says the same."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentpress import branches
from latentpress.attention import Layout, packed_attention
from latentpress.branches import BranchedAttention, Branches

HEADS, KEY_HEADS, WIDTH = 4, 2, 8
FORKS = st.builds(
    Branches, prefix=st.integers(0, 30), lengths=st.lists(st.integers(1, 12), max_size=6).map(tuple)
).filter(lambda fork: fork.tokens > 0)


class Layer(torch.nn.Module):
    layer_idx = 0


def heads(tokens: int, *, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    draw = torch.Generator().manual_seed(tokens)
    return [
        torch.randn(1, count, tokens, WIDTH, generator=draw, dtype=dtype).requires_grad_()
        for count in (HEADS, KEY_HEADS, KEY_HEADS)
    ]


def attend(
    forks: list[Branches], backend: Any, *, masks: bool = False, window: int | None = None, softcap: float | None = None
) -> list[Tensor]:
    """Values and gradients of a row of such sequences."""
    lengths = tuple(fork.tokens for fork in forks)
    places = [
        torch.cat([torch.arange(fork.prefix), *(torch.arange(fork.prefix, fork.prefix + n) for n in fork.lengths)])
        for fork in forks
    ]
    layout = Layout(lengths, torch.cat(places), tuple(f.mask() if masks else f for f in forks), None, backend)
    q, k, v = heads(sum(lengths))
    out, _ = packed_attention(Layer(), q, k, v, None, layout=layout, sliding_window=window, softcap=softcap)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return [out, *torch.autograd.grad((out * weights).sum(), (q, k, v))]


def seen_by(fork: Branches) -> Tensor:
    """What each token sees, by the definition."""
    owner = [0] * fork.prefix + [i for i, n in enumerate(fork.lengths, 1) for _ in range(n)]
    mask = torch.zeros(fork.tokens, fork.tokens, dtype=torch.bool)
    for query, key in itertools.product(range(fork.tokens), repeat=2):
        mask[query, key] = key <= query and owner[key] in (0, owner[query])
    return mask


@given(fork=FORKS)
def test_the_mask_is_that_of_the_definition(fork: Branches) -> None:
    assert torch.equal(fork.mask(), seen_by(fork))


@settings(max_examples=60)
@given(fork=FORKS, queries=st.integers(1, 20))
def test_chunks_hold_every_query_once_and_hide_what_the_mask_hides(fork: Branches, queries: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branches, "_CHUNK_QUERIES", queries)
        chunks = fork.chunks()
    assert [i for chunk in chunks for i in range(chunk.start, chunk.end)] == list(range(fork.tokens))
    mask = torch.zeros(fork.tokens, fork.tokens, dtype=torch.bool)
    for chunk in chunks:
        mask[chunk.start : chunk.end, : chunk.front] = True
        mask[chunk.start : chunk.end, chunk.start : chunk.end] = ~chunk.hidden
        assert chunk.end - chunk.start <= max(queries, *fork.lengths, 1)
    assert torch.equal(mask, seen_by(fork))


@settings(max_examples=40, deadline=None)
@given(forks=st.lists(FORKS, min_size=1, max_size=3), queries=st.integers(1, 40))
def test_values_and_gradients_equal_those_under_the_mask(forks: list[Branches], queries: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branches, "_CHUNK_QUERIES", queries)
        found = attend(forks, "auto")
    for one, expected in zip(found, attend(forks, "sdpa", masks=True), strict=True):
        torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["auto", "eager", "sdpa"])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (5, None), (100, None), (None, 2.0), (5, 2.0)])
def test_every_back_end_reads_branches(backend: str, window: int | None, softcap: float | None) -> None:
    forks = [Branches(9, (3, 1, 4)), Branches(0, (2, 5)), Branches(6, ())]
    found = attend(forks, backend, window=window, softcap=softcap)
    plain = attend(forks, "eager", masks=True, window=window, softcap=softcap)
    for one, expected in zip(found, plain, strict=True):
        torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-5)


def test_chunks_are_used_where_nothing_else_hides_a_key() -> None:
    fork = Branches(9, (3, 1))
    layout = Layout((13,), torch.arange(13), (fork,))
    assert [tokens for tokens, _ in layout.chunks(None)] == [tokens for tokens, _ in layout.chunks(13)] == [13]
    assert layout.chunks(12) == []
    assert Layout((13, 2), torch.arange(15), (fork, torch.ones(2, 2, dtype=torch.bool))).chunks(None) == []
    assert Layout.of((13,), "causal").chunks(None) == []


def test_the_gradient_is_the_numerical_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branches, "_CHUNK_QUERIES", 3)
    forks = [Branches(4, (2, 3)), Branches(2, (1,))]
    rows = [(fork.tokens, fork.chunks()) for fork in forks]
    q, k, v = (t[0, :, :, :4].detach().contiguous().requires_grad_() for t in heads(12, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda *x: BranchedAttention.apply(*x, rows, 0.3), (q, k, v))


def test_bfloat16_is_as_near_to_float32_as_the_mask_is() -> None:
    forks = [Branches(700, (40,) * 9)]
    rows = [(fork.tokens, fork.chunks()) for fork in forks]
    exact = [t[0].detach().requires_grad_() for t in heads(forks[0].tokens)]
    rough = [t.detach().bfloat16().requires_grad_() for t in exact]
    weights = torch.randn(HEADS, forks[0].tokens, WIDTH, generator=torch.Generator().manual_seed(1))
    out = BranchedAttention.apply(*exact, rows, 0.3)
    expected = [out, *torch.autograd.grad((out * weights).sum(), exact)]
    low = BranchedAttention.apply(*rough, rows, 0.3)
    found = [low, *torch.autograd.grad((low * weights).sum(), rough)]
    for one, truth in zip(found, expected, strict=True):
        assert float((one.detach().float() - truth.detach()).norm() / truth.detach().norm()) < 0.01
