"""Adapters equal PEFT's, in values, gradients and files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from latentpress.lora import LoraLinear, LoraSettings, _FusedLora, add_lora, load_lora_state, lora_state, merge_lora

if TYPE_CHECKING:
    from latentpress.backbone import Base


class Body(nn.Module):
    """Two layers of linear maps, one of them with a bias, and something that is not linear."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(6, 10), "norm": nn.LayerNorm(10), "down": nn.Linear(10, 6, bias=False)})
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer["down"](layer["norm"](layer["up"](x)).tanh())  # type: ignore[index]
        return x


@pytest.fixture
def body() -> Body:
    torch.manual_seed(0)
    return Body().requires_grad_(False)  # type: ignore[no-any-return]


def moved(module: nn.Module) -> None:
    """Gives adapters, which start at zero, an effect."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_the_scale_is_alpha_over_the_rank_or_its_root(rank_stabilised: bool) -> None:
    settings = LoraSettings(rank=9, alpha=18.0, rank_stabilised=rank_stabilised)
    assert settings.scale == 18 / (math.sqrt(9) if rank_stabilised else 9)


def test_the_papers_two_settings_have_the_same_scale() -> None:
    assert LoraSettings(rank=16, alpha=128, rank_stabilised=False).scale == LoraSettings(rank=16, alpha=32).scale


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5,), (2, 5), (1, 2, 3), ()])
def test_the_gradients_are_the_numerical_ones(bias: bool, shape: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=draw, dtype=torch.float64)

    weight, offset = random(4, 6), random(4) if bias else None
    x, a, b = (t.requires_grad_() for t in (random(*shape, 6), random(3, 6), random(4, 3)))
    assert torch.autograd.gradcheck(lambda x, a, b: _FusedLora.apply(x, weight, offset, a, b, 0.7), (x, a, b))


def test_a_new_adapter_changes_nothing(body: Body) -> None:
    x = torch.randn(3, 6)
    before = body(x)
    add_lora(body, LoraSettings(rank=2))
    assert torch.equal(body(x), before)


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_values_and_gradients_equal_pefts(body: Body, rank_stabilised: bool) -> None:
    theirs = get_peft_model(
        Body(),  # type: ignore[arg-type]
        LoraConfig(r=3, lora_alpha=5, use_rslora=rank_stabilised, target_modules=["up", "down"]),
    )
    theirs.base_model.model.load_state_dict(
        {
            name.replace("up.", "up.base_layer.").replace("down.", "down.base_layer."): t
            for name, t in body.state_dict().items()
        },
        strict=False,
    )
    moved(theirs)
    add_lora(body, LoraSettings(rank=3, alpha=5, rank_stabilised=rank_stabilised))
    with torch.no_grad():
        for name, layer in body.named_modules():
            if isinstance(layer, LoraLinear):
                twin = theirs.base_model.model.get_submodule(name)
                layer.lora_A.copy_(twin.lora_A["default"].weight)
                layer.lora_B.copy_(twin.lora_B["default"].weight)
    body, theirs = body.double(), theirs.double()  # so that the order of sums does not show
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    ours, expected = body(x), theirs(y)
    torch.testing.assert_close(ours, expected)
    ours.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    for name, layer in body.named_modules():
        if isinstance(layer, LoraLinear):
            twin = theirs.base_model.model.get_submodule(name)
            torch.testing.assert_close(layer.lora_A.grad, twin.lora_A["default"].weight.grad)
            torch.testing.assert_close(layer.lora_B.grad, twin.lora_B["default"].weight.grad)


def test_every_linear_layer_is_adapted_and_nothing_else(body: Body) -> None:
    names = add_lora(body, LoraSettings(rank=2))
    assert sorted(names) == ["layers.0.down", "layers.0.up", "layers.1.down", "layers.1.up"]
    assert {name for name, p in body.named_parameters() if p.requires_grad} == {
        f"{name}.lora_{part}" for name in names for part in "AB"
    }


def test_an_adapter_shares_the_weight_that_it_adapts() -> None:
    base = nn.Linear(4, 4).requires_grad_(False)
    layer = LoraLinear(base, LoraSettings(rank=2))
    assert layer.base.weight is base.weight
    assert layer.weight is base.weight


def test_dropout_is_of_the_adapter_alone_and_of_training_alone() -> None:
    torch.manual_seed(0)
    layer = LoraLinear(nn.Linear(40, 8).requires_grad_(False), LoraSettings(rank=4, dropout=0.5))
    moved(layer)
    x = torch.randn(3, 40)
    quiet = LoraLinear(layer.base, LoraSettings(rank=4))
    quiet.load_state_dict(layer.state_dict())
    assert torch.equal(layer.eval()(x), quiet(x))
    layer.train()
    noisy = torch.stack([layer(x) for _ in range(3000)])
    assert not torch.equal(noisy[0], noisy[1])
    error = (noisy.mean(0) - quiet(x)).abs()
    assert (error < 6 * noisy.std(0) / math.sqrt(len(noisy))).all()


def test_masters_stay_float32_over_a_bfloat16_base() -> None:
    layer = LoraLinear(nn.Linear(8, 8).to(torch.bfloat16).requires_grad_(False), LoraSettings(rank=2))
    moved(layer)
    y = layer(torch.randn(3, 8, dtype=torch.bfloat16))
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    for master in (layer.lora_A, layer.lora_B):
        assert master.dtype == torch.float32
        assert master.grad is not None
        assert master.grad.dtype == torch.float32


@pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 5, 6)])
def test_merged_it_computes_the_same(body: Body, shape: tuple[int, ...]) -> None:
    add_lora(body, LoraSettings(rank=3, alpha=5))
    moved(body)
    body.double().eval()
    x = torch.randn(*shape, dtype=torch.float64)
    apart = body(x)
    saved = set(body.state_dict())
    merge_lora(body)
    with torch.no_grad():
        torch.testing.assert_close(body(x), apart)
        for layer in body.modules():
            if isinstance(layer, LoraLinear):
                layer.lora_B.zero_()  # what is merged does not look at it
        torch.testing.assert_close(body(x), apart)
    assert set(body.state_dict()) == saved


def test_what_is_merged_keeps_no_gradient_from_an_adapter(body: Body) -> None:
    add_lora(body, LoraSettings(rank=3))
    moved(body)
    merge_lora(body.eval())
    body(torch.randn(3, 6)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for name, p in body.named_parameters() if "lora_" in name)


def test_merged_weights_are_rounded_once() -> None:
    torch.manual_seed(0)
    layer = LoraLinear(nn.Linear(8, 8, bias=False).to(torch.bfloat16).requires_grad_(False), LoraSettings(rank=2))
    moved(layer)
    exact = layer.base.weight.double() + layer.settings.scale * layer.lora_B.double() @ layer.lora_A.double()
    assert torch.equal(layer.sum_of_weights(), exact.to(torch.bfloat16))


@pytest.mark.parametrize("change", ["trained", "loaded"])
def test_what_is_merged_is_not_read_by_when_the_adapter_changes(body: Body, change: str) -> None:
    add_lora(body, LoraSettings(rank=2))
    x = torch.randn(3, 6, dtype=torch.float64)
    body.double().eval()
    merge_lora(body)
    state = {name: tensor + 1 for name, tensor in lora_state(body).items()}
    if change == "trained":
        body.train()
        moved(body)
    else:
        assert load_lora_state(body, state) == ([], [])
    with torch.no_grad():
        changed = body.eval()(x)
        merge_lora(body)
        torch.testing.assert_close(body(x), changed)


def test_saved_weights_load_into_another_tree(body: Body) -> None:
    add_lora(body, LoraSettings(rank=2))
    moved(body)
    other = Body()
    add_lora(other, LoraSettings(rank=2))
    assert load_lora_state(other, lora_state(body)) == ([], [])
    for name, tensor in lora_state(other).items():
        assert torch.equal(tensor, lora_state(body)[name])


@pytest.mark.parametrize("damage", ["missing", "unknown", "shape"])
def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded(body: Body, damage: str) -> None:
    add_lora(body, LoraSettings(rank=2))
    before = {name: tensor.clone() for name, tensor in lora_state(body).items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    first = next(iter(state))
    if damage == "missing":
        del state[first]
    elif damage == "unknown":
        state["base_model.model.model.layers.9.up.lora_A.weight"] = torch.zeros(2, 6)
    else:
        state[first] = torch.zeros(3, 6)
    missing, wrong = load_lora_state(body, state)
    assert (missing == [first]) if damage == "missing" else (len(wrong) == 1 and not missing)
    assert all(torch.equal(tensor, before[name]) for name, tensor in lora_state(body).items())


def test_adapting_a_shared_tree_leaves_the_base_as_it_is(tiny_base: Base) -> None:
    from latentpress.backbone import Backbone

    before = [name for name, _ in tiny_base.model.named_modules()]
    Backbone(tiny_base.model, lora=LoraSettings(rank=2))
    assert [name for name, _ in tiny_base.model.named_modules()] == before
    assert not any(parameter.requires_grad for parameter in tiny_base.model.parameters())
