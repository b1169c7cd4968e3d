"""The network: two adapters over one copy of the base, one path for training and inference, settings that fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny import config_for, make_model, make_network, make_tokenizer

from latentpress.attention import Layout
from latentpress.backbone import wrap_base
from latentpress.checkpoints.config import BaseReference
from latentpress.compressors import Length, Ratio
from latentpress.compressors.base import window_means
from latentpress.data.rows import Branch, Example
from latentpress.decoder.prompt import Slot
from latentpress.errors import PressError
from latentpress.model import Encoded, PressModel, make_policy
from latentpress.ratios import POLICIES
from latentpress.training.objective import RowLoss, row_loss

if TYPE_CHECKING:
    from latentpress.backbone import Base
    from latentpress.checkpoints.config import PressConfig

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def text(tokens: int, seed: int = 0) -> list[int]:
    draw = torch.Generator().manual_seed(seed)
    return [int(i) for i in torch.randint(3, 300, (tokens,), generator=draw)]


ROW = Example(
    windows=(tuple(text(19)), tuple(text(7, 1))),
    documents=(1, 1),
    prefix=([1, 9, 10], Slot(0), [20], Slot(1)),
    branches=(Branch("answer", (30, 31, 32, 2), 2), Branch("summary", (40, 41, 2), 1)),
    log2_ratios=(1.5, None),
)


def loss_of(model: PressModel) -> RowLoss:
    return row_loss(model, [ROW], Ratio(4))


def total(result: RowLoss) -> torch.Tensor:
    return result.lm / result.tokens + result.ratio / max(1, result.labelled)


def test_encoder_decoder_and_base_are_one_copy_of_the_weights(tiny_bases: Base) -> None:
    model = PressModel(config_for(tiny_bases), tiny_bases)
    base = {p.data_ptr() for p in tiny_bases.model.parameters()}
    for tree in (model.encoder, model.decoder):
        assert tree is not None
        assert {p.data_ptr() for p in tree.parameters() if not p.requires_grad} <= base
    held = {p.data_ptr(): p.numel() for p in model.parameters() if not p.requires_grad}
    assert sum(held.values()) <= sum(p.numel() for p in tiny_bases.model.parameters())


def test_the_adapters_are_two_sets_of_parameters(tiny_model: PressModel) -> None:
    assert tiny_model.encoder is not None
    encoder, decoder = (
        {id(p) for p in tree.parameters() if p.requires_grad} for tree in (tiny_model.encoder, tiny_model.decoder)
    )
    assert encoder
    assert decoder
    assert not encoder & decoder


@pytest.mark.parametrize("recompute", [False, True])
def test_one_training_step_moves_both_adapters(tiny_base: Base, recompute: bool) -> None:
    """From a fresh start, where B is zero, and with activations recomputed in the backward pass too."""
    model = make_model(config_for(tiny_base, residual="none"), tiny_base, trained=False).train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    optimiser = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0.0)
    for _ in range(2):  # A moves once B has
        optimiser.zero_grad()
        if recompute:
            result = torch.utils.checkpoint.checkpoint(lambda: total(loss_of(model)), use_reentrant=False)
        else:
            result = total(loss_of(model))
        result.backward()
        optimiser.step()
    still = [name for name, p in trained.items() if torch.equal(p, before[name])]
    assert not still
    assert any(name.startswith("encoder.") for name in trained)
    assert any(name.startswith("decoder.") for name in trained)


def test_training_never_touches_the_base(tiny_base: Base, tiny_model: PressModel) -> None:
    before = {name: p.clone() for name, p in tiny_base.model.named_parameters()}
    trained = [p for p in tiny_model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=0.1)
    total(loss_of(tiny_model.train())).backward()
    optimiser.step()
    assert {id(p) for p in trained}.isdisjoint({id(p) for p in tiny_base.model.parameters()})
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in tiny_base.model.named_parameters())


def test_gradients_reach_every_trained_part(tiny_bases: Base) -> None:
    model = make_model(config_for(tiny_bases), tiny_bases)
    total(loss_of(model)).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.abs().sum() > 0), name


def test_without_a_label_nothing_reaches_the_head(tiny_model: PressModel) -> None:
    result = row_loss(tiny_model, [replace(ROW, log2_ratios=(None, None))], Ratio(4))
    (result.lm + result.ratio).backward()
    assert result.labelled == 0
    assert tiny_model.head is not None
    assert all(p.grad is None or not bool(p.grad.any()) for p in tiny_model.head.parameters())


def test_no_pass_changes_the_model(tiny_bases: Base, frozen: Callable[[Any], None]) -> None:
    model = make_model(config_for(tiny_bases), tiny_bases)
    frozen(model)
    frozen(tiny_bases.model)
    with torch.no_grad():
        encoded = model.encode([text(50), text(3, 1)])
        model.latents(encoded, [Ratio(8), Length(2)])
    total(loss_of(model.train())).backward()
    model.zero_grad()
    model.eval()


def test_the_end_token_serves_the_head_and_is_not_pooled(tiny_base: Base) -> None:
    model = make_model(config_for(tiny_base, residual="none"), tiny_base)
    encoder, head = model.encoder, model.head
    assert encoder is not None
    assert head is not None
    ids = text(10)
    with torch.no_grad():
        encoded = model.encode([ids])
        row = torch.tensor([*ids, 2])
        states = encoder(encoder.embed(row), Layout.of((11,), "bidirectional"))
        made = model.latents(encoded, [Ratio(4)])
    assert encoded.states.shape == (10, 64)
    torch.testing.assert_close(encoded.states, states[:10])
    torch.testing.assert_close(encoded.log2_ratios, head(states[10:]))
    pooled = window_means(states[:10], torch.arange(10) // 4, 3)
    torch.testing.assert_close(made.vectors, model.converter(pooled, torch.float32))  # type: ignore[misc]
    assert made.spans.tolist() == [[0, 4], [4, 8], [8, 10]]


@pytest.mark.parametrize("seed", range(3))
def test_states_and_predictions_do_not_depend_on_company_or_order(tiny_bases: Base, seed: int) -> None:
    model = make_model(config_for(tiny_bases), tiny_bases)
    draw = torch.Generator().manual_seed(seed)
    texts = [text(int(n), seed) for n in torch.randint(1, 60, (5,), generator=draw)]
    order = torch.randperm(5, generator=draw).tolist()
    with torch.no_grad():
        packed = model.encode([texts[i] for i in order])
        for place, i in enumerate(order):
            alone = model.encode([texts[i]])
            torch.testing.assert_close(packed.states.split(packed.lengths)[place], alone.states, **CLOSE)
            torch.testing.assert_close(packed.log2_ratios[place], alone.log2_ratios[0], **CLOSE)  # type: ignore[index]
            assert packed.ids.split(packed.lengths)[place].tolist() == texts[i]


def test_long_and_short_texts_take_different_kernels_with_the_same_result(tiny_base: Base) -> None:
    """A companion above the length at which the back-end changes must not change a short text."""
    model = make_model(config_for(tiny_base), tiny_base)
    with torch.no_grad():
        alone = model.encode([text(30)])
        beside = model.encode([text(30), text(700, 1)])
    torch.testing.assert_close(beside.states[:30], alone.states, **CLOSE)


def test_a_fresh_press_hands_over_the_embeddings_alone(tiny_base: Base) -> None:
    """The converter starts at zero beside a residual, which starts as the plain mean."""
    model = make_model(config_for(tiny_base), tiny_base, trained=False)
    ids = text(8)
    with torch.no_grad():
        made = model.latents(model.encode([ids]), [Ratio(4)])
        embedded = model.decoder.embed(torch.tensor(ids))
    torch.testing.assert_close(made.vectors, torch.stack([embedded[:4].mean(0), embedded[4:].mean(0)]))


def test_latents_come_in_the_decoders_type() -> None:
    tokenizer = make_tokenizer()
    base = wrap_base(make_network("llama", len(tokenizer)).to(torch.bfloat16), tokenizer, id="half", fingerprint="0")
    model = make_model(config_for(base), base)
    with torch.no_grad():
        encoded = model.encode([text(9)])
        made = model.latents(encoded, [Ratio(4)])
    assert made.vectors.dtype == torch.bfloat16
    assert encoded.log2_ratios is not None
    assert encoded.log2_ratios.dtype == torch.float32
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


# ---- an encoder of another base ----


def two_base_config(base: Base, other: Base, **changes: Any) -> PressConfig:
    reference = BaseReference(id=other.id, fingerprint=other.fingerprint, width=other.width)
    return config_for(base, encoder_base=reference, **{"residual": "none", **changes})


def test_the_encoder_may_be_another_base_of_another_width_and_tokenizer(tiny_base: Base, other_base: Base) -> None:
    model = make_model(two_base_config(tiny_base, other_base), tiny_base, other_base)
    ids = other_base.tokenizer("The treaty was signed in Paris.", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        encoded = model.encode([ids, ids[:3]])
        made = model.latents(encoded, [Ratio(4), Ratio(2)])
    assert encoded.states.shape == (len(ids) + 3, 48)
    assert made.vectors.shape == (-(-len(ids) // 4) + 2, 64)
    total(loss_of(model)).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    for base in (tiny_base, other_base):
        assert all(p.grad is None for p in base.model.parameters())


def test_each_side_shares_the_weights_of_its_own_base(tiny_base: Base, other_base: Base) -> None:
    model = make_model(two_base_config(tiny_base, other_base), tiny_base, other_base)
    for tree, base in ((model.encoder, other_base), (model.decoder, tiny_base)):
        assert tree is not None
        assert {p.data_ptr() for p in tree.parameters() if not p.requires_grad} <= {
            p.data_ptr() for p in base.model.parameters()
        }


@pytest.mark.parametrize("residual", ["mean", "salient"])
def test_a_residual_across_tokenizers_is_refused(tiny_base: Base, other_base: Base, residual: str) -> None:
    with pytest.raises(PressError, match=f"residual='{residual}'.*set residual='none'"):
        PressModel(two_base_config(tiny_base, other_base, residual=residual), tiny_base, other_base)


def test_the_encoders_base_must_be_given_when_and_only_when_the_settings_name_one(
    tiny_base: Base, other_base: Base
) -> None:
    with pytest.raises(PressError, match="'tiny' needs another base model"):
        PressModel(two_base_config(tiny_base, other_base), tiny_base)
    with pytest.raises(PressError, match="'tiny' needs no other base model"):
        PressModel(config_for(tiny_base), tiny_base, other_base)


# ---- settings that do not fit ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compressor": "zip"}, "compressor 'zip' is unknown; choose one of mean-pooling"),
        ({"policy": "dice"}, "ratio policy 'dice' is unknown; choose one of fixed, fixed-length, selector"),
        ({"residual": "much"}, "residual 'much' is unknown; choose one of none, mean, salient"),
        (
            {"compressor": "first-tokens", "policy": "fixed"},
            "'first-tokens' has no encoder; set residual='none', policy='fixed'",
        ),
        (
            {"compressor": "first-tokens", "policy": "continuous-length", "residual": "none"},
            "ratio policy 'continuous-length' .* compressor 'first-tokens' has no encoder; .* 'fixed-length'",
        ),
        (
            {"compressor": "comprexit", "policy": "length-selector", "residual": "none", "encoder_lora": None},
            r"ratio policy 'length-selector' chooses lengths, and compressor 'comprexit' makes ratios only; "
            "choose the policy fixed or selector or continuous, or the compressor mean-pooling or last-tokens or",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named(tiny_base: Base, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PressError, match=message):
        PressModel(config_for(tiny_base, **changes), tiny_base)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounding": "up"}, "'tiny'.*rounding 'up' is unknown; choose linear or log"),
        ({"selection": "all"}, "'tiny'.*selection 'all' is unknown; choose window or document"),
        ({"candidates": (4, 2)}, r"'tiny'.*candidates \[4, 2\] must be"),
        ({"candidates": (), "policy": "fixed"}, r"'tiny'.*candidates \[\] must be"),
    ],
)
def test_a_policy_that_cannot_be_is_named(tiny_base: Base, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PressError, match=message):
        make_policy(config_for(tiny_base, **changes))


def test_a_base_without_an_end_token_is_refused(tiny_base: Base) -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    base = wrap_base(tiny_base.model, tokenizer, id="endless", fingerprint="0")
    with pytest.raises(PressError, match="'endless' has no EOS token"):
        PressModel(config_for(base), base)


@pytest.mark.parametrize(("policy", "predicts"), [(name, kind.predicts) for name, kind in POLICIES.items()])
def test_the_head_is_there_when_the_policy_reads_it(tiny_base: Base, policy: str, predicts: bool) -> None:
    model = make_model(config_for(tiny_base, policy=policy), tiny_base)
    encoded: Encoded = model.encode([text(5)])
    assert (model.head is not None) == (encoded.log2_ratios is not None) == predicts
    assert any(name.startswith("head.") for name in model.own_state()) == predicts


def test_own_state_and_adapters_are_all_that_is_trained(tiny_model: PressModel) -> None:
    trained = sum(p.numel() for p in tiny_model.parameters() if p.requires_grad)
    states = [tiny_model.own_state(), *tiny_model.adapter_states().values()]
    assert trained == sum(tensor.numel() for state in states for tensor in state.values())
