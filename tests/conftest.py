"""Tiny random models with a real tokenizer and chat template, for every test of the network; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

    from latentpress.backbone import Base
    from latentpress.checkpoints.config import PressConfig
    from latentpress.model import PressModel

# Heavy imports stay inside the fixtures, so that tests without a network start at once.

settings.register_profile("latentpress", deadline=None)
settings.load_profile("latentpress")

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


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 400 entries with ChatML special tokens; its pad is its eos, as SmolLM2's."""
    return make_tokenizer()


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


@pytest.fixture(scope="session")
def tiny_base_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """The tiny Llama and its tokenizer as a folder of safetensors; read only, it is shared by all tests."""
    folder = tmp_path_factory.mktemp("bases") / "tiny-llama"
    make_network("llama", len(tiny_tokenizer)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_base(tiny_base_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> Base:
    """A random Llama in float32, the one of `tiny_base_folder`: 3 layers, width 64, 4 query and 2 key/value heads."""
    from latentpress.backbone import fingerprint, wrap_base

    network = make_network("llama", len(tiny_tokenizer))
    return wrap_base(network, tiny_tokenizer, id="tiny-llama", fingerprint=fingerprint(tiny_base_folder))


@pytest.fixture(scope="session", params=FAMILIES)
def tiny_bases(request: pytest.FixtureRequest, tiny_tokenizer: PreTrainedTokenizerFast) -> Base:
    """The same sizes in each family of architectures, sliding windows of 6 tokens where it has them."""
    from latentpress.backbone import wrap_base

    family = str(request.param)
    return wrap_base(make_network(family, len(tiny_tokenizer)), tiny_tokenizer, id=f"tiny-{family}", fingerprint=family)


@pytest.fixture(scope="session")
def other_base() -> Base:
    """A Qwen2 of width 48 with a smaller tokenizer of its own, for encoders that are not the decoder."""
    from latentpress.backbone import wrap_base

    tokenizer = make_tokenizer(entries=320)
    network = make_network("qwen2", len(tokenizer), width=48, seed=1)
    return wrap_base(network, tokenizer, id="tiny-other", fingerprint="other")


@pytest.fixture
def tiny_config(tiny_base: Base) -> PressConfig:
    """Settings of a press on `tiny_base`: two of three layers encode, windows of 48 tokens, ratios 2, 4 and 8."""
    return config_for(tiny_base)


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


@pytest.fixture
def tiny_model(tiny_config: PressConfig, tiny_base: Base) -> PressModel:
    """A press in evaluation mode whose adapters, converter and residual are all at work, as after training."""
    return make_model(tiny_config, tiny_base)


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


@pytest.fixture
def frozen() -> Iterator[Callable[[Any], None]]:
    """Watches modules; at the end of the test none of their Parameters, buffers or attributes may have changed."""
    import torch

    def look(module: Any) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for name, part in module.named_modules():
            tensors = {**part._parameters, **part._buffers}
            seen |= {f"{name}.{key}": None if t is None else t.detach().clone() for key, t in tensors.items()}
            plain = {k: v for k, v in vars(part).items() if not k.startswith("_")}
            seen |= {f"{name}.{key}": repr(value) for key, value in plain.items()}
        return seen

    watched: list[tuple[Any, dict[str, Any]]] = []
    yield lambda module: watched.append((module, look(module)))
    for module, before in watched:
        after = look(module)
        assert after.keys() == before.keys()
        for name, value in before.items():
            same = torch.equal(after[name], value) if isinstance(value, torch.Tensor) else after[name] == value
            assert same, f"{name} changed"
