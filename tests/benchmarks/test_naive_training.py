"""Both naive ways of training have the loss and the gradients of packed rows: only their cost differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from latentpress.press import Press


def _gradients(press: Press, name: str) -> tuple[float, dict[str, object]]:
    from benchmarks.naive_training import one_question_each
    from benchmarks.training import LOSSES, PACKED, examples_of
    from latentpress.compressors import Ratio

    examples = examples_of(press, 3)
    press.model.zero_grad()
    loss = LOSSES[name](press.model, examples if name == PACKED else one_question_each(examples), Ratio(4))
    loss.backward()  # type: ignore[no-untyped-call]
    found = {key: p.grad.clone() for key, p in press.model.named_parameters() if p.grad is not None}
    return float(loss.detach()), found  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["one question each, padding-free", "one question each, padded"])
def test_naive_way_trains_the_same(tiny_press: Press, name: str) -> None:
    import torch

    from benchmarks.training import PACKED

    tiny_press.model.train()
    with torch.no_grad():
        for parameter in tiny_press.model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    packed, expected = _gradients(tiny_press, PACKED)
    naive, found = _gradients(tiny_press, name)
    assert naive == pytest.approx(packed, rel=1e-5)
    assert found.keys() | {"head.linear.weight", "head.linear.bias"} >= expected.keys()
    assert any(key.startswith("decoder") and key.endswith("lora_B") for key in expected)
    for key, gradient in expected.items():
        if not key.startswith("head"):  # the ratio's loss is no part of the comparison
            # Sums in other orders, in float32: judged by the largest entry of each gradient.
            torch.testing.assert_close(found[key], gradient, rtol=1e-3, atol=5e-4 * float(gradient.abs().max()))


def test_every_question_gets_a_row_with_its_context(tiny_press: Press) -> None:
    from benchmarks.naive_training import one_question_each
    from benchmarks.training import examples_of

    examples = examples_of(tiny_press, 3)
    rows = one_question_each(examples)
    assert len(rows) == sum(len(example.branches) for example in examples)
    assert all(len(row.branches) == 1 for row in rows)
    assert sum(row.labels for row in rows) == sum(example.labels for example in examples)
