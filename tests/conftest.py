"""Fixtures: tiny random models with a real tokenizer and chat template, for every test of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from tiny import FAMILIES, config_for, make_model, make_network, make_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from latentpress.backbone import Base
    from latentpress.checkpoints.config import PressConfig
    from latentpress.model import PressModel

settings.register_profile("latentpress", deadline=None)
settings.load_profile("latentpress")


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 400 entries with ChatML special tokens; its pad is its eos, as SmolLM2's."""
    return make_tokenizer()


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


@pytest.fixture
def tiny_model(tiny_config: PressConfig, tiny_base: Base) -> PressModel:
    """A press in evaluation mode whose adapters, converter and residual are all at work, as after training."""
    return make_model(tiny_config, tiny_base)


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
