"""What every compressor promises, with its press around it; a new one is tested by being in the table."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
import torch
from tiny import config_for, make_model
from torch import Tensor

from latentpress.compressors import COMPRESSORS, Compressor, Extracted, Length, Ratio, Size
from latentpress.compressors.base import Reads
from latentpress.data.rows import Branch, Example
from latentpress.decoder.prompt import Slot
from latentpress.errors import PressError
from latentpress.loading import load_model
from latentpress.press import Press
from latentpress.ratios import POLICIES, SELECTIONS
from latentpress.training.checkpoint import export_press
from latentpress.training.objective import document_latents, row_loss

if TYPE_CHECKING:
    from latentpress.backbone import Base
    from latentpress.checkpoints.config import PressConfig
    from latentpress.model import PressModel

# None divides by the sizes below; one is shorter than a window; one is a single token.
LENGTHS = (13, 1, 30, 3, 22)
SIZES: tuple[Size, ...] = (Ratio(4), Ratio(1), Length(7), Ratio(8), Length(40))
# The authors' module has biases that shift what a softmax then forgets.
WITHOUT_EFFECT = {f"compressor.{n}.bias" for n in ("depth.key", "width.capacity", "width.capacity_norm")}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def text(tokens: int, seed: int = 0) -> list[int]:
    """Token ids, the pad and end token (2) among them: padding is known by length, never by token."""
    ids = torch.randint(3, 300, (tokens,), generator=torch.Generator().manual_seed(100 * seed + tokens)).tolist()
    ids[tokens // 2 :: 7] = [2] * len(ids[tokens // 2 :: 7])
    return [int(i) for i in ids]


TEXTS = [text(tokens) for tokens in LENGTHS]


@pytest.fixture(params=COMPRESSORS)
def config(request: pytest.FixtureRequest, tiny_base: Base) -> PressConfig:
    """A press around each compressor, with the most that goes together with it."""
    kind = COMPRESSORS[request.param]
    if kind.reads == "embeddings":
        return config_for(tiny_base, compressor=kind.name, residual="none", policy="fixed")
    if kind.reads == "keys-values":
        own = {"residual": "none", "encoder_layers": None, "encoder_lora": None}
        return config_for(tiny_base, compressor=kind.name, **own)
    if kind.converts:
        settings = {"segment_tokens": 8, "query_width": 16}
        return config_for(
            tiny_base, compressor=kind.name, compressor_settings=settings, residual="none", encoder_lora=None
        )
    if not kind.tiles:  # every size below is at most as many latents as the smallest candidate gives
        return config_for(tiny_base, compressor=kind.name, residual="none", candidates=(1, 2, 4, 8))
    return config_for(tiny_base, compressor=kind.name)


@pytest.fixture
def model(config: PressConfig, tiny_base: Base) -> PressModel:
    return make_model(config, tiny_base)


def sizes_for(model: PressModel) -> tuple[Size, ...]:
    """`SIZES`, or ratios alone for a compressor that knows no other."""
    return SIZES if Length in model.compressor.sizes else (Ratio(4), Ratio(1), Ratio(7), Ratio(8), Ratio(2))


@torch.no_grad()
def made(
    model: PressModel, texts: Sequence[list[int]], sizes: Sequence[Size]
) -> tuple[list[Tensor], list[Tensor], Any]:
    """Latents and spans of each text, and the predictions, of one pass."""
    encoded = model.encode(texts)
    extracted = model.latents(encoded, sizes)
    vectors, spans = extracted.vectors.split(extracted.counts), extracted.spans.split(extracted.counts)
    return list(vectors), list(spans), encoded.log2_ratios


def example(windows: Sequence[list[int]], documents: Sequence[int]) -> Example:
    prefix = ([1, 9, 10], *(piece for i in range(len(documents)) for piece in ([20 + i], Slot(i))))
    branches = (Branch("answer", (30, 31, 32, 2), 2), Branch("answer", (40, 41, 2), 1))
    labels = tuple(None if i % 2 else 1.5 for i in range(len(windows)))
    return Example(tuple(map(tuple, windows)), tuple(documents), prefix, branches, labels)


def test_the_compressor_says_what_it_is(model: PressModel) -> None:
    kind = type(model.compressor)
    assert COMPRESSORS[kind.name] is kind
    assert kind.visibility in ("bidirectional", "causal")
    assert kind.reads in get_args(Reads)
    assert set(kind.sizes) <= {Ratio, Length}
    assert kind.sizes
    assert kind.describe
    assert issubclass(kind, Compressor)


def test_each_text_gets_the_latents_of_its_own_size(model: PressModel) -> None:
    sizes = sizes_for(model)
    vectors, spans, predicted = made(model, TEXTS, sizes)
    segment = model.config.compressor_settings.get("segment_tokens", 10**9)
    for tokens, size, mine, covered in zip(LENGTHS, sizes, vectors, spans, strict=True):
        parts = [min(segment, tokens - start) for start in range(0, tokens, segment)]
        assert mine.shape == (sum(map(size.latents, parts)), model.latent_width)
        assert covered.shape == (len(mine), 2)
        assert covered.dtype == torch.int64
        assert bool(mine.isfinite().all())
    assert (predicted is None) == (not model.policy.predicts)
    assert predicted is None or (predicted.shape == (5,) and predicted.dtype == torch.float32)


def test_a_compressor_says_how_many_tokens_it_adds(model: PressModel) -> None:
    added = [model.compressor.adds(tokens) for tokens in LENGTHS]
    assert list(model.encode(TEXTS).added.counts) == added


def test_every_latent_covers_tokens_of_its_own_text_in_order(model: PressModel) -> None:
    _, spans, _ = made(model, TEXTS, sizes_for(model))
    for tokens, covered in zip(LENGTHS, spans, strict=True):
        starts, ends = covered.unbind(1)
        assert bool((starts < ends).all())
        assert int(starts.min()) >= 0
        assert int(ends.max()) <= tokens
        assert torch.equal(starts, starts.sort().values)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4, 1, 3), (2,), (3, 3, 3)])
def test_a_text_is_compressed_alike_in_any_company_and_order(model: PressModel, order: tuple[int, ...]) -> None:
    sizes = sizes_for(model)
    vectors, spans, predicted = made(model, [TEXTS[i] for i in order], [sizes[i] for i in order])
    for place, i in enumerate(order):
        alone, covered, own = made(model, [TEXTS[i]], [sizes[i]])
        torch.testing.assert_close(vectors[place], alone[0], **CLOSE)
        assert torch.equal(spans[place], covered[0])
        if own is not None:
            torch.testing.assert_close(predicted[place], own[0], **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_neither_padding_side_nor_company_changes_what_a_text_becomes(
    model: PressModel, tiny_base: Base, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    """From texts on, where a tokenizer could pad: together on either side as each alone."""
    press = Press(model, tiny_base, None, "ab")
    texts = ["a", "three words here", "a text that is much longer than all of the others " * 3]
    alone = [press.compress(one) for one in texts]
    answers = [press.ask(one, "what?", max_new_tokens=4) for one in alone]
    monkeypatch.setattr(tiny_base.tokenizer, "padding_side", side)
    for mine, theirs in zip(press.compress(texts), alone, strict=True):
        torch.testing.assert_close(mine.vectors, theirs.vectors, **CLOSE)
        assert torch.equal(mine.token_spans, theirs.token_spans)
    assert press.ask_many(alone, ["what?"] * 3, max_new_tokens=4) == answers


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("policy", POLICIES)
def test_it_works_with_every_policy_whose_sizes_it_makes_and_is_refused_beside_others_by_name(
    config: PressConfig, tiny_base: Base, policy: str, selection: str
) -> None:
    chosen, kind = POLICIES[policy], COMPRESSORS[config.compressor]
    changed = dataclasses.replace(config, policy=policy, candidates=(2, 4, 8), selection=selection)
    if chosen.kind not in kind.sizes or (chosen.predicts and kind.reads == "embeddings"):
        with pytest.raises(PressError, match=re.escape(f"ratio policy {policy!r} ") + f".*{kind.name!r}"):
            make_model(changed, tiny_base)
        return
    press = Press(make_model(changed, tiny_base), tiny_base, None, "ab")
    texts = ["some words about nothing much. " * 9, "a short one"]
    alone = [press.compress(one) for one in texts]
    assert len(alone[0].windows) > 1
    for mine, theirs in zip(press.compress(texts), alone, strict=True):
        assert mine.windows == theirs.windows or chosen.predicts  # a prediction differs in its last digits
        torch.testing.assert_close(mine.vectors, theirs.vectors, **CLOSE)
    assert press.ask_many(alone, ["what?"] * 2, max_new_tokens=2)


def test_training_and_inference_make_the_same_latents_where_the_length_does_not_divide(model: PressModel) -> None:
    examples = [example(TEXTS[:3], (2, 1)), example(TEXTS[3:], (1, 1))]
    trained, predicted = document_latents(model.train(), examples, Ratio(4))
    windows, _, expected = made(model.eval(), TEXTS, [Ratio(4)] * 5)
    documents = [torch.cat(windows[:2]), *windows[2:]]
    for mine, theirs in zip((latents for row in trained for latents in row), documents, strict=True):
        torch.testing.assert_close(mine.detach(), theirs, **CLOSE)
    if expected is not None:
        assert predicted is not None
        torch.testing.assert_close(predicted.log2_ratios.detach(), expected, **CLOSE)


def test_gradients_reach_everything_that_is_trained_and_never_the_base(model: PressModel, tiny_base: Base) -> None:
    result = row_loss(model.train(), [example(TEXTS[:3], (2, 1)), example(TEXTS[3:], (1, 1))], Ratio(4))
    (result.lm / result.tokens + result.ratio / max(1, result.labelled)).backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    silent = {name for name, p in trained.items() if p.grad is None or not bool(p.grad.abs().sum() > 0)}
    assert silent <= WITHOUT_EFFECT
    assert all(p.grad is None for p in tiny_base.model.parameters())
    parts = {name.split(".")[0] for name in trained}
    expected = {"decoder"} if model.encoder is None else {"encoder", "decoder", "converter", "head"}
    if model.compressor.converts:
        expected = {"decoder", "compressor", "head"}
    elif model.compressor.tiles:
        expected |= {"residual"}
    assert expected <= parts
    own = {name for name, p in model.compressor.named_parameters()}
    assert {f"compressor.{name}" for name in own} <= set(trained)


def test_no_pass_changes_the_model(model: PressModel, frozen: Callable[[Any], None]) -> None:
    frozen(model)
    made(model, TEXTS, sizes_for(model))
    row_loss(model, [example(TEXTS, (5,))], Ratio(8)).lm.backward()
    model.zero_grad()


def test_a_press_saved_and_loaded_makes_the_same_latents(
    model: PressModel, config: PressConfig, tiny_base_folder: Path, tmp_path: Path
) -> None:
    """The first save rounds to bfloat16; from there on nothing changes, bit for bit."""
    loaded = []
    for name in ("first", "second"):
        export_press(tmp_path / name, model, config)
        model, _, _ = load_model(tmp_path / name, base=tiny_base_folder, dtype="float32", device="cpu")
        assert model.config == config
        loaded.append(made(model, TEXTS, sizes_for(model)))
    (first, spans, predicted), (second, same_spans, same_predicted) = loaded
    assert all(torch.equal(a, b) for a, b in zip(first + spans, second + same_spans, strict=True))
    assert predicted is same_predicted is None or torch.equal(predicted, same_predicted)


def test_extraction_alone_leaves_its_input_as_it_is(model: PressModel) -> None:
    encoded = model.encode(TEXTS)
    before = encoded.states.detach().clone()
    sizes = sizes_for(model)
    extracted: Extracted = model.compressor.extract(encoded.states, encoded.lengths, sizes, encoded.added)
    assert torch.equal(encoded.states, before)
    assert sum(extracted.counts) == len(extracted.vectors) == len(extracted.spans)
