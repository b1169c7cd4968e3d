"""Floors count what PyTorch counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from latentpress.backbone import Base

LENGTHS = (40, 24)


def test_operations_of_a_forward_pass_are_those_that_pytorch_counts(tiny_base: Base) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.work import forward_work
    from latentpress.attention import Layout
    from latentpress.backbone import Backbone

    backbone = Backbone(tiny_base.model, layers=2)
    row = torch.randn(sum(LENGTHS), backbone.width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(row, Layout.of(LENGTHS, "bidirectional"))
    expected = forward_work(backbone, LENGTHS, causal=False).operations
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def test_operations_of_a_training_pass_are_those_that_pytorch_counts(tiny_base: Base) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.work import backward_work
    from latentpress.attention import Layout
    from latentpress.backbone import Backbone

    backbone = Backbone(tiny_base.model, layers=2)
    row = torch.randn(sum(LENGTHS), backbone.width, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        backbone(row, Layout.of(LENGTHS, "bidirectional")).sum().backward()
    expected = backward_work(backbone, sum(LENGTHS), sum(n * n for n in LENGTHS)).operations
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def test_adapters_add_their_own_operations(tiny_base: Base) -> None:
    from benchmarks.work import forward_work, linear_sizes
    from latentpress.backbone import Backbone
    from latentpress.lora import LoraLinear, LoraSettings

    bare, adapted = Backbone(tiny_base.model), Backbone(tiny_base.model, lora=LoraSettings(rank=4))
    layers = [layer for layer in adapted.body.modules() if isinstance(layer, LoraLinear)]
    low = sum(4 * sum(layer.weight.shape) for layer in layers)
    assert linear_sizes(adapted) == (linear_sizes(bare)[0], low)
    more = forward_work(adapted, [10], causal=True).operations - forward_work(bare, [10], causal=True).operations
    assert more == 2 * 10 * low


def test_causal_attention_is_about_half_and_a_decode_step_reads_its_cache(tiny_base: Base) -> None:
    from benchmarks.work import forward_work
    from latentpress.backbone import Backbone

    backbone = Backbone(tiny_base.model)
    linear = 2 * 100 * sum(layer.numel() for layer in backbone.body.layers.parameters() if layer.ndim == 2)
    both = forward_work(backbone, [100], causal=False).operations - linear
    half = forward_work(backbone, [100], causal=True).operations - linear
    assert half / both == pytest.approx(0.505)
    without, behind = (forward_work(backbone, [1], causal=True, past=past).bytes for past in (0, 50))
    assert behind - without == 50 * 2 * 2 * 16 * 3 * 4  # keys and values, 2 heads of 16, 3 layers, float32


def test_least_time_is_the_longer_of_computing_and_reading() -> None:
    import torch

    from benchmarks.work import Machine, Work

    machine = Machine(operations={"float32": 100.0}, bandwidth=10.0)
    assert Work(200, 10).seconds(machine, torch.float32) == 2
    assert Work(200, 50).seconds(machine, torch.float32) == 5


def test_machine_has_rates() -> None:
    from benchmarks.work import measure_machine

    machine = measure_machine(size=64, megabytes=1)
    assert min(*machine.operations.values(), machine.bandwidth) > 0
