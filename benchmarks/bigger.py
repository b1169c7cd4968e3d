"""What training a press on a bigger base model takes, worked out: no weights are made, nothing is timed.

    python -m benchmarks.bigger      # the tables of docs/training.md

Models are built on torch's meta device from their published sizes. The unit is one step of `benchmarks.training`: four
paragraphs of SQuAD with 19 questions at ratio 4, in tokens of the default base model. Its work and its memory are
counted for each model (`benchmarks.work`) and scaled by what that step took with the default base model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedTokenizerBase, Qwen3Config

from benchmarks.training import PACKED, drawn_examples, step_work
from benchmarks.work import linear_sizes
from latentpress.backbone import load_tokenizer, wrap_base
from latentpress.base_model import DEFAULT_BASE, base_folder
from latentpress.checkpoints.config import BaseReference
from latentpress.data.rows import Example
from latentpress.evaluation.markdown import table
from latentpress.model import PressModel
from latentpress.training.checkpoint import trained
from latentpress.training.recipes import RECIPES, Recipe

CONTEXTS, QUESTIONS, RATIO = 4, 19, 4
# Of that step, packed rows: seconds on two CPU cores, and bytes above the loaded press (docs/benchmarks.md).
MEASURED_SECONDS, MEASURED_BYTES = 1.20, 1165e6
SHIPPED_QUESTIONS = 91_223  # that the shipped press was trained with, in all its parts (docs/experiments.md)
PEAKS = {"RTX 4090": 165e12, "A100": 312e12, "H100": 989e12}
"""Matrix products in bfloat16 without sparsity, operations a second, by the makers' data sheets."""
SHARE_OF_PEAK = 0.2
"""Assumed, not measured."""
FOR_TRAINED = 4 + 4 + 8
"""Bytes of a trained parameter: float32 master, gradient, and both moments of AdamW."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What one model needs."""

    parameters: int
    """Of the base model, shared ones once."""
    layers: int
    """Weights of the linear layers of the decoder, without adapters."""
    encoder: int
    """The same of the encoder's."""
    trained: int
    """Parameters of the press."""
    head: int
    """Parameters of the output layer."""
    operations: float
    """Of the step."""
    kept: float
    """Least bytes that the step's backward pass needs of its forward pass."""

    def weights(self, processes: int = 1) -> float:
        """Bytes of weights, gradients and optimiser in one of so many processes that share them out."""
        if processes == 1:
            return 2 * self.parameters + FOR_TRAINED * self.trained
        # The encoder's frozen layers are shared out beside the decoder's, and the output layer stays whole.
        shared = 2 * (self.parameters + self.encoder) + FOR_TRAINED * self.trained
        return shared / processes + 2 * self.head


def published() -> dict[str, PretrainedConfig]:
    """Sizes of the default base model and of two bigger ones, as their makers publish them."""
    return {
        "SmolLM2-135M": LlamaConfig(
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
        ),
        "Qwen3-0.6B": Qwen3Config(
            vocab_size=151_936,
            hidden_size=1024,
            intermediate_size=3072,
            num_hidden_layers=28,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=40_960,
            tie_word_embeddings=True,
        ),
        "Llama-3.2-1B": LlamaConfig(
            vocab_size=128_256,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=131_072,
            tie_word_embeddings=True,
        ),
    }


def needs(
    config: PretrainedConfig, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> Needs:
    """Counts parameters, work and memory of a model that is never made.

    Args:
        config: sizes of the base model.
        recipe: says what the press is like.
        tokenizer: of the examples.
        examples: rows of the step.
    """
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        base = wrap_base(network, tokenizer, id="", fingerprint="", device="meta")
        reference = BaseReference(id="", fingerprint="", width=base.width)
        press = PressModel(recipe.press_config(reference, {}), base)
    work, kept = step_work(press, PACKED, examples, RATIO, config.vocab_size)
    return Needs(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        layers=linear_sizes(press.decoder)[0],
        encoder=linear_sizes(press.encoder)[0] if press.encoder is not None else 0,
        trained=sum(parameter.numel() for parameter in trained(press).values()),
        head=network.get_output_embeddings().weight.numel(),
        operations=work.operations,
        kept=kept,
    )


def tables(found: dict[str, Needs], context_tokens: int) -> str:
    """Tables of sizes and work, of memory, and of time, with the default base model first.

    Args:
        found: what each model needs.
        context_tokens: of the step.
    """
    first = next(iter(found.values()))
    overhead = MEASURED_BYTES / first.kept
    sizes = table(
        ["base", "parameters", "trained", "operations a step", "a question", "times the first"],
        [
            [
                name,
                f"{one.parameters:,}",
                f"{one.trained / 1e6:.1f} M",
                f"{one.operations / 1e12:.2f} T",
                f"{one.operations / QUESTIONS / 1e9:.0f} G",
                f"{one.operations / first.operations:.1f}",
            ]
            for name, one in found.items()
        ],
    )
    per_token = {name: overhead * one.kept / context_tokens for name, one in found.items()}
    memory = table(
        ["base", "weights, one process", "each of 4, FSDP", "a context token", "4,000 in a pass", "16,000 in a pass"],
        [
            [
                name,
                f"{one.weights() / 1e9:.1f} GB",
                f"{one.weights(4) / 1e9:.1f} GB",
                f"{per_token[name] / 1e6:.1f} MB",
                f"{4000 * per_token[name] / 1e9:.0f} GB",
                f"{16_000 * per_token[name] / 1e9:.0f} GB",
            ]
            for name, one in found.items()
        ],
    )
    hours = {
        name: SHIPPED_QUESTIONS / QUESTIONS * MEASURED_SECONDS * one.operations / first.operations / 3600
        for name, one in found.items()
    }
    time = table(
        ["base", "two CPU cores", *PEAKS],
        [
            [
                name,
                f"{hours[name]:.1f} h",
                *(
                    f"{SHIPPED_QUESTIONS / QUESTIONS * one.operations / (SHARE_OF_PEAK * peak) / 60:.0f} min"
                    for peak in PEAKS.values()
                ),
            ]
            for name, one in found.items()
        ],
    )
    return f"{sizes}\n\n{memory}\n\n{time}"


def main() -> None:
    """Prints the tables."""
    tokenizer = load_tokenizer(base_folder(DEFAULT_BASE, fetch=True), id=DEFAULT_BASE)
    recipe = RECIPES["semidynamic"]()
    config = recipe.press_config(BaseReference(id="", fingerprint="", width=0), {})
    examples = drawn_examples(tokenizer, config, CONTEXTS)
    assert sum(len(example.branches) for example in examples) == QUESTIONS
    found = {name: needs(config, recipe, tokenizer, examples) for name, config in published().items()}
    tokens = sum(example.tokens for example in examples)
    print(f"one step: {CONTEXTS} contexts, {tokens} context tokens, {QUESTIONS} questions, ratio {RATIO}\n")
    print(tables(found, tokens))


if __name__ == "__main__":
    main()
