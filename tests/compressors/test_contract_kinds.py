"""Kinds of compressor and policy that the contract has room for, as toys: none ships, all must go through the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from tiny import WIDTH, config_for, make_model
from torch import Tensor, nn

from latentpress.attention import Visibility
from latentpress.compressors import (
    COMPRESSORS,
    Added,
    Compressor,
    Extracted,
    Length,
    MeanPooling,
    Prepared,
    Ratio,
    Shape,
    Size,
)
from latentpress.compressors.base import Reads
from latentpress.errors import PressError
from latentpress.press import Press
from latentpress.ratios import POLICIES, RatioPolicy

if TYPE_CHECKING:
    from latentpress.backbone import Base

TEXTS = [[7, 8, 9, 10, 11], [12, 13], [20, 21, 22, 23, 24, 25, 26, 27, 28]]


class AddedTokens(Compressor):
    """Three learned tokens behind each text; their states are its latents."""

    name: ClassVar[str] = "toy-added"
    visibility: ClassVar[Visibility] = "causal"
    sizes: ClassVar[tuple[type[Size], ...]] = (Length,)
    describe: ClassVar[str] = "a toy"

    def __init__(self, shape: Shape, settings: Any) -> None:
        super().__init__(shape, settings)
        self.tokens = nn.Parameter(torch.linspace(-1, 1, 3 * WIDTH).view(3, WIDTH))

    def adds(self, tokens: int) -> int:
        return 3

    def prepare(self, embeddings: Tensor, lengths: Sequence[int]) -> Prepared:
        rows = [part for row in embeddings.split(list(lengths)) for part in (row, self.tokens.to(row.dtype))]
        return Prepared(embeddings=torch.cat(rows), added=(3,) * len(lengths))

    def extract(
        self,
        states: Tensor,
        lengths: Sequence[int],
        sizes: Sequence[Size],
        added: Added | None = None,
        ids: Tensor | None = None,
    ) -> Extracted:
        assert added is not None
        assert len(states) == sum(lengths)
        counts = [size.latents(tokens) for size, tokens in zip(sizes, lengths, strict=True)]
        first = [part[:count] for part, count in zip(added.states.split(list(added.counts)), counts, strict=True)]
        spans = [torch.tensor([[0, tokens]] * count) for tokens, count in zip(lengths, counts, strict=True)]
        return Extracted(vectors=torch.cat(first).float(), counts=tuple(counts), spans=torch.cat(spans))


class LayerMean(MeanPooling):
    """The mean of all layers in place of the last."""

    name: ClassVar[str] = "toy-layers"
    reads: ClassVar[Reads] = "all"

    def extract(
        self,
        states: Tensor,
        lengths: Sequence[int],
        sizes: Sequence[Size],
        added: Added | None = None,
        ids: Tensor | None = None,
    ) -> Extracted:
        assert states.ndim == 3
        return super().extract(states.mean(0), lengths, sizes)


class TwoLatents(RatioPolicy):
    """Two latents for each text."""

    name: ClassVar[str] = "toy-length"
    predicts: ClassVar[bool] = False
    kind: ClassVar[type[Size]] = Length
    describe: ClassVar[str] = "a toy"

    def choose(self, log2_ratio: float | None, scale: float, tokens: int) -> Size:
        return Length(2)


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    for compressor in (AddedTokens, LayerMean):
        monkeypatch.setitem(COMPRESSORS, compressor.name, compressor)
    monkeypatch.setitem(POLICIES, TwoLatents.name, TwoLatents)


def test_what_a_compressor_adds_is_read_behind_the_text_and_comes_back_apart(tiny_base: Base) -> None:
    config = config_for(tiny_base, compressor="toy-added", policy="toy-length", residual="none")
    model = make_model(config, tiny_base)
    with torch.no_grad():
        together = model.encode(TEXTS)
        assert together.added.counts == (3, 3, 3)
        assert len(together.states) == len(together.ids) == 16
        parts = together.added.states.split(3)
        for text, added in zip(TEXTS, parts, strict=True):
            alone = model.encode([text])
            torch.testing.assert_close(alone.added.states, added, atol=1e-5, rtol=1e-5)
            # Causal: what stands behind a text changes nothing in it.
            assert model.encoder is not None
            assert alone.ids.tolist() == text
        made = model.latents(together, [Length(2)] * 3)
    assert made.counts == (2, 2, 2)
    assert not torch.allclose(parts[0], parts[1])


def test_gradients_reach_what_a_compressor_adds(tiny_base: Base) -> None:
    config = config_for(tiny_base, compressor="toy-added", policy="toy-length", residual="none")
    model = make_model(config, tiny_base)
    model.latents(model.encode(TEXTS), [Length(3)] * 3).vectors.square().sum().backward()
    assert isinstance(model.compressor, AddedTokens)
    assert model.compressor.tokens.grad is not None
    assert bool(model.compressor.tokens.grad.abs().sum(1).gt(0).all())


def test_the_head_reads_the_end_of_the_text_whatever_stands_behind_it(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AddedTokens, "sizes", (Ratio, Length))
    causal = {"attention": "causal"}
    plain = make_model(config_for(tiny_base, compressor_settings=causal, residual="none"), tiny_base)
    model = make_model(config_for(tiny_base, compressor="toy-added", residual="none"), tiny_base)
    weights = {k: v for k, v in plain.state_dict().items() if not k.startswith("compressor")}
    model.load_state_dict(weights, strict=False)
    with torch.no_grad():
        expected, found = plain.encode(TEXTS).log2_ratios, model.encode(TEXTS).log2_ratios
    assert expected is not None
    assert found is not None
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_all_layers_are_those_that_transformers_returns(tiny_bases: Base) -> None:
    model = make_model(config_for(tiny_bases, compressor="toy-layers", encoder_layers=None), tiny_bases, trained=False)
    texts = [torch.tensor([*text, model.eos]) for text in TEXTS]
    assert model.encoder is not None
    layout_free = [
        torch.stack(tiny_bases.model(input_ids=ids[None], output_hidden_states=True).hidden_states)[:, 0]
        for ids in texts
    ]
    from latentpress.attention import Layout

    with torch.no_grad():
        ours = model.encoder.all_layers(
            model.encoder.embed(torch.cat(texts)), Layout.of([len(ids) for ids in texts], "causal")
        )
    torch.testing.assert_close(ours, torch.cat(layout_free, 1), atol=2e-5, rtol=2e-5)


def test_a_compressor_of_all_layers_goes_through_the_press(tiny_base: Base) -> None:
    model = make_model(config_for(tiny_base, compressor="toy-layers"), tiny_base)
    encoded = model.encode(TEXTS)
    assert encoded.states.shape == (model.encoder.depth + 1, 16, WIDTH)  # type: ignore[union-attr]
    latents = Press(model, tiny_base, None, "ab").compress("a text of some words", ratio=2)
    assert latents.ratio <= 2


def test_a_length_is_reported_as_the_ratio_that_it_is(tiny_base: Base) -> None:
    config = config_for(tiny_base, compressor="toy-added", policy="toy-length", residual="none")
    latents = Press(make_model(config, tiny_base), tiny_base, None, "ab").compress("one two three four five six")
    (window,) = latents.windows
    assert window.ratio == window.tokens / 2 == latents.ratio


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compressor": "toy-added", "residual": "none"}, "ratio policy 'selector' .* compressor 'toy-added'"),
        ({"compressor": "toy-added", "policy": "toy-length"}, "compressor 'toy-added'|'toy-added' is none"),
    ],
)
def test_pairs_that_cannot_work_are_refused_naming_both(tiny_base: Base, changes: dict[str, str], message: str) -> None:
    with pytest.raises(PressError, match=message):
        make_model(config_for(tiny_base, **changes), tiny_base)
