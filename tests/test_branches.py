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
from latentpress.attention import KeyValueCache, Layout, packed_attention
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
    positions = torch.cat([fork.positions() for fork in forks])
    layout = Layout(lengths, positions, tuple(fork.mask() if masks else fork for fork in forks), None, backend)
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


def test_positions_of_every_branch_follow_the_prefix() -> None:
    assert Branches(3, (2, 1)).positions().tolist() == [0, 1, 2, 3, 4, 3]
    assert Branches(0, (2, 3)).positions().tolist() == [0, 1, 0, 1, 2]
    assert Branches(2, ()).positions().tolist() == [0, 1]


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
@given(forks=st.lists(FORKS, min_size=1, max_size=3), queries=st.integers(1, 40), kept=st.sampled_from([0, 100, 10**6]))
def test_values_and_gradients_equal_those_under_the_mask(forks: list[Branches], queries: int, kept: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branches, "_CHUNK_QUERIES", queries)
        patch.setattr(branches, "_KEPT_BYTES", kept)
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
    assert len(layout.chunks(None)) == len(layout.chunks(13)) == 1
    assert layout.chunks(12) == []
    assert Layout((13, 2), torch.arange(15), (fork, torch.ones(2, 2, dtype=torch.bool))).chunks(None) == []
    assert Layout.of((13,), "causal").chunks(None) == []


@pytest.mark.parametrize(
    ("backend", "window", "softcap", "cached", "times"),
    [
        ("auto", None, None, False, 1),
        ("auto", 100, None, False, 1),
        ("auto", 5, None, False, 0),
        ("auto", None, 2.0, False, 0),
        ("auto", None, None, True, 0),
        ("eager", None, None, False, 0),
        ("sdpa", None, None, False, 0),
    ],
)
def test_packed_attention_goes_by_chunks_where_it_can(
    monkeypatch: pytest.MonkeyPatch, backend: Any, window: int | None, softcap: float | None, cached: bool, times: int
) -> None:
    calls = []
    apply = BranchedAttention.apply
    monkeypatch.setattr(BranchedAttention, "apply", lambda *args: (calls.append(1), apply(*args))[1])
    fork = Branches(9, (3, 1))
    layout = Layout((13,), fork.positions(), (fork,), KeyValueCache(1) if cached else None, backend)
    packed_attention(Layer(), *heads(13), None, layout=layout, sliding_window=window, softcap=softcap)
    assert len(calls) == times


def test_weights_of_a_long_row_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(prefix: int) -> int:
        sizes: list[int] = []
        fork = Branches(prefix, (10,) * 4)
        with torch.autograd.graph.saved_tensors_hooks(lambda one: (sizes.append(one.numel()), one)[1], lambda one: one):
            BranchedAttention.apply(
                *(one[0] for one in heads(fork.tokens)), [(fork.tokens, fork.keys)], [fork.chunks()], 1.0
            )
        return sum(sizes)

    linear = (HEADS + 2 * KEY_HEADS) * WIDTH
    assert kept(200) > 2 * 240 * linear
    monkeypatch.setattr(branches, "_KEPT_BYTES", 100_000)
    assert kept(200) == 240 * linear


@pytest.mark.parametrize(("query_heads", "key_heads", "value_width"), [(3, 3, 8), (6, 1, 8), (6, 2, 5)])
def test_any_heads_and_widths(query_heads: int, key_heads: int, value_width: int) -> None:
    fork = Branches(7, (3, 0, 5))
    draw = torch.Generator().manual_seed(0)
    # Not contiguous, as projections give them.
    q, k, v = (
        torch.randn(15, count, width, generator=draw).transpose(0, 1).requires_grad_()
        for count, width in ((query_heads, 8), (key_heads, 8), (key_heads, value_width))
    )
    out = BranchedAttention.apply(q, k, v, [(15, 15)], [fork.chunks()], 0.4)
    wide_k, wide_v = (one.repeat_interleave(query_heads // key_heads, 0) for one in (k, v))
    scores = (q @ wide_k.transpose(1, 2) * 0.4).masked_fill(~fork.mask(), -torch.inf)
    expected = torch.softmax(scores, -1) @ wide_v
    weights = torch.randn(expected.shape, generator=draw)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    ours, theirs = (torch.autograd.grad((one * weights).sum(), (q, k, v)) for one in (out, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("entries", [((4, 3),), ((0, 2), (4, 1)), ((2, 1), (2, 2), (7, 5)), ((7, 0),)])
@pytest.mark.parametrize("queries", [2, 160])
def test_keys_without_queries_are_seen_by_what_follows_them(
    monkeypatch: pytest.MonkeyPatch, entries: tuple[tuple[int, int], ...], queries: int
) -> None:
    monkeypatch.setattr(branches, "_CHUNK_QUERIES", queries)
    fork = Branches(7, (3, 0, 5), entries)
    own, beside = fork.places()
    assert sorted([*own.tolist(), *beside.tolist()]) == list(range(fork.keys))
    for before, count in entries:  # they stand between the tokens in front of theirs and theirs
        assert count == 0 or {int(own[before - 1]) + 1 if before else 0} <= set(beside.tolist())
    mask = fork.mask()
    assert mask.shape == (15, fork.keys)
    for token in range(15):
        assert mask[token, beside].tolist() == [int(entry) < int(own[token]) for entry in beside]
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(6, 15, 8, generator=draw).requires_grad_()
    k, v = (torch.randn(2, fork.keys, 8, generator=draw).requires_grad_() for _ in range(2))
    out = BranchedAttention.apply(q, k, v, [(15, fork.keys)], [fork.chunks()], 0.4)
    wide_k, wide_v = (one.repeat_interleave(3, 0) for one in (k, v))
    expected = torch.softmax((q @ wide_k.transpose(1, 2) * 0.4).masked_fill(~mask, -torch.inf), -1) @ wide_v
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn(expected.shape, generator=draw)
    ours, theirs = (torch.autograd.grad((one * weights).sum(), (q, k, v)) for one in (out, expected))
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, right, atol=1e-5, rtol=1e-4)


def test_a_row_of_another_length_than_what_forks_in_it_is_noticed() -> None:
    with pytest.raises(AssertionError, match="as long as"):
        Layout((13,), torch.arange(13), (Branches(9, (2,)),)).chunks(None)


def test_the_gradient_is_the_numerical_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branches, "_CHUNK_QUERIES", 3)
    forks = [Branches(4, (2, 3)), Branches(2, (1,))]
    lengths, rows = [(fork.tokens, fork.keys) for fork in forks], [fork.chunks() for fork in forks]
    q, k, v = (t[0, :, :, :4].detach().contiguous().requires_grad_() for t in heads(12, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda *x: BranchedAttention.apply(*x, lengths, rows, 0.3), (q, k, v))


def test_bfloat16_is_as_near_to_float32_as_under_the_mask() -> None:
    """Gradients of the prefix are sums over many chunks, which bfloat16 would not hold."""
    fork = Branches(100, (40,) * 60)
    exact = heads(fork.tokens)
    rough = [one.detach().bfloat16().requires_grad_() for one in exact]
    weights = torch.randn(1, fork.tokens, HEADS, WIDTH, generator=torch.Generator().manual_seed(1))

    def results(inputs: list[Tensor], sees: Any, backend: Any) -> list[Tensor]:
        layout = Layout((fork.tokens,), fork.positions(), (sees,), None, backend)
        out, _ = packed_attention(Layer(), *inputs, None, layout=layout)
        return [out.detach(), *torch.autograd.grad((out * weights).sum(), inputs)]

    truth = results(exact, fork.mask(), "sdpa")
    by_chunks, by_mask = results(rough, fork, "auto"), results(rough, fork.mask(), "eager")
    for ours, theirs, exactly in zip(by_chunks, by_mask, truth, strict=True):
        errors = [float((one.float() - exactly).norm() / exactly.norm()) for one in (ours, theirs)]
        assert errors[0] <= 1.1 * errors[1]
