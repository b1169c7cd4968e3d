"""Packed attention is ordinary attention of each sequence alone: checked against naive loops and Hugging Face's own."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentpress.attention import KeyValueCache, Layout, Visibility, _EagerAttention, packed_attention
from latentpress.backbone import Backbone
from latentpress.errors import InputError

if TYPE_CHECKING:
    from latentpress.backbone import Base

# One token, shorter than the sliding window (6), as long, longer, much longer.
LENGTHS = (1, 4, 6, 7, 23)
HEADS, KEY_HEADS, WIDTH = 4, 2, 8


class Layer(torch.nn.Module):
    layer_idx = 0


def heads(tokens: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Random queries, keys and values of a row, as attention modules pass them."""
    draw = torch.Generator().manual_seed(seed)
    return (
        torch.randn(1, HEADS, tokens, WIDTH, generator=draw, dtype=dtype),
        torch.randn(1, KEY_HEADS, tokens, WIDTH, generator=draw, dtype=dtype),
        torch.randn(1, KEY_HEADS, tokens, WIDTH, generator=draw, dtype=dtype),
    )


def visible(tokens: int, visibility: Visibility, window: int | None) -> Tensor:
    """What a query (row) sees, by the definition."""
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    for query in range(tokens):
        for key in range(tokens):
            near = window is None or abs(query - key) < window
            mask[query, key] = near and (visibility == "bidirectional" or key <= query)
    return mask


def naive(
    q: Tensor, k: Tensor, v: Tensor, masks: list[Tensor], *, scale: float = WIDTH**-0.5, softcap: float | None = None
) -> Tensor:
    """Attention one sequence, head and query at a time."""
    out = torch.zeros(1, q.shape[2], HEADS, WIDTH, dtype=q.dtype)
    start = 0
    for mask in masks:
        columns = torch.arange(start, start + len(mask))
        for head in range(HEADS):
            shared = head // (HEADS // KEY_HEADS)
            for query in range(len(mask)):
                seen = columns[mask[query]]
                scores = (k[0, shared, seen] @ q[0, head, start + query]) * scale
                if softcap is not None:
                    scores = torch.tanh(scores / softcap) * softcap
                out[0, start + query, head] = torch.softmax(scores, 0) @ v[0, shared, seen]
        start += len(mask)
    return out


def with_backend(layout: Layout, backend: Any) -> Layout:
    return Layout(layout.lengths, layout.positions, layout.visibility, layout.cache, backend)


@pytest.mark.parametrize("backend", ["auto", "eager", "sdpa"])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("visibility", ["bidirectional", "causal"])
def test_packed_attention_equals_a_naive_loop(
    visibility: Visibility, window: int | None, softcap: float | None, backend: str
) -> None:
    lengths = (5, 1, 9, 3)
    q, k, v = heads(sum(lengths))
    layout = with_backend(Layout.of(lengths, visibility), backend)
    out, _ = packed_attention(Layer(), q, k, v, None, layout=layout, sliding_window=window, softcap=softcap)
    expected = naive(q, k, v, [visible(n, visibility, window) for n in lengths], softcap=softcap)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    visibility=st.sampled_from(["bidirectional", "causal"]),
    window=st.none() | st.integers(1, 14),
    backend=st.sampled_from(["eager", "sdpa"]),
    scale=st.sampled_from([None, 0.1, 1.0]),
    seed=st.integers(0, 99),
)
def test_packed_attention_equals_a_naive_loop_at_any_lengths(
    lengths: list[int], visibility: Visibility, window: int | None, backend: str, scale: float | None, seed: int
) -> None:
    q, k, v = heads(sum(lengths), seed=seed)
    layout = with_backend(Layout.of(lengths, visibility), backend)
    out, _ = packed_attention(Layer(), q, k, v, None, scale, layout=layout, sliding_window=window)
    masks = [visible(n, visibility, window) for n in lengths]
    torch.testing.assert_close(out, naive(q, k, v, masks, scale=scale or WIDTH**-0.5), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("window", [None, 3])
def test_block_masks_equal_a_naive_loop_over_what_they_let_through(window: int | None, backend: str) -> None:
    lengths = (7, 2, 10)
    q, k, v = heads(sum(lengths))
    draw = torch.Generator().manual_seed(1)
    masks = [(torch.rand(n, n, generator=draw) < 0.4) | torch.eye(n, dtype=torch.bool) for n in lengths]
    layout = Layout(lengths, torch.cat([torch.arange(n) for n in lengths]), tuple(masks), None, backend)  # type: ignore[arg-type]
    out, _ = packed_attention(Layer(), q, k, v, None, layout=layout, sliding_window=window)
    seen = [mask & visible(len(mask), "bidirectional", window) for mask in masks]
    torch.testing.assert_close(out, naive(q, k, v, seen), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_branches_whose_positions_restart_slide_their_window_by_position(backend: str) -> None:
    """Two branches of 3 tokens behind a prefix of 4: the second branch sees the end of the prefix, not of the first."""
    positions = torch.tensor([0, 1, 2, 3, 4, 5, 6, 4, 5, 6])
    owner = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    order = torch.arange(10)
    sees = (order[:, None] >= order) & ((owner[:, None] == owner) | (owner == 0))
    q, k, v = heads(10)
    layout = Layout((10,), positions, (sees,), None, backend)  # type: ignore[arg-type]
    packed, _ = packed_attention(Layer(), q, k, v, None, layout=layout, sliding_window=3)
    for branch in ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 7, 8, 9]):
        alone, _ = packed_attention(
            Layer(),
            q[:, :, branch],
            k[:, :, branch],
            v[:, :, branch],
            None,
            layout=Layout.of((7,), "causal"),
            sliding_window=3,
        )
        torch.testing.assert_close(packed[:, branch], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("visibility", ["bidirectional", "causal"])
@pytest.mark.parametrize("window", [None, 3])
def test_both_back_ends_give_the_same_values_and_gradients(visibility: Visibility, window: int | None) -> None:
    lengths = (5, 1, 9)
    results = []
    for backend in ("eager", "sdpa"):
        q, k, v = (t.requires_grad_() for t in heads(15))
        layout = with_backend(Layout.of(lengths, visibility), backend)
        out, _ = packed_attention(Layer(), q, k, v, None, layout=layout, sliding_window=window)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
        results.append((out, *torch.autograd.grad((out * weights).sum(), (q, k, v))))
    for eager, sdpa in zip(*results, strict=True):
        torch.testing.assert_close(eager, sdpa, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_of_the_fused_kernel_is_the_numerical_one(masked: bool) -> None:
    lengths = (3, 1, 4)
    q, k, v = (t[0, :, :, :4].contiguous().requires_grad_() for t in heads(8, dtype=torch.float64))
    masks: list[Tensor | None] = [None] * 3
    if masked:
        lowest = torch.finfo(torch.float64).min
        masks = [
            torch.zeros(n, n, dtype=torch.float64).masked_fill(~visible(n, "causal", None), lowest) for n in lengths
        ]
    assert torch.autograd.gradcheck(lambda *x: _EagerAttention.apply(*x, lengths, masks, 0.3), (q, k, v))


def test_a_sequence_does_not_see_its_companions() -> None:
    """Not even those of value infinity: nothing of another sequence enters a sum."""
    q, k, v = heads(12)
    layout = Layout.of((5, 7), "bidirectional")
    before, _ = packed_attention(Layer(), q, k, v, None, layout=layout)
    for tensor in (q, k, v):
        tensor[:, :, 5:] = torch.inf
    after, _ = packed_attention(Layer(), q, k, v, None, layout=layout)
    assert torch.equal(before[:, :5], after[:, :5])


@pytest.mark.parametrize("wrong", [{"layout": None}, {"dropout": 0.1}, {"attention_mask": torch.zeros(1, 1, 4, 4)}])
def test_calls_that_do_not_come_from_a_backbone_are_refused(wrong: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"attention_mask": None, "layout": Layout.of((4,), "causal"), **wrong}
    with pytest.raises(InputError, match="Layout"):
        packed_attention(Layer(), *heads(4), **arguments)


# ---- every family against Hugging Face's own attention ----


def hugging_face_mask(base: Base, tokens: int, visibility: Visibility) -> Any:
    """The explicit 4D mask that Hugging Face's own attention takes, one a kind of layer where there are several."""

    def additive(window: int | None) -> Tensor:
        mask = visible(tokens, visibility, window)
        return torch.zeros(1, 1, tokens, tokens).masked_fill(~mask, torch.finfo(torch.float32).min)

    window = getattr(base.model.config, "sliding_window", None)
    if base.model.config.model_type in ("gemma2", "gemma3_text"):
        return {"full_attention": additive(None), "sliding_attention": additive(window)}
    return additive(window if base.model.config.model_type == "mistral" else None)


def hugging_face_states(base: Base, implementation: str, ids: list[Tensor], visibility: Visibility) -> Tensor:
    body = copy.deepcopy(base.model.get_decoder())
    body.config._attn_implementation = implementation
    states = [
        body(
            inputs_embeds=base.model.get_input_embeddings()(one)[None],
            attention_mask=hugging_face_mask(base, len(one), visibility),
            position_ids=torch.arange(len(one))[None],
            use_cache=False,
        ).last_hidden_state[0]
        for one in ids
    ]
    return torch.cat(states)


@pytest.mark.parametrize("visibility", ["bidirectional", "causal"])
def test_every_family_equals_hugging_face_under_an_explicit_mask(tiny_bases: Base, visibility: Visibility) -> None:
    # Hugging Face's own sdpa attention leaves Gemma 2's soft cap out.
    implementations = ("eager",) if tiny_bases.model.config.model_type == "gemma2" else ("eager", "sdpa")
    backbone = Backbone(tiny_bases.model)
    ids = [torch.randint(3, 300, (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]
    with torch.no_grad():
        theirs = [
            hugging_face_states(tiny_bases, implementation, ids, visibility) for implementation in implementations
        ]
        for backend, expected in itertools.product(("eager", "sdpa"), theirs):
            layout = with_backend(Layout.of(LENGTHS, visibility), backend)
            states = backbone(backbone.embed(torch.cat(ids)), layout)
            torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("visibility", ["bidirectional", "causal"])
def test_every_family_has_hugging_faces_gradients(tiny_bases: Base, visibility: Visibility) -> None:
    backbone = Backbone(tiny_bases.model)
    ids = torch.randint(3, 300, (9,), generator=torch.Generator().manual_seed(0))
    weights = torch.randn(9, tiny_bases.width, generator=torch.Generator().manual_seed(1))
    gradients = []
    for backend in ("eager", "sdpa", "hugging face"):
        embeddings = backbone.embed(ids).clone().requires_grad_()
        if backend == "hugging face":
            body = copy.deepcopy(tiny_bases.model.get_decoder())
            body.config._attn_implementation = "eager"
            mask = hugging_face_mask(tiny_bases, 9, visibility)
            states = body(inputs_embeds=embeddings[None], attention_mask=mask, use_cache=False).last_hidden_state[0]
        else:
            states = backbone(embeddings, with_backend(Layout.of((9,), visibility), backend))
        gradients.append(torch.autograd.grad((states * weights).sum(), embeddings)[0])
    for gradient in gradients[:2]:
        assert (gradient - gradients[2]).norm() < 1e-5 * gradients[2].norm()


# ---- keys and values ----


def step(backbone: Backbone, cache: KeyValueCache, ids: list[Tensor]) -> list[Tensor]:
    """Reads the next tokens of each sequence through a cache."""
    lengths = tuple(len(one) for one in ids)
    positions = torch.cat([torch.arange(n) + cache.length(i) for i, n in enumerate(lengths)])
    with torch.no_grad():
        states = backbone(backbone.embed(torch.cat(ids)), Layout(lengths, positions, "causal", cache))
    return list(states.split(lengths))


def full(backbone: Backbone, ids: Tensor) -> Tensor:
    """States without a cache."""
    with torch.no_grad():
        return backbone(backbone.embed(ids), Layout.of((len(ids),), "causal"))


def tokens(count: int, seed: int) -> Tensor:
    return torch.randint(3, 300, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("chunks", [(1,) * 15, (15,), (4, 1, 1, 7, 2), (1, 14), (9, 6)])
def test_reading_through_a_cache_equals_reading_at_once(tiny_bases: Base, chunks: tuple[int, ...]) -> None:
    backbone = Backbone(tiny_bases.model)
    rows = [tokens(15, 0), tokens(15, 1)]
    cache = KeyValueCache(2)
    states: list[list[Tensor]] = [[], []]
    start = 0
    for chunk in chunks:
        for mine, new in zip(states, step(backbone, cache, [row[start : start + chunk] for row in rows]), strict=True):
            mine.append(new)
        start += chunk
    for row, mine in zip(rows, states, strict=True):
        torch.testing.assert_close(torch.cat(mine), full(backbone, row), atol=1e-5, rtol=1e-5)


def test_sequences_of_a_cache_may_grow_unevenly(tiny_base: Base) -> None:
    backbone = Backbone(tiny_base.model)
    rows, cache = [tokens(30, 0), tokens(12, 1)], KeyValueCache(2)
    step(backbone, cache, [rows[0][:20], rows[1][:3]])
    first, second = step(backbone, cache, [rows[0][20:], rows[1][3:]])
    assert (cache.length(0), cache.length(1)) == (30, 12)
    torch.testing.assert_close(first, full(backbone, rows[0])[20:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(second, full(backbone, rows[1])[3:], atol=1e-5, rtol=1e-5)


def test_forks_of_a_prefix_never_see_each_other(tiny_bases: Base) -> None:
    backbone = Backbone(tiny_bases.model)
    prefix, branches = tokens(9, 0), [tokens(6, 1), tokens(6, 2), tokens(6, 3)]
    cache = KeyValueCache(1)
    step(backbone, cache, [prefix[:5]])
    step(backbone, cache, [prefix[5:]])  # now the prefix lies in a buffer of its own, with room behind it
    forks = [cache.fork(), cache.fork(), cache]  # the prefix itself goes on as well
    states: list[list[Tensor]] = [[], [], []]
    for i in range(6):
        for fork, branch, mine in zip(forks, branches, states, strict=True):
            mine += step(backbone, fork, [branch[i : i + 1]])
    for branch, mine in zip(branches, states, strict=True):
        expected = full(backbone, torch.cat([prefix, branch]))[9:]
        torch.testing.assert_close(torch.cat(mine), expected, atol=1e-5, rtol=1e-5)


def test_a_fork_that_went_on_leaves_its_prefix_for_the_next(tiny_base: Base) -> None:
    backbone = Backbone(tiny_base.model)
    prefix, question = tokens(9, 0), tokens(6, 1)
    cache = KeyValueCache(1)
    step(backbone, cache, [prefix])
    answers = [step(backbone, cache.fork(), [question])[0] for _ in range(3)]
    assert cache.length(0) == 9
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


def test_joined_prefixes_of_different_lengths_continue_each_for_itself(tiny_base: Base) -> None:
    backbone = Backbone(tiny_base.model)
    prefixes, rest = [tokens(9, 0), tokens(2, 1)], [tokens(3, 2), tokens(4, 3)]
    caches = [KeyValueCache(1), KeyValueCache(1)]
    for cache, prefix in zip(caches, prefixes, strict=True):
        step(backbone, cache, [prefix])
    joined = KeyValueCache.join([caches[0], caches[1], caches[0]])
    assert [joined.length(i) for i in range(3)] == [9, 2, 9]
    states = step(backbone, joined, [rest[0], rest[1], rest[1]])
    for state, prefix, more in zip(states, [*prefixes, prefixes[0]], [*rest, rest[1]], strict=True):
        torch.testing.assert_close(
            state, full(backbone, torch.cat([prefix, more]))[len(prefix) :], atol=1e-5, rtol=1e-5
        )
    assert [cache.length(0) for cache in caches] == [9, 2]


def pairs(count: int, start: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and positions `start`, `start + 1`, ... that are recognised by their value."""
    at = torch.arange(start, start + count)
    keys = at.float()[None, :, None].expand(KEY_HEADS, count, WIDTH)
    return keys.clone(), -keys, at


def held(cache: KeyValueCache, sequence: int) -> list[int]:
    """Reads what a cache holds, by adding nothing."""
    keys, values, positions = cache.extend(0, sequence, *pairs(0, 0))
    assert torch.equal(keys, -values)
    assert positions.tolist() == keys[0, :, 0].tolist()
    return [int(i) for i in positions]


@settings(max_examples=60)
@given(st.data())
def test_a_cache_behaves_as_lists_do(data: st.DataObject) -> None:
    """Any order of additions, forks, joins and choices, against Python lists that are copied each time."""
    caches: list[tuple[KeyValueCache, list[list[int]]]] = [(KeyValueCache(2), [[], []])]
    stamp = 0
    for _ in range(data.draw(st.integers(1, 12))):
        cache, lists = caches[data.draw(st.integers(0, len(caches) - 1))]
        action = data.draw(st.sampled_from(["extend", "extend", "extend", "fork", "join", "keep"]))
        if action == "extend" and lists:
            sequence, count = data.draw(st.integers(0, len(lists) - 1)), data.draw(st.sampled_from([1, 2, 90]))
            cache.extend(0, sequence, *pairs(count, stamp))
            lists[sequence] += range(stamp, stamp + count)
            stamp += count
        elif action == "fork":
            caches.append((cache.fork(), [[*one] for one in lists]))
        elif action == "join":
            other, more = caches[data.draw(st.integers(0, len(caches) - 1))]
            caches.append((KeyValueCache.join([cache, other]), [[*one] for one in [*lists, *more]]))
        elif action == "keep" and lists:
            chosen = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=3, unique=True))
            caches = [entry for entry in caches if entry[0] is not cache]
            caches.append((cache.keep(chosen), [lists[i] for i in chosen]))
    for cache, lists in caches:
        assert cache.sequences == len(lists)
        assert [cache.length(i) for i in range(len(lists))] == [len(one) for one in lists]
        size = torch.finfo(torch.float32).bits // 8 * WIDTH * KEY_HEADS * 2
        assert cache.nbytes == size * sum(map(len, lists))
        assert [held(cache, i) for i in range(len(lists))] == lists


def test_keep_gives_the_sequences_in_the_order_asked(tiny_base: Base) -> None:
    backbone = Backbone(tiny_base.model)
    rows, cache = [tokens(n, n) for n in (5, 3, 8)], KeyValueCache(3)
    step(backbone, cache, rows)
    kept = cache.keep([2, 0])
    assert [kept.length(0), kept.length(1)] == [8, 5]
    more = [tokens(2, 20), tokens(4, 21)]
    for state, row, new in zip(step(backbone, kept, more), (rows[2], rows[0]), more, strict=True):
        torch.testing.assert_close(state, full(backbone, torch.cat([row, new]))[len(row) :], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tiny_bases", ["llama", "gemma3"], indirect=True)
def test_a_cache_outgrows_its_spare_room(tiny_bases: Base) -> None:
    """Token by token beyond the room a buffer is given ahead, and beyond every sliding window."""
    backbone = Backbone(tiny_bases.model)
    row, cache = tokens(90, 0), KeyValueCache(1)
    states = [step(backbone, cache, [row[:3]])[0]]
    states += [step(backbone, cache, [row[i : i + 1]])[0] for i in range(3, 90)]
    torch.testing.assert_close(torch.cat(states), full(backbone, row), atol=2e-5, rtol=2e-5)
