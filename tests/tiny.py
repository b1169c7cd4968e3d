"""Builds tiny random networks of every family, a tokenizer with a chat template, and presses; nothing is downloaded.

Heavy imports stay inside the functions, so that tests without a network start at once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

    from latentpress.backbone import Base
    from latentpress.checkpoints.config import PressConfig
    from latentpress.model import PressModel

WIDTH = 64
LAYERS = 3
SLIDING_WINDOW = 6
POSITIONS = 512
FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3")
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# SmolLM2's, a ChatML with a system message of its own where none is given.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = (
    "The quick brown fox jumps over the lazy dog. The treaty was signed in Paris on the first day of May.",
    "Context: who signed the treaty? Question: when was the treaty signed?",
    "Please write a concise summary of the above context.",
    "system user assistant You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "In the beginning there was nothing, and then there were words, and the words were written into a document.",
)


def make_tokenizer(*, entries: int = 400, chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """Trains a tokenizer on a few sentences."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=entries,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    unknown, start, end = SPECIAL_TOKENS
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=unknown, bos_token=start, eos_token=end, pad_token=end
    )
    made.chat_template = chat_template
    return made


def make_network(family: str, vocabulary: int, *, width: int = WIDTH, seed: int = 0) -> PreTrainedModel:
    """Makes a random causal LM of a family, in float32, with weights large enough that attention matters."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)  # threads only wait for each other on models this small
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(make_network_config(family, vocabulary, width), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # norms and biases, which start at ones or zeros
                    parameter += 0.2 * torch.randn_like(parameter)
    made: PreTrainedModel = model.eval()
    return made


def make_network_config(family: str, vocabulary: int, width: int) -> PretrainedConfig:
    """Three layers, grouped queries, and a window of a few tokens where the family slides one."""
    import transformers as hf

    kinds: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
        "llama": (hf.LlamaConfig, {"tie_word_embeddings": True}),
        "qwen2": (hf.Qwen2Config, {}),
        "qwen3": (hf.Qwen3Config, {"head_dim": 16}),
        "mistral": (hf.MistralConfig, {"sliding_window": SLIDING_WINDOW, "head_dim": 16}),
        "gemma": (hf.GemmaConfig, {"head_dim": 16}),
        "gemma2": (hf.Gemma2Config, {"sliding_window": SLIDING_WINDOW, "head_dim": 16, "query_pre_attn_scalar": 24}),
        "gemma3": (
            hf.Gemma3TextConfig,
            {
                "sliding_window": SLIDING_WINDOW,
                "head_dim": 16,
                "query_pre_attn_scalar": 24,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            },
        ),
    }
    kind, extra = kinds[family]
    return kind(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        initializer_range=0.15,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        **extra,
    )


def config_for(base: Base, **changes: Any) -> PressConfig:
    """Settings of a tiny press on any base."""
    from latentpress.checkpoints.config import BaseReference, PressConfig
    from latentpress.lora import LoraSettings

    config = PressConfig(
        name="tiny",
        base=BaseReference(id=base.id, fingerprint=base.fingerprint, width=base.width),
        encoder_layers=2,
        encoder_lora=LoraSettings(rank=4, alpha=8),
        decoder_lora=LoraSettings(rank=4, alpha=4),
        candidates=(2, 4, 8),
        converter_width=32,
        window_tokens=48,
    )
    return replace(config, **changes)


def make_model(
    config: PressConfig, base: Base, encoder_base: Base | None = None, *, trained: bool = True
) -> PressModel:
    """Makes a press; `trained` moves what starts at zero, so that no part of it is silent."""
    import torch

    from latentpress.model import PressModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PressModel(config, base, encoder_base)
        if trained:
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()
