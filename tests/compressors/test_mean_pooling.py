"""Pooling against naive loops: windows tile each text exactly and are divided by their true counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import config_for, make_model
from torch import Tensor

from latentpress.compressors import Length, MeanPooling, Ratio, Size
from latentpress.compressors.base import window_index
from latentpress.errors import PressError, RatioError

if TYPE_CHECKING:
    from latentpress.backbone import Base

WIDTH = 5
SIZES = st.builds(Ratio, st.integers(1, 40)) | st.builds(Length, st.integers(1, 40))
TEXTS = st.lists(st.tuples(st.integers(1, 70), SIZES), min_size=1, max_size=5)


def naive_windows(tokens: int, size: Size) -> list[list[int]]:
    """Token indices of each latent: runs of S with what is left at the end, or M runs equal within one."""
    if isinstance(size, Ratio):
        return [list(range(start, min(start + size.value, tokens))) for start in range(0, tokens, size.value)]
    count = min(size.value, tokens)
    windows: list[list[int]] = [[] for _ in range(count)]
    for token in range(tokens):
        windows[token * count // tokens].append(token)
    return windows


def naive_means(states: Tensor, lengths: list[int], sizes: list[Size], width: int = WIDTH) -> Tensor:
    rows, start = [], 0
    for tokens, size in zip(lengths, sizes, strict=True):
        for window in naive_windows(tokens, size):
            total = torch.zeros(width, dtype=torch.float64)
            for token in window:
                total += states[start + token]
            rows.append(total / len(window))
        start += tokens
    return torch.stack(rows)


@given(TEXTS)
@settings(max_examples=60)
def test_pooling_equals_a_naive_loop(texts: list[tuple[int, Size]]) -> None:
    lengths, sizes = [t for t, _ in texts], [s for _, s in texts]
    states = torch.randn(sum(lengths), WIDTH, generator=torch.Generator().manual_seed(sum(lengths)))
    made = MeanPooling().extract(states, lengths, sizes)
    torch.testing.assert_close(made.vectors.double(), naive_means(states, lengths, sizes), atol=1e-6, rtol=1e-5)
    assert made.vectors.dtype == torch.float32
    assert made.counts == tuple(len(naive_windows(t, s)) for t, s in texts)


@given(TEXTS)
@settings(max_examples=60)
def test_spans_tile_each_text_and_name_the_tokens_that_were_pooled(texts: list[tuple[int, Size]]) -> None:
    lengths, sizes = [t for t, _ in texts], [s for _, s in texts]
    made = MeanPooling().extract(torch.zeros(sum(lengths), WIDTH), lengths, sizes)
    for (tokens, size), spans in zip(texts, made.spans.split(made.counts), strict=True):
        assert [list(range(a, b)) for a, b in spans.tolist()] == naive_windows(tokens, size)
        assert [i for a, b in spans.tolist() for i in range(a, b)] == list(range(tokens))


@given(st.integers(1, 5000), st.integers(1, 600))
def test_a_ratio_gives_one_latent_for_each_begun_window(tokens: int, value: int) -> None:
    count = Ratio(value).latents(tokens)
    assert count == sum(1 for _ in range(0, tokens, value))
    assert 1 <= count <= tokens


@given(st.integers(1, 5000), st.integers(1, 600))
def test_a_length_gives_that_many_latents_and_never_more_than_tokens(tokens: int, value: int) -> None:
    assert Length(value).latents(tokens) == min(tokens, value)
    index, counts, spans = window_index([tokens], [Length(value)], torch.device("cpu"))
    assert counts == (len(spans),) == (min(tokens, value),)
    widths = (spans[:, 1] - spans[:, 0]).tolist()
    assert max(widths) - min(widths) <= 1
    assert torch.equal(index, index.sort().values)


@given(TEXTS, st.data())
@settings(max_examples=30)
def test_latents_of_a_text_are_bitwise_the_same_in_any_company(
    texts: list[tuple[int, Size]], data: st.DataObject
) -> None:
    states = [torch.randn(t, WIDTH, generator=torch.Generator().manual_seed(i)) for i, (t, _) in enumerate(texts)]
    alone = [MeanPooling().extract(s, [t], [size]).vectors for s, (t, size) in zip(states, texts, strict=True)]
    order = data.draw(st.permutations(range(len(texts))))
    packed = MeanPooling().extract(
        torch.cat([states[i] for i in order]), [texts[i][0] for i in order], [texts[i][1] for i in order]
    )
    for i, vectors in zip(order, packed.vectors.split(packed.counts), strict=True):
        assert torch.equal(vectors, alone[i])


def test_means_are_float32_also_of_half_precision_states() -> None:
    """4,096 ones in bfloat16 would add up to 256."""
    made = MeanPooling().extract(torch.ones(4096, WIDTH, dtype=torch.bfloat16), [4096], [Ratio(4096)])
    assert torch.equal(made.vectors, torch.ones(1, WIDTH))


def test_each_token_gets_its_share_of_the_gradient() -> None:
    states = torch.zeros(7, WIDTH, requires_grad=True)
    MeanPooling().extract(states, [7], [Ratio(3)]).vectors.sum().backward()
    assert states.grad is not None
    torch.testing.assert_close(states.grad[:, 0], torch.tensor([1 / 3] * 6 + [1.0]))


@pytest.mark.parametrize("kind", [Ratio, Length])
@pytest.mark.parametrize("value", [0, -1])
def test_a_size_below_one_is_refused(kind: type[Size], value: int) -> None:
    with pytest.raises(RatioError, match=f"size {value} must be"):
        kind(value)


def test_causal_means_are_of_the_states_of_the_base_model_as_it_is(tiny_bases: Base) -> None:
    changes = {"encoder_lora": None, "encoder_layers": None, "residual": "none", "policy": "fixed"}
    config = config_for(tiny_bases, compressor_settings={"attention": "causal"}, **changes)
    model = make_model(config, tiny_bases)
    assert model.compressor.visibility == "causal"
    texts = [[7, 8, 9, 10, 11], [12], [20, 21, 22, 23, 24, 25, 26]]
    with torch.no_grad():
        encoded = model.encode(texts)
        made = model.compressor.extract(encoded.states, encoded.lengths, [Ratio(2)] * 3)
        decoder = tiny_bases.model.get_decoder()
        states = [decoder(input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in texts]
    expected = naive_means(torch.cat(states), list(map(len, texts)), [Ratio(2)] * 3, states[0].shape[1])
    torch.testing.assert_close(made.vectors.double(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_a_later_token_changes_earlier_means_in_both_directions_alone(tiny_base: Base, attention: str) -> None:
    config = config_for(tiny_base, compressor_settings={"attention": attention}, residual="none")
    model = make_model(config, tiny_base)
    ids = [20, 21, 22, 23, 24, 25]
    with torch.no_grad():
        plain, changed = (model.latents(model.encode([row]), Ratio(2)).vectors for row in (ids, [*ids[:-1], 99]))
    same = torch.isclose(plain, changed, atol=1e-5).all(1).tolist()
    assert same == ([True, True, False] if attention == "causal" else [False, False, False])


def test_an_attention_that_does_not_exist_is_refused(tiny_base: Base) -> None:
    with pytest.raises(PressError, match="attention is 'sideways'; choose one of bidirectional, causal"):
        make_model(config_for(tiny_base, compressor_settings={"attention": "sideways"}), tiny_base)
