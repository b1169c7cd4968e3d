"""Compression tokens against the base model's own forward pass, row by row; how many there are, and from what on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CORPUS, POSITIONS, WIDTH, config_for, make_model
from torch import Tensor

from latentpress.compressors import Added, CompressionTokens, Length, Ratio, Shape, Size
from latentpress.compressors.compression_tokens import CompressionTokensSettings
from latentpress.errors import PressError, RatioError
from latentpress.model import PressModel
from latentpress.press import Press
from latentpress.training.recipes import RECIPES

if TYPE_CHECKING:
    from latentpress.backbone import Base

KINDS = ("different", "shared")
CLOSE = {"atol": 2e-5, "rtol": 2e-5}
# Of lengths that no candidate divides, the EOS (2) among their tokens.
TEXTS = [[7, 8, 9, 10, 11, 2, 12], [13], [20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30], [40, 41]]


def press_model(base: Base, kind: str = "different", **changes: Any) -> PressModel:
    own = {"compressor": "compression-tokens", "residual": "none", "compressor_settings": {"embeddings": kind}}
    return make_model(config_for(base, **{**own, **changes}), base)


def half(tokens: int) -> int:
    return -(-tokens // 2)


def compressor(kind: str = "different", *, most: Any = half, window_tokens: int = 12) -> CompressionTokens:
    shape = Shape(width=4, layers=2, out=4, window_tokens=window_tokens, most=most)
    return CompressionTokens(shape, CompressionTokensSettings(embeddings=kind))  # type: ignore[arg-type]


def tokens_of(model: PressModel) -> Tensor:
    assert isinstance(model.compressor, CompressionTokens)
    return model.compressor.tokens


# ---- what the encoder reads, and where its states are read ----


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_the_states_behind_text_and_eos_of_each_row_by_itself(tiny_bases: Base, kind: str) -> None:
    """Rows of a batch against one plain forward pass each: no state is read at an offset that another row decides."""
    model = press_model(tiny_bases, kind, encoder_layers=None, encoder_lora=None, policy="fixed")
    sizes: list[Size] = [Ratio(2), Ratio(4), Length(3), Ratio(8)]
    embed = tiny_bases.model.get_input_embeddings()
    with torch.no_grad():
        encoded = model.encode(TEXTS)
        made = model.compressor.extract(encoded.states, encoded.lengths, sizes, encoded.added)
        for ids, size, latents in zip(TEXTS, sizes, made.vectors.split(made.counts), strict=True):
            longest, count = -(-len(ids) // 2), size.latents(len(ids))
            own = [tokens_of(model)[0 if kind == "shared" else i] for i in range(longest)]
            row = torch.cat((embed(torch.tensor([*ids, model.eos])), torch.stack(own)))
            alone = tiny_bases.model.get_decoder()(inputs_embeds=row[None]).last_hidden_state[0]
            assert len(latents) == count
            torch.testing.assert_close(latents, alone[len(ids) + 1 : len(ids) + 1 + count], **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["selector", "fixed"])
def test_the_first_latents_are_the_same_however_many_tokens_stand_behind(
    tiny_base: Base, kind: str, policy: str
) -> None:
    """A press with more candidates reads more tokens; what both make of a text at one ratio is the same."""
    many = press_model(tiny_base, kind, candidates=(1, 2, 4, 8), policy=policy)
    few = press_model(tiny_base, kind, candidates=(8,), policy=policy)
    with torch.no_grad():
        for name, parameter in few.named_parameters():
            parameter.copy_(
                many.get_parameter(name)[: len(parameter)] if "tokens" in name else many.get_parameter(name)
            )
        encoded = [model.encode(TEXTS) for model in (many, few)]
        made = [model.latents(one, Ratio(8)) for model, one in zip((many, few), encoded, strict=True)]
    assert encoded[0].added.counts == tuple(map(len, TEXTS))
    assert encoded[1].added.counts == (1, 1, 2, 1)
    torch.testing.assert_close(made[0].vectors, made[1].vectors, atol=1e-5, rtol=1e-5)
    if policy == "selector":
        torch.testing.assert_close(encoded[0].log2_ratios, encoded[1].log2_ratios, atol=1e-5, rtol=1e-5)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 5)), min_size=1, max_size=5), st.sampled_from(KINDS))
@settings(max_examples=30)
def test_rows_are_text_eos_and_tokens_and_harder_sizes_take_the_first(texts: list[tuple[int, int]], kind: str) -> None:
    own = compressor(kind, window_tokens=40)
    lengths = [tokens for tokens, _ in texts]
    given_rows = torch.randn(sum(lengths) + len(lengths), 4)
    prepared = own.prepare(given_rows, [tokens + 1 for tokens in lengths])
    assert prepared.added == tuple(-(-tokens // 2) for tokens in lengths)
    start = at = 0
    for tokens, more in zip(lengths, prepared.added, strict=True):
        row = prepared.embeddings[at : at + tokens + 1 + more]
        assert torch.equal(row[: tokens + 1], given_rows[start : start + tokens + 1])
        for i in range(more):
            assert torch.equal(row[tokens + 1 + i], own.tokens[0 if kind == "shared" else i])
        start, at = start + tokens + 1, at + len(row)
    assert at == len(prepared.embeddings)
    states = torch.randn(sum(prepared.added), 4, dtype=torch.float64)
    added = Added(states=states, counts=prepared.added)
    sizes = [Ratio(2 * factor) for _, factor in texts]
    made = own.extract(torch.zeros(sum(lengths), 4), lengths, sizes, added)
    expected, spans, start = [], [], 0
    for tokens, size, more in zip(lengths, sizes, prepared.added, strict=True):
        expected += [states[start + i] for i in range(size.latents(tokens))]
        spans += [[0, tokens]] * size.latents(tokens)
        start += more
    assert torch.equal(made.vectors, torch.stack(expected))
    assert made.spans.tolist() == spans


def test_states_of_half_precision_become_float32() -> None:
    added = Added(states=torch.ones(3, 4, dtype=torch.bfloat16), counts=(3,))
    made = compressor().extract(torch.zeros(6, 4), [6], [Ratio(2)], added)
    assert made.vectors.dtype == torch.float32


# ---- how many ----


def most_of(sizes: Sequence[Size]) -> Any:
    return lambda tokens: max(size.latents(tokens) for size in sizes)


@pytest.mark.parametrize(
    ("sizes", "entries"),
    [((Ratio(2), Ratio(8)), 6), ((Ratio(5),), 3), ((Length(4), Length(9)), 9), ((Length(64),), 12), ((Ratio(1),), 12)],
)
def test_there_are_as_many_embeddings_as_the_longest_window_needs(sizes: Sequence[Size], entries: int) -> None:
    most = most_of(sizes)
    different, shared = (compressor(kind, most=most) for kind in KINDS)
    assert different.tokens.shape == (entries, 4)
    assert shared.tokens.shape == (1, 4)
    for tokens in range(1, 13):
        assert different.adds(tokens) == shared.adds(tokens) == most(tokens)


def test_a_press_takes_the_sizes_of_its_policy(tiny_base: Base) -> None:
    assert tokens_of(press_model(tiny_base)).shape == (24, WIDTH)
    assert tokens_of(press_model(tiny_base, candidates=(4, 8))).shape == (12, WIDTH)
    assert tokens_of(press_model(tiny_base, window_tokens=30, policy="fixed")).shape == (15, WIDTH)
    assert tokens_of(press_model(tiny_base, "shared")).shape == (1, WIDTH)


def test_a_text_that_needs_more_embeddings_than_there_are_is_refused(tiny_base: Base) -> None:
    model = press_model(tiny_base)
    model.encode([list(range(3, 51))])
    message = (
        "a text of 49 tokens needs 25 compression tokens, and this press has embeddings for 24, enough for window_"
    )
    with pytest.raises(RatioError, match=message):
        model.encode([list(range(3, 52))])
    assert press_model(tiny_base, "shared").encode([list(range(3, 52))]).added.counts == (25,)


def test_a_size_of_more_latents_than_tokens_were_read_is_refused(tiny_base: Base) -> None:
    model = press_model(tiny_base)
    encoded = model.encode(TEXTS)
    with pytest.raises(RatioError, match="11 latents of a text of 11 tokens are more than the 6 compression tokens"):
        model.latents(encoded, [Ratio(2), Ratio(2), Ratio(1), Ratio(2)])


@pytest.mark.parametrize(("window", "fits"), [(340, True), (341, False)])
def test_window_eos_and_tokens_fit_the_encoders_positions(tiny_base: Base, window: int, fits: bool) -> None:
    assert window + 1 + -(-window // 2) <= POSITIONS or not fits
    if fits:
        press_model(tiny_base, window_tokens=window)
        return
    message = (
        "compressor 'compression-tokens' reads 171 tokens behind a window of 341 and its EOS, and base model "
        "'tiny-llama' has 512 positions; lower window_tokens"
    )
    with pytest.raises(PressError, match=message):
        press_model(tiny_base, window_tokens=window)


# ---- where they start, and how they learn ----


def test_tokens_start_where_the_bases_embeddings_lie(tiny_base: Base) -> None:
    config = config_for(tiny_base, compressor="compression-tokens", residual="none", candidates=(1,), window_tokens=250)
    tokens = tokens_of(make_model(config, tiny_base, trained=False)).detach()
    table = tiny_base.model.get_input_embeddings().weight
    spread, mean = torch.std_mean(table, 0)
    assert len(tokens) == 250
    torch.testing.assert_close(tokens.mean(0), mean, atol=0.05, rtol=0)  # 5 standard errors of 0.15 / sqrt(250)
    torch.testing.assert_close(tokens.std(0).mean(), spread.mean(), atol=0, rtol=0.03)
    assert len(tokens.unique(dim=0)) == 250


def test_tokens_follow_the_seed_alone(tiny_base: Base) -> None:
    def started(seed: int) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = config_for(tiny_base, compressor="compression-tokens", residual="none")
            return tokens_of(PressModel(config, tiny_base)).detach()

    assert torch.equal(started(1), started(1))
    assert not torch.equal(started(1), started(2))


def test_a_recipe_is_checked_without_random_numbers() -> None:
    before = torch.get_rng_state()
    recipe = RECIPES["compression-tokens"]()
    dataclasses.replace(recipe, compressor_settings={"embeddings": "shared"})
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adapter", [True, False])
def test_gradients_reach_every_token_that_is_read_with_and_without_an_adapter(
    tiny_base: Base, kind: str, adapter: bool
) -> None:
    model = press_model(tiny_base, kind, **({} if adapter else {"encoder_lora": None})).train()
    assert model.trains_encoder == adapter
    model.latents(model.encode(TEXTS), Ratio(4)).vectors.square().sum().backward()
    grad = tokens_of(model).grad
    assert grad is not None
    reached = grad.abs().sum(1) > 0
    assert reached.tolist() == ([True] if kind == "shared" else [i < 3 for i in range(24)])  # 11 tokens at ratio 4
    assert all(p.grad is None for p in tiny_base.model.parameters())
    with torch.no_grad():
        assert not model.encode(TEXTS).added.states.requires_grad


def test_a_training_in_which_nothing_reads_them_keeps_nothing_for_a_way_back(tiny_base: Base) -> None:
    model = press_model(tiny_base, encoder_lora=None)
    model.compressor.requires_grad_(False)
    assert not model.encode(TEXTS).added.states.requires_grad


# ---- through the press ----


@pytest.mark.parametrize("kind", KINDS)
def test_every_latent_of_a_window_covers_all_of_it(tiny_base: Base, kind: str) -> None:
    press = Press(press_model(tiny_base, kind), tiny_base, None, "ab")
    made = press.compress(" ".join(CORPUS), ratio=4)
    assert len(made.windows) > 1
    expected = [[w.start, w.start + w.tokens] for w in made.windows for _ in range(w.latents)]
    assert made.token_spans.tolist() == expected
    assert made.ratio <= 4
    session = press.session(made)
    assert session.ask("who?", max_new_tokens=4) == press.ask(made, "who?", max_new_tokens=4)


def test_a_selector_chooses_for_each_window_from_what_was_read_once(tiny_base: Base) -> None:
    """Whatever the scale, the prediction is the same, and a harder choice is the first latents of a softer one."""
    press = Press(press_model(tiny_base), tiny_base, None, "ab")
    soft, hard = (press.compress(" ".join(CORPUS), scale=scale) for scale in (-9.0, 9.0))
    assert [w.log2_ratio for w in soft.windows] == [w.log2_ratio for w in hard.windows]
    assert {w.ratio for w in soft.windows} == {2}
    assert {w.ratio for w in hard.windows} == {8}
    many, few = (one.vectors.split([w.latents for w in one.windows]) for one in (soft, hard))
    for mine, theirs in zip(few, many, strict=True):
        torch.testing.assert_close(mine, theirs[: len(mine)], atol=1e-5, rtol=1e-5)
