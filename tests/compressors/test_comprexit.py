"""ComprExIT's modules agree with the formula written out, values and gradients."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from comprexit_reference import anchors, sinkhorn, slots
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import LAYERS as LAYERS_OF_TINY
from tiny import config_for, make_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from latentpress.compressors import ComprExIT, Ratio
from latentpress.compressors.comprexit import depth
from latentpress.compressors.comprexit import sinkhorn as transport
from latentpress.compressors.comprexit.depth import DepthTransmission
from latentpress.compressors.comprexit.sinkhorn import transport_plan
from latentpress.compressors.comprexit.width import Segments, WidthTransmission
from latentpress.errors import InputError, PressError
from latentpress.loading import load_model
from latentpress.press import Press
from latentpress.training.checkpoint import export_press

if TYPE_CHECKING:
    from latentpress.backbone import Base
    from latentpress.model import PressModel

LAYERS, WIDTH, OUT = 5, 24, 20
TEXT = "A harbour is a place where ships may shelter, be mended and be loaded."
# Whole segments, a partial one, shorter than a ratio, a single token.
LENGTHS = (64, 45, 3, 1, 33)
SEGMENT = 32


def stirred(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Moves every weight, so that no part of a module is silent."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=draw)
    return module


def laid(lengths: Sequence[int], ratios: Sequence[int], segment: int = SEGMENT) -> Segments:
    """Texts in segments, all segments of a text at its ratio."""
    each = [ratio for length, ratio in zip(lengths, ratios, strict=True) for _ in range(-(-length // segment))]
    return Segments.of(lengths, each, segment, torch.device("cpu"))


@pytest.fixture(autouse=True)
def same_weights() -> None:
    torch.manual_seed(0)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def agree(found: Tensor, expected: Tensor, at: str, within: float = 1e-5) -> None:
    """To so much of the largest magnitude."""
    error = float((found.detach().double() - expected.detach()).abs().max())
    assert error <= within * float(expected.detach().abs().max()), f"{at}: {error}"


@pytest.mark.parametrize("normalise", [False, True])
def test_anchors_and_their_gradients_are_those_of_the_formula(normalise: bool) -> None:
    tokens = depth._TOKENS_AT_ONCE + 40  # more than a block
    ours = stirred(DepthTransmission(WIDTH, LAYERS, query_width=16, normalise=normalise))
    plain = copy.deepcopy(ours).double()
    states = normal(LAYERS, tokens, WIDTH) * torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0])[:, None, None]
    weights = normal(tokens, WIDTH, seed=1)
    found, by_layer = ours(states)
    expected = anchors(plain, states.double())
    agree(found, expected, "anchors")
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, one), (_, other) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        if name == "key.bias":  # adds the same to the score of every layer, so its gradient is 0 but for rounding
            assert float(one.grad.abs().max()) < 1e-4
            continue
        agree(one.grad, other.grad, name)
    torch.testing.assert_close(by_layer.sum(0), torch.ones(tokens))


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that an operation returns memory of its own for."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {one.untyped_storage().data_ptr() for one in args if isinstance(one, Tensor)}
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, Tensor) and one.untyped_storage().data_ptr() not in given:
                self.numel = max(self.numel, one.numel())
        return result


@pytest.mark.parametrize("normalise", [False, True])
def test_nothing_as_large_as_the_states_is_made_on_either_way(normalise: bool) -> None:
    module = DepthTransmission(WIDTH, LAYERS, query_width=16, normalise=normalise)
    states = normal(LAYERS, 4 * depth._TOKENS_AT_ONCE, WIDTH).bfloat16()
    with Largest() as seen:
        anchor, _ = module(states)
        anchor.float().square().sum().backward()
    assert module.query.weight.grad is not None
    assert seen.numel <= states.numel() / 4


def test_in_bfloat16_anchors_are_no_further_from_the_formula_than_the_formula_in_bfloat16() -> None:
    module = stirred(DepthTransmission(WIDTH, LAYERS, query_width=16))
    states = normal(LAYERS, 300, WIDTH).bfloat16()
    with torch.no_grad():
        exact = anchors(copy.deepcopy(module).double(), states.double())
        plain = anchors(copy.deepcopy(module).bfloat16(), states).double()
        ours = module(states)[0].double()
    assert float((ours - exact).norm()) <= 1.1 * float((plain - exact).norm())


@pytest.mark.parametrize("locality", [0.0, 0.5])
@pytest.mark.parametrize("ratio", [2, 3, 4, 8, 16, 32])
def test_slots_and_their_gradients_are_those_of_the_formula(ratio: int, locality: float) -> None:
    ours = stirred(WidthTransmission(WIDTH, OUT, query_width=16, locality=locality))
    plain = copy.deepcopy(ours).double()
    anchor = normal(sum(LENGTHS), WIDTH).requires_grad_()
    exact = anchor.detach().double().requires_grad_()
    segments = laid(LENGTHS, [ratio] * len(LENGTHS))
    found, sent = ours(anchor, segments)
    expected = torch.cat([slots(plain, text, ratio, SEGMENT) for text in exact.split(LENGTHS)])
    agree(found, expected, "slots")
    weights = normal(*found.shape, seed=1)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert anchor.grad is not None
    assert exact.grad is not None
    agree(anchor.grad, exact.grad, "anchors")
    largest = max(float(other.grad.abs().max()) for other in plain.parameters() if other.grad is not None)
    for (name, one), (_, other) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        if float(other.grad.abs().max()) < 1e-9 * largest:  # of no effect, as a bias that all tokens share
            assert float(one.grad.abs().max()) < 1e-5 * largest
        else:
            agree(one.grad, other.grad, name)
    torch.testing.assert_close(sent.capacity.sum(1), torch.ones(len(segments.tokens)))


def test_each_text_has_its_own_ratio_and_companions_change_nothing() -> None:
    module = stirred(WidthTransmission(WIDTH, OUT, query_width=16))
    ratios = (4, 2, 8, 4, 16)
    anchor = normal(sum(LENGTHS), WIDTH)
    with torch.no_grad():
        together, _ = module(anchor, segments := laid(LENGTHS, ratios))
        assert segments.counts == (16, 23, 1, 1, 3)
        parts = together.split(segments.counts)
        for text, length, ratio, part in zip(anchor.split(LENGTHS), LENGTHS, ratios, parts, strict=True):
            alone, _ = module(text, laid((length,), (ratio,)))
            torch.testing.assert_close(alone, part, atol=1e-5, rtol=1e-5)


@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=5), ratio=st.integers(1, 40), size=st.integers(1, 50))
def test_segments_tile_the_true_tokens(lengths: list[int], ratio: int, size: int) -> None:
    segments = laid(lengths, [ratio] * len(lengths), size)
    spans = segments.spans.split(segments.counts)
    for length, covered in zip(lengths, spans, strict=True):
        edges = [0, *(int(end) for end in covered[:, 1])]
        assert edges == sorted(set(edges))
        assert edges[-1] == length
        assert covered[:, 0].tolist() == edges[:-1]
    assert int(segments.tokens.sum()) == sum(lengths)
    assert segments.slots.tolist() == [-(-int(tokens) // ratio) for tokens in segments.tokens]
    assert segments.slot_of.bincount().tolist() == (segments.spans[:, 1] - segments.spans[:, 0]).tolist()


def problem(
    tokens: int, slots: int, seed: int, dtype: torch.dtype = torch.float64, spread: float = 2.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Costs and capacities of one segment."""
    cost = spread * torch.rand(1, tokens, slots, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    senders = torch.softmax(normal(1, tokens, seed=seed + 1, dtype=dtype), 1)
    return cost, senders, torch.full((1, slots), 1 / slots, dtype=dtype)


@settings(max_examples=30, deadline=None)
@given(
    tokens=st.integers(1, 20),
    slots=st.integers(1, 8),
    iterations=st.integers(1, 12),
    seed=st.integers(0, 99),
    spread=st.sampled_from([0.5, 2.0, 9.0]),
)
def test_plans_and_gradients_are_those_of_the_plain_iterations(
    tokens: int, slots: int, iterations: int, seed: int, spread: float
) -> None:
    """A spread of 9 at epsilon 0.1 is beyond what matrix-vector products are trusted with."""
    given_to = [one.requires_grad_() for one in problem(tokens, slots, seed, spread=spread)]
    found = transport_plan(*given_to, iterations=iterations)
    cost, senders, receivers = (one[0] for one in given_to)
    expected = sinkhorn(cost, senders, receivers, 0.1, iterations)
    torch.testing.assert_close(found[0], expected, atol=1e-12, rtol=1e-9)
    weights = normal(tokens, slots, seed=2, dtype=torch.float64)
    ours = torch.autograd.grad((found[0] * weights).sum(), given_to)
    theirs = torch.autograd.grad((expected * weights).sum(), given_to)
    for name, one, other in zip(("cost", "senders", "receivers"), ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-7, msg=name)


@pytest.mark.parametrize("spread", [2.0, 9.0])
def test_rows_and_columns_without_capacity_carry_nothing(spread: float) -> None:
    cost, senders, receivers = problem(6, 4, 0, spread=spread)
    wide = torch.full((2, 9, 6), torch.inf, dtype=torch.float64)
    wide[0, :6, :4] = cost[0]
    wide[1, :3, :1] = cost[0, :3, :1]
    p, b = torch.zeros(2, 9, dtype=torch.float64), torch.zeros(2, 6, dtype=torch.float64)
    p[0, :6], b[0, :4] = senders[0], receivers[0]
    p[1, :3], b[1, :1] = 1 / 3, 1.0
    given_to = [one.requires_grad_() for one in (wide, p, b)]
    found = transport_plan(*given_to)
    torch.testing.assert_close(found[0, :6, :4], transport_plan(cost, senders, receivers)[0].detach())
    assert not bool(found[0, 6:].any() | found[0, :, 4:].any() | found[1, 3:].any() | found[1, :, 1:].any())
    for gradient in torch.autograd.grad(found.square().sum(), given_to):
        assert bool(gradient.isfinite().all())
        absent = gradient[0, 6:] if gradient.ndim == 3 else gradient[0, -2:]
        assert not bool(absent.any())


def test_a_known_bound_of_the_costs_changes_no_plan() -> None:
    cost, senders, receivers = problem(30, 8, 0)
    known = transport_plan(cost, senders, receivers, most=2.0)
    torch.testing.assert_close(known, transport_plan(cost, senders, receivers), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("spread", [2.0, 9.0])
def test_capacities_next_to_nothing_give_finite_gradients(spread: float) -> None:
    cost, senders, receivers = (one.float() for one in problem(6, 3, 0, spread=spread))
    senders[0, 2], senders[0, 4] = 1e-36, 1e-42
    given_to = [one.requires_grad_() for one in (cost, senders / senders.sum(), receivers)]
    found = transport_plan(*given_to)
    assert not bool(found[0, 4].any())
    gradients = torch.autograd.grad(found.square().sum(), given_to)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert not any(bool(gradient[0, 4].any()) for gradient in gradients[:2])  # not there, on either way


def test_what_is_kept_for_the_way_back_does_not_grow_with_the_iterations() -> None:
    def kept(iterations: int) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda one: (sizes.append(one.numel()), one)[1], lambda one: one):
            cost, senders, receivers = problem(32, 8, 0)
            transport_plan(cost.requires_grad_(), senders, receivers, iterations=iterations)
        return sum(sizes)

    assert kept(2) == kept(60)


@pytest.mark.parametrize("gradient", ["iterations", "implicit"])
def test_the_converged_plan_is_that_of_a_solver(gradient: transport.Gradient) -> None:
    import ot

    cost, senders, receivers = problem(40, 10, 3)
    found = transport_plan(cost, senders, receivers, iterations=5000, gradient=gradient)[0]
    assert float((found.sum(1) - senders[0]).abs().max()) < 1e-9
    assert float((found.sum(0) - receivers[0]).abs().max()) < 1e-9
    expected = ot.sinkhorn(
        senders[0].numpy(),
        receivers[0].numpy(),
        cost[0].numpy(),
        0.1,
        method="sinkhorn_log",
        stopThr=1e-12,
        numItermax=20000,
    )
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-9, rtol=1e-6)


def test_the_implicit_gradient_is_that_of_converged_iterations() -> None:
    weights = normal(1, 12, 5, dtype=torch.float64)
    results = []
    for gradient in ("iterations", "implicit"):
        cost, senders, receivers = (one.requires_grad_() for one in problem(12, 5, 1))
        plan = transport_plan(cost, senders, receivers, iterations=3000, gradient=gradient)  # type: ignore[arg-type]
        found = torch.autograd.grad((plan * weights).sum(), (cost, senders, receivers))
        # Capacities are felt up to a constant: what all senders gain the receivers must.
        results.append((found[0], found[1] - found[1].mean(), found[2] - found[2].mean()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize(("iterations", "epsilon"), [(0, 0.1), (30, 0.0), (30, float("nan"))])
def test_a_transport_without_a_plan_is_refused(iterations: int, epsilon: float) -> None:
    with pytest.raises(InputError, match="1 iteration or more and an epsilon above 0"):
        transport_plan(*problem(3, 2, 0), iterations=iterations, epsilon=epsilon)


def test_bfloat16_anchors_carry_a_float32_plan() -> None:
    module = stirred(WidthTransmission(WIDTH, OUT, query_width=16))
    anchor = normal(sum(LENGTHS), WIDTH)
    segments = laid(LENGTHS, [4] * len(LENGTHS))
    with torch.no_grad():
        found, sent = module(anchor.bfloat16(), segments)
        expected, _ = module(anchor, segments)
    assert found.dtype == torch.bfloat16
    assert sent.plan.dtype == sent.capacity.dtype == torch.float32
    assert float((found.float() - expected).norm() / expected.norm()) < 0.03


def comprexit(
    tiny_base: Base, press: dict[str, Any] | None = None, *, trained: bool = True, **changes: Any
) -> PressModel:
    """A tiny press, with changes of its compressor's settings, and of its own as `press`."""
    config = config_for(
        tiny_base,
        compressor="comprexit",
        compressor_settings={"segment_tokens": 8, "query_width": 16} | changes,
        **{
            "residual": "none",
            "policy": "fixed",
            "encoder_layers": None,
            "encoder_lora": None,
            "decoder_lora": None,
            **(press or {}),
        },
    )
    return make_model(config, tiny_base, trained=trained)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segment_tokens": 0}, "segment_tokens is 0, it must be at least 1"),
        ({"segment_tokens": 4}, "ratio 8 leaves a segment of 4 tokens less than a slot; choose ratios up to 4"),
        ({"temperature": 0.0}, r"temperature is 0\.0, it must be above 0"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"uniform": 1.5}, r"uniform is 1\.5, it must be above 0 and at most 1"),
        ({"uniform": 0.0}, r"uniform is 0\.0, it must be above 0 and at most 1"),
        ({"layer": 4}, r"layer 4 does not exist; choose 0 \(the embedding output\) to 3"),
        ({"layer": -5}, "layer -5 does not exist"),
        ({"transport": "boat"}, "transport is 'boat'; choose one of sinkhorn, window"),
        ({"capacity": "none"}, "choose one of learned, uniform"),
        ({"receivers": "last"}, "choose one of means, shuffled"),
        ({"selects": "token"}, "choose one of window, segment"),
        ({"segments": 4}, "unknown key 'segments'; known are segment_tokens,"),
        ({"iterations": 2.5}, r"iterations is 2\.5, expected int"),
        ({"locality": -0.5}, r"locality is -0\.5, it must be between 0 and 4"),
        ({"gradient": "none"}, "gradient is 'none'; choose one of iterations, implicit"),
    ],
)
def test_settings_that_cannot_be_are_refused(tiny_base: Base, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PressError, match=f"'tiny': compressor_settings.*{message}"):
        comprexit(tiny_base, **changes)


def test_an_adapter_that_would_never_be_trained_is_refused(tiny_base: Base) -> None:
    config = config_for(tiny_base, compressor="comprexit", residual="none", policy="fixed")
    with pytest.raises(PressError, match=r"compressor 'comprexit' reads the base model as it is.*encoder_lora to none"):
        make_model(config, tiny_base)


def test_a_frozen_model_is_shared_and_nothing_of_it_is_kept_for_the_way_back(tiny_base: Base) -> None:
    model = comprexit(tiny_base).train()
    encoded = model.encode([[5, 6, 7, 8, 9]])
    assert not encoded.states.requires_grad
    assert encoded.states.shape == (LAYERS_OF_TINY + 1, 5, tiny_base.width)
    own = {id(p) for p in tiny_base.model.parameters()}
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert {id(p) for p in frozen} <= own
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert {name.split(".")[0] for name in trained} == {"compressor"}
    model.latents(encoded, [Ratio(2)]).vectors.sum().backward()
    assert all(p.grad is None for p in frozen)


def test_a_press_without_adapters_is_saved_and_read(tiny_base: Base, tiny_base_folder: Path, tmp_path: Path) -> None:
    model = comprexit(tiny_base)
    export_press(tmp_path / "press", model, model.config)
    assert sorted(path.name for path in (tmp_path / "press").iterdir()) == ["config.json", "modules.safetensors"]
    loaded, _, _ = load_model(tmp_path / "press", base=tiny_base_folder, dtype="float32", device="cpu")
    texts = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [20]]
    with torch.no_grad():
        mine, theirs = (one.latents(one.encode(texts), [Ratio(4)] * 2).vectors for one in (model, loaded))
    torch.testing.assert_close(mine, theirs, atol=0.05, rtol=0.05)  # the file is bfloat16
    press = Press(loaded, tiny_base, None, "ab")
    latents = press.compress("the treaty was signed in Paris on the first day of May", ratio=4)
    assert isinstance(press.ask(latents, "where?", max_new_tokens=3), str)


@pytest.mark.parametrize(
    "changes",
    [
        {"layer": 0},
        {"layer": -1},
        {"layer": 2},
        {"transport": "window"},
        {"capacity": "uniform"},
        {"receivers": "shuffled"},
    ],
    ids=str,
)
def test_ablations_are_other_presses_of_the_same_latents_in_number(tiny_base: Base, changes: dict[str, Any]) -> None:
    texts = [list(range(5, 26)), [7, 8, 9]]
    plain, other = comprexit(tiny_base), comprexit(tiny_base, **changes)
    if "layer" not in changes:
        other.load_state_dict(plain.state_dict())
    made = [one.latents(one.encode(texts), [Ratio(2), Ratio(2)]) for one in (plain, other)]
    assert made[0].counts == made[1].counts == (11, 2)
    assert not torch.allclose(made[0].vectors, made[1].vectors, atol=1e-4)
    made[1].vectors.square().sum().backward()
    found = {n: p.grad for n, p in other.compressor.named_parameters()}
    assert all(grad is None or bool(grad.isfinite().all()) for grad in found.values())
    assert found["width.value.weight"] is not None


def test_what_a_setting_leaves_unused_is_not_trained(tiny_base: Base) -> None:
    other = comprexit(tiny_base, transport="window")
    other.latents(other.encode([list(range(5, 26))]), [Ratio(2)]).vectors.square().sum().backward()
    assert all(p.grad is not None for p in other.compressor.parameters() if p.requires_grad)


def test_spans_are_those_of_the_receivers_in_whatever_order(tiny_base: Base) -> None:
    texts = [list(range(5, 26)), [7, 8, 9]]
    for changes in ({}, {"receivers": "shuffled"}):
        model = comprexit(tiny_base, **changes)
        made = model.latents(model.encode(texts), [Ratio(2), Ratio(4)])
        assert made.index is not None
        starts = torch.tensor([0] * made.counts[0] + [len(texts[0])] * made.counts[1])
        tokens = torch.arange(sum(map(len, texts)))
        first, end = (made.spans + starts[:, None])[made.index].unbind(1)
        assert bool(((first <= tokens) & (tokens < end)).all())
        # Each slot is that of one stretch of its segment, and stretches are in the text's order only without shuffling.
        assert made.index.unique_consecutive().sort().values.tolist() == list(range(len(made.spans)))
        assert (made.index.sort().values.tolist() == made.index.tolist()) == (not changes)


@pytest.mark.parametrize("tokens", [1, 3, 8, 21, 24])
def test_the_number_of_slots_is_known_beforehand(tiny_base: Base, tokens: int) -> None:
    model = comprexit(tiny_base)
    for ratio in model.policy.candidates:
        made = model.latents(model.encode([list(range(5, 5 + tokens))]), [Ratio(ratio)])
        assert made.counts == (model.compressor.count(tokens, Ratio(ratio)),)


@pytest.mark.parametrize("changes", [{}, {"layer": 2}], ids=str)
def test_insight_is_what_the_slots_were_made_by(tiny_base: Base, changes: dict[str, Any]) -> None:
    model = comprexit(tiny_base, **changes)
    texts = [list(range(5, 26)), [7, 8, 9]]
    encoded, sizes = model.encode(texts), [Ratio(2), Ratio(4)]
    found = model.compressor.insight(encoded.states, encoded.lengths, sizes)
    assert found.segments == ((0, 0, 8), (0, 8, 16), (0, 16, 21), (1, 0, 3))
    assert [tuple(plan.shape) for plan in found.plans] == [(8, 4), (8, 4), (5, 3), (3, 1)]
    assert found.layer_weights is not None
    assert found.capacity is not None
    torch.testing.assert_close(found.layer_weights.sum(0), torch.ones(24))
    for plan, capacity in zip(found.plans, found.capacity.split((8, 8, 5, 3)), strict=True):
        torch.testing.assert_close(capacity.mean(), torch.ones(()))
        torch.testing.assert_close(plan.sum(), torch.ones(()))
        assert float((plan.sum(1) * len(plan) - capacity).abs().max()) < 0.05  # thirty iterations
    if changes:
        assert bool((found.layer_weights[2] == 1).all())


def test_beside_a_residual_slots_start_as_what_it_gives(tiny_base: Base) -> None:
    model = comprexit(tiny_base, {"residual": "mean"}, trained=False)
    with torch.no_grad():
        text = list(range(5, 17))
        made = model.latents(model.encode([text]), [Ratio(4)])
        embedded = model.decoder.embed(torch.tensor(text)).view(3, 4, -1).mean(1)
    assert model.residual is not None
    torch.testing.assert_close(made.vectors, model.residual.log_gain.exp() * embedded, atol=1e-5, rtol=1e-5)


def test_a_selector_reads_the_mean_anchor(tiny_base: Base) -> None:
    model = comprexit(tiny_base, {"policy": "selector"})
    encoded = model.encode([list(range(5, 26)), [7, 8, 9]])
    assert isinstance(model.compressor, ComprExIT)
    assert model.head is not None
    anchor, _ = model.compressor.depth(encoded.states)
    expected = model.head(torch.stack([part.mean(0) for part in anchor.split((21, 3))]))
    assert encoded.log2_ratios is not None
    torch.testing.assert_close(encoded.log2_ratios, expected)


def test_a_segment_with_a_ratio_of_its_own_gives_the_slots_that_a_text_at_that_ratio_gives_there(
    tiny_base: Base,
) -> None:
    every, alike = comprexit(tiny_base, selects="segment"), comprexit(tiny_base)
    texts = [list(range(5, 26)), [7, 8, 9]]  # segments of 8, 8, 5 and 3 tokens
    with torch.no_grad():
        encoded = every.encode(texts)
        assert encoded.parts == ((8, 8, 5), (3,))
        made = every.latents(encoded, [Ratio(2), Ratio(8), Ratio(4), Ratio(2)])
        others = {ratio: alike.latents(alike.encode(texts), Ratio(ratio)) for ratio in (2, 4, 8)}
    assert made.counts == (4 + 1 + 2, 2)
    expected = [others[2].vectors[:4], others[8].vectors[1:2], others[4].vectors[4:6], others[2].vectors[-2:]]
    torch.testing.assert_close(made.vectors, torch.cat(expected))
    assert made.spans[4].tolist() == [8, 16]


@pytest.mark.parametrize("sizes", [2, 6])
def test_another_number_of_sizes_than_of_segments_is_a_mistake(tiny_base: Base, sizes: int) -> None:
    model = comprexit(tiny_base, selects="segment")
    encoded = model.encode([list(range(5, 26)), [7, 8, 9]])
    with pytest.raises(AssertionError, match=f"{sizes} ratios for 4 segments"):
        model.latents(encoded, [Ratio(2)] * sizes)


def test_a_selector_chooses_for_each_segment_from_its_own_anchors(tiny_base: Base) -> None:
    model = comprexit(tiny_base, {"policy": "selector"}, selects="segment")
    assert isinstance(model.compressor, ComprExIT)
    assert model.head is not None
    with torch.no_grad():
        torch.nn.init.normal_(model.head.linear.weight, std=2.0)
    press = Press(model, tiny_base, None, "feed")
    latents = press.compress(TEXT)
    assert [info.tokens for info in latents.windows[:3]] == [8, 8, 8]
    assert max(info.tokens for info in latents.windows) == 8  # the last of each encoder window may be shorter
    assert latents.context_tokens == press.count_tokens(TEXT)
    assert len({info.log2_ratio for info in latents.windows}) == len(latents.windows) > 2
    assert sum(info.latents for info in latents.windows) == len(latents)
    chosen = [info.ratio for info in latents.windows]
    assert len(set(chosen)) > 1
    assert chosen == [model.policy.choose(info.log2_ratio, 0.0, info.tokens).value for info in latents.windows]
    several = press.compress([TEXT[:30], TEXT])
    torch.testing.assert_close(several[1].vectors, latents.vectors, atol=1e-5, rtol=1e-5)
    assert [info.ratio for info in several[1].windows] == chosen
    with torch.no_grad():
        encoded = model.encode([[5, 6, 7, 8, 9, 10, 11, 12, 13, 14]])
        anchor, _ = model.compressor.depth(encoded.states)
        expected = model.head(torch.stack([anchor[:8].mean(0), anchor[8:].mean(0)]))
    assert encoded.log2_ratios is not None
    torch.testing.assert_close(encoded.log2_ratios, expected)


def test_one_layer_alone_is_that_layer_projected(tiny_base: Base) -> None:
    model = comprexit(tiny_base, layer=2)
    compressor = model.compressor
    assert isinstance(compressor, ComprExIT)
    states = model.encode([[5, 6, 7, 8]]).states
    anchor, _ = compressor.depth(states[2][None])
    torch.testing.assert_close(anchor, compressor.depth.value(states[2]), atol=1e-5, rtol=1e-5)


def test_without_transport_a_slot_holds_its_own_stretch_alone() -> None:
    module = stirred(WidthTransmission(WIDTH, OUT, query_width=16, stretches=True))
    segments = laid(LENGTHS, [4] * len(LENGTHS))
    with torch.no_grad():
        _, sent = module(normal(sum(LENGTHS), WIDTH), segments)
    flat = torch.cat(
        [plan[: int(n), : int(k)].sum(0) for plan, n, k in zip(sent.plan, segments.tokens, segments.slots, strict=True)]
    )
    shares = torch.cat([torch.full((int(k),), 1 / int(k)) for k in segments.slots])
    torch.testing.assert_close(flat, shares)
    first = sent.plan[0]  # 32 tokens into 8 slots
    for slot in range(8):
        outside = torch.cat((first[: 4 * slot, slot], first[4 * slot + 4 :, slot]))
        assert not bool(outside.any())


@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=4), ratio=st.integers(1, 9))
def test_shuffled_receivers_stay_in_their_segment(lengths: list[int], ratio: int) -> None:
    segments = laid(lengths, [ratio] * len(lengths))
    parts = segments.shuffled.split(segments.slots.tolist())
    before = 0
    for part in parts:
        assert sorted(part.tolist()) == list(range(before, before + len(part)))
        assert len(part) == 1 or not bool((part == torch.arange(before, before + len(part))).any())
        before += len(part)


def test_the_plan_fills_each_slot_alike() -> None:
    module = stirred(WidthTransmission(WIDTH, OUT, query_width=16))
    segments = laid(LENGTHS, [4] * len(LENGTHS))
    _, sent = module(normal(sum(LENGTHS), WIDTH), segments)
    for plan, tokens, count in zip(sent.plan, segments.tokens, segments.slots, strict=True):
        torch.testing.assert_close(plan.sum(0)[:count], torch.full((int(count),), 1 / int(count)))
        assert not bool(plan[int(tokens) :].any())
