"""Last tokens against naive loops and the base model's own forward pass; spans name the tokens that were read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CORPUS, config_for, make_model

from latentpress.compressors import LastTokens, Length, Ratio, Size
from latentpress.errors import PressError
from latentpress.press import Press
from latentpress.tokens import tokenize

if TYPE_CHECKING:
    from latentpress.backbone import Base

WIDTH = 5
SIZES = st.builds(Ratio, st.integers(1, 40)) | st.builds(Length, st.integers(1, 40))
TEXTS = st.lists(st.tuples(st.integers(1, 70), SIZES), min_size=1, max_size=5)
IDS = [[7, 8, 9, 10, 11, 2, 12], [13], [20, 21, 22, 23, 24, 25, 26, 27, 28, 29]]


def naive_places(tokens: int, size: Size) -> list[int]:
    """Tokens whose states are the latents, found one by one from the end."""
    wanted = -(-tokens // size.value) if isinstance(size, Ratio) else size.value
    places: list[int] = []
    for token in reversed(range(tokens)):
        if len(places) < wanted:
            places.insert(0, token)
    return places


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(TEXTS)
@settings(max_examples=40)
def test_latents_are_the_states_of_the_last_tokens_bit_for_bit(
    dtype: torch.dtype, texts: list[tuple[int, Size]]
) -> None:
    lengths, sizes = [tokens for tokens, _ in texts], [size for _, size in texts]
    states = torch.randn(sum(lengths), WIDTH, dtype=dtype, generator=torch.Generator().manual_seed(sum(lengths)))
    made = LastTokens().extract(states, lengths, sizes)
    rows, spans, start = [], [], 0
    for tokens, size in texts:
        places = naive_places(tokens, size)
        rows += [states[start + place] for place in places]
        spans += [[place, place + 1] for place in places]
        start += tokens
    assert torch.equal(made.vectors, torch.stack(rows))
    assert made.vectors.dtype == dtype
    assert made.spans.tolist() == spans
    assert made.counts == tuple(len(naive_places(tokens, size)) for tokens, size in texts)


def test_states_of_half_precision_become_float32() -> None:
    states = torch.randn(4, WIDTH).to(torch.bfloat16)
    made = LastTokens().extract(states, [4], [Length(3)])
    assert made.vectors.dtype == torch.float32
    assert torch.equal(made.vectors, states[1:].float())


def test_only_the_tokens_that_are_read_get_a_gradient() -> None:
    states = torch.zeros(9, WIDTH, requires_grad=True)
    LastTokens().extract(states, [5, 4], [Ratio(3), Length(1)]).vectors.sum().backward()
    assert states.grad is not None
    assert states.grad[:, 0].tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 1]


def test_states_are_those_of_the_base_model_reading_the_text_alone(tiny_bases: Base) -> None:
    """Causal, without the EOS behind the text; each text beside longer and shorter ones as by itself."""
    config = config_for(
        tiny_bases, compressor="last-tokens", residual="none", encoder_layers=None, encoder_lora=None, policy="fixed"
    )
    model = make_model(config, tiny_bases)
    with torch.no_grad():
        encoded = model.encode(IDS)
        made = model.compressor.extract(encoded.states, encoded.lengths, [Ratio(2)] * 3)
        for ids, latents in zip(IDS, made.vectors.split(made.counts), strict=True):
            alone = tiny_bases.model.get_decoder()(input_ids=torch.tensor([ids])).last_hidden_state[0]
            torch.testing.assert_close(latents, alone[len(ids) // 2 :], atol=2e-5, rtol=2e-5)


def test_a_latent_holds_the_text_before_it_and_nothing_behind_it(tiny_base: Base) -> None:
    model = make_model(config_for(tiny_base, compressor="last-tokens", residual="none"), tiny_base)
    ids = IDS[2]
    with torch.no_grad():
        plain = model.latents(model.encode([ids]), Ratio(2)).vectors
        first = model.latents(model.encode([[99, *ids[1:]]]), Ratio(2)).vectors
        last = model.latents(model.encode([[*ids[:-1], 99]]), Ratio(2)).vectors
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in zip(plain, first, strict=True))
    torch.testing.assert_close(last[:-1], plain[:-1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(last[-1], plain[-1], atol=1e-3)


def test_the_latents_of_a_harder_ratio_are_the_last_of_a_softer_one(tiny_base: Base) -> None:
    model = make_model(config_for(tiny_base, compressor="last-tokens", residual="none"), tiny_base)
    with torch.no_grad():
        encoded = model.encode([IDS[2]])
        many, few = (model.latents(encoded, Ratio(ratio)).vectors for ratio in (2, 4))
    torch.testing.assert_close(few, many[-len(few) :])


@pytest.mark.parametrize("adapter", [True, False])
def test_without_an_adapter_nothing_is_kept_for_a_way_back_and_the_converter_learns(
    tiny_base: Base, adapter: bool
) -> None:
    changes = {} if adapter else {"encoder_lora": None}
    config = config_for(tiny_base, compressor="last-tokens", residual="none", **changes)
    model = make_model(config, tiny_base).train()
    encoded = model.encode(IDS)
    assert encoded.states.requires_grad == adapter
    model.latents(encoded, Ratio(2)).vectors.square().sum().backward()
    assert model.converter is not None
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.converter.parameters())


def test_a_document_of_several_windows_keeps_the_end_of_each(tiny_base: Base) -> None:
    model = make_model(config_for(tiny_base, compressor="last-tokens", residual="none"), tiny_base)
    press = Press(model, tiny_base, None, "ab")
    text = " ".join(CORPUS)
    made = press.compress(text, ratio=4)
    assert len(made.windows) > 1
    expected = [
        window.start + token
        for window in made.windows
        for token in range(window.tokens - window.latents, window.tokens)
    ]
    assert made.token_spans.tolist() == [[token, token + 1] for token in expected]
    offsets = tokenize(tiny_base.tokenizer, text).offsets
    assert made.char_spans.tolist() == [list(offsets[token]) for token in expected]


@pytest.mark.parametrize("residual", ["mean", "salient"])
@pytest.mark.parametrize("compressor", ["last-tokens", "compression-tokens"])
def test_an_embedding_residual_is_refused(tiny_base: Base, compressor: str, residual: str) -> None:
    message = f"residual='{residual}' needs a compressor whose latents share the text out, '{compressor}' is none; set"
    with pytest.raises(PressError, match=message):
        make_model(config_for(tiny_base, compressor=compressor, residual=residual), tiny_base)
