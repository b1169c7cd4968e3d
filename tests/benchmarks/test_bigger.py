"""Sizes of bigger models are those that their makers publish, and what is counted is what a real one has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from latentpress.backbone import Base

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def test_models_of_published_sizes_have_their_published_parameters_and_the_docs_say_so() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from benchmarks.bigger import published

    expected = {"SmolLM2-135M": 134_515_008, "Qwen3-0.6B": 596_049_920, "Llama-3.2-1B": 1_235_814_400}
    with torch.device("meta"):
        found = {name: AutoModelForCausalLM.from_config(config) for name, config in published().items()}
    assert {name: sum(p.numel() for p in model.parameters()) for name, model in found.items()} == expected
    text = DOCS.read_text(encoding="utf-8")
    assert all(f"| {name} | {count:,} |" in text for name, count in expected.items())


def test_a_model_that_is_not_made_is_counted_as_one_that_is(tiny_base: Base) -> None:
    from tiny import config_for, make_model
    from training.helpers import overrides

    from benchmarks.bigger import FOR_TRAINED, Needs, needs
    from benchmarks.training import PACKED, drawn_examples, step_work
    from latentpress.training.checkpoint import trained
    from latentpress.training.overrides import make_recipe

    recipe = make_recipe("semidynamic", overrides())
    config = recipe.press_config(config_for(tiny_base).base, {})
    examples = drawn_examples(tiny_base.tokenizer, config, 2)
    real = make_model(config, tiny_base)
    work, kept = step_work(real, PACKED, examples, 4, tiny_base.model.config.vocab_size)
    found: Needs = needs(tiny_base.model.config, recipe, tiny_base.tokenizer, examples)
    assert found.parameters == sum(parameter.numel() for parameter in tiny_base.model.parameters())
    assert found.trained == sum(parameter.numel() for parameter in trained(real).values())
    assert found.operations == pytest.approx(work.operations)
    logits = 4 * sum(example.labels for example in examples) * tiny_base.model.config.vocab_size
    assert found.kept - logits == pytest.approx((kept - logits) / 2)  # bfloat16, and float32
    assert found.weights() == 2 * found.parameters + FOR_TRAINED * found.trained
    assert found.weights(10**9) == pytest.approx(2 * found.head, rel=1e-3)
