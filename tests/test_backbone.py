"""Backbones are the base model itself, in memory and in values, whatever the family; bases are checked on loading."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch
import transformers as hf
from tiny import LAYERS, make_network, make_tokenizer
from torch import nn

from latentpress.attention import Layout
from latentpress.backbone import Backbone, FusedRmsNorm, _RmsNorm, fingerprint, load_base, wrap_base
from latentpress.errors import BaseModelError
from latentpress.lora import LoraSettings

if TYPE_CHECKING:
    from latentpress.backbone import Base


def ids_of(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 300, (count,), generator=torch.Generator().manual_seed(seed))


def test_logits_equal_the_models_own_in_every_family(tiny_bases: Base) -> None:
    """From token ids to logits, scaled embeddings and capped logits included."""
    backbone = Backbone(tiny_bases.model)
    rows = [ids_of(5), ids_of(14, 1)]
    with torch.no_grad():
        expected = torch.cat([tiny_bases.model(input_ids=row[None], use_cache=False).logits[0] for row in rows])
        states = backbone(backbone.embed(torch.cat(rows)), Layout.of((5, 14), "causal"))
    torch.testing.assert_close(backbone.logits(states), expected, atol=2e-5, rtol=1e-5)


def test_a_shallow_backbone_gives_the_states_of_its_last_layer(tiny_bases: Base) -> None:
    model = tiny_bases.model
    ids = ids_of(5)
    for layers in range(1, LAYERS + 1):
        backbone = Backbone(model, layers=layers)
        shallow = make_network(model.config.model_type.removesuffix("_text"), model.config.vocab_size)
        shallow.set_attn_implementation("eager")
        body = shallow.get_decoder()
        body.layers = body.layers[:layers]
        with torch.no_grad():
            states = backbone(backbone.embed(ids), Layout.of((5,), "causal"))
            expected = body(input_ids=ids[None], use_cache=False).last_hidden_state[0]
        assert backbone.depth == layers
        torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layers", [0, -1, LAYERS + 1])
def test_a_number_of_layers_that_the_base_does_not_have_is_refused(tiny_base: Base, layers: int) -> None:
    with pytest.raises(BaseModelError, match=rf"encoder_layers={layers}\b.*choose 1 to {LAYERS}"):
        Backbone(tiny_base.model, layers=layers)


def test_several_backbones_hold_one_copy_of_the_base_weights(tiny_bases: Base) -> None:
    base = {p.data_ptr() for p in tiny_bases.model.parameters()}
    for backbone in (Backbone(tiny_bases.model), Backbone(tiny_bases.model, layers=2, lora=LoraSettings(rank=2))):
        frozen = [p for p in backbone.parameters() if not p.requires_grad]
        assert frozen
        assert {p.data_ptr() for p in frozen} <= base


def test_a_backbone_leaves_the_model_that_it_shares_as_it_is(tiny_bases: Base) -> None:
    model, ids = tiny_bases.model, ids_of(6)[None]
    layers, implementation = [type(module) for module in model.modules()], model.config._attn_implementation
    with torch.no_grad():
        before = model(input_ids=ids).logits
        backbone = Backbone(model, layers=1, lora=LoraSettings(rank=2))
        backbone(backbone.embed(ids[0]), Layout.of((6,), "bidirectional"))
        after = model(input_ids=ids).logits
    assert [type(module) for module in model.modules()] == layers
    assert model.config._attn_implementation == implementation
    assert len(model.get_decoder().layers) == LAYERS
    assert torch.equal(before, after)


@pytest.mark.parametrize("visibility", ["bidirectional", "causal"])
def test_no_pass_changes_the_backbone(tiny_bases: Base, frozen: Callable[[Any], None], visibility: Any) -> None:
    backbone = Backbone(tiny_bases.model, lora=LoraSettings(rank=2))
    frozen(backbone)
    frozen(tiny_bases.model)
    for lengths in ((3, 9), (40,)):
        backbone(backbone.embed(ids_of(sum(lengths))), Layout.of(lengths, visibility)).sum().backward()


def test_a_backbone_trains_whatever_attention_dropout_its_base_was_trained_with() -> None:
    model = make_network("llama", 300)
    model.config.attention_dropout = 0.5
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    backbone = Backbone(model).train()
    states = [backbone(backbone.embed(ids_of(6) % 300), Layout.of((6,), "causal")) for _ in range(2)]
    assert torch.equal(*states)


def test_the_fused_norm_has_the_numerical_gradient() -> None:
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: _RmsNorm.apply(x, weight, 1e-3), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e2])
def test_the_fused_norm_equals_hugging_faces(dtype: torch.dtype, size: float) -> None:
    theirs = hf.models.llama.modeling_llama.LlamaRMSNorm(64, eps=1e-5).requires_grad_(False)
    theirs.weight.copy_(torch.randn(64))
    theirs = theirs.to(dtype)
    x = (size * torch.randn(7, 64)).to(dtype)
    # Two roundings more than theirs in half precision.
    rounding = 1e-6 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(FusedRmsNorm(theirs)(x), theirs(x), rtol=rounding, atol=1e-6)


@pytest.mark.parametrize("kind", [hf.Phi3Config, hf.Starcoder2Config, hf.OPTConfig], ids=lambda kind: kind.model_type)
def test_other_plain_transformers_are_bases_too(kind: Any) -> None:
    assert wrap_base(other_family(kind), make_tokenizer(), id="other", fingerprint="0").width == 32


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        (hf.GraniteConfig, {"logits_scaling": 3.0}),
        (hf.CohereConfig, {}),
        (hf.GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4}),
        (hf.GptOssConfig, {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8, "rope_parameters": None}),
        (hf.Lfm2Config, {"layer_types": ["conv", "full_attention"]}),
        (hf.BloomConfig, {}),
    ],
    ids=lambda value: value.model_type if isinstance(value, type) else "",
)
def test_architectures_that_packing_would_falsify_are_refused(kind: Any, extra: dict[str, Any]) -> None:
    """Their attention sinks, convolutions or logit scales would be left out in silence, or sequences would mix."""
    with pytest.raises(BaseModelError, match=r"'other' is a \w+.*use a Llama"):
        wrap_base(other_family(kind, **extra), make_tokenizer(), id="other", fingerprint="0")


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_rotary_embeddings_that_follow_the_longest_sequence_are_refused(rope: str) -> None:
    """One text's length would change its neighbour's states, in a family that is tested otherwise."""
    parameters: dict[str, Any] = {"rope_type": rope, "rope_theta": 1e4, "factor": 2.0}
    if rope == "longrope":
        parameters |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 32}
    model = other_family(hf.LlamaConfig, rope_parameters=parameters)
    with pytest.raises(BaseModelError, match=f"rotary embeddings of type '{rope}'"):
        wrap_base(model, make_tokenizer(), id="other", fingerprint="0")


def other_family(kind: Any, **extra: Any) -> Any:
    torch.manual_seed(0)
    config = kind(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        pad_token_id=0,
        **extra,
    )
    model = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    return model


# ---- loading ----


@pytest.fixture
def folder(tiny_base_folder: Path, tmp_path: Path) -> Path:
    """A copy of the base model's folder, to be damaged."""
    return Path(shutil.copytree(tiny_base_folder, tmp_path / "base"))


def test_a_loaded_base_is_the_saved_one_and_frozen(tiny_base: Base, tiny_base_folder: Path) -> None:
    loaded = load_base(tiny_base_folder, id="tiny-llama", dtype=torch.float32)
    assert loaded.fingerprint == tiny_base.fingerprint
    assert (loaded.width, loaded.max_positions) == (64, 512)
    saved = dict(tiny_base.model.named_parameters())
    assert all(torch.equal(p, saved[name]) for name, p in loaded.model.named_parameters())
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert not loaded.model.training
    text = "The fox<|im_end|> signed."
    assert loaded.tokenizer(text)["input_ids"] == tiny_base.tokenizer(text)["input_ids"]


def test_a_base_is_loaded_in_bfloat16_unless_told_otherwise(tiny_base_folder: Path) -> None:
    assert {p.dtype for p in load_base(tiny_base_folder, id="tiny").model.parameters()} == {torch.bfloat16}


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def truncate_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pickle_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    torch.save(safetensors.torch.load_file(file), folder / "pytorch_model.bin")
    file.unlink()


def disguise_pickle(folder: Path) -> None:
    pickle_weights(folder)
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def break_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')


def run_foreign_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": auto}))
    (folder / "evil.py").write_text("raise SystemExit('foreign code ran')")


def remove_everything(folder: Path) -> None:
    shutil.rmtree(folder)


DAMAGES = [
    remove_weights,
    truncate_weights,
    pickle_weights,
    disguise_pickle,
    break_config,
    remove_config,
    break_tokenizer,
    run_foreign_code,
    remove_everything,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_base_is_refused_by_name(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    with pytest.raises(BaseModelError, match="my-base"):
        load_base(folder, id="my-base")


@pytest.mark.parametrize("damage", [remove_weights, truncate_weights, break_config, remove_config, remove_everything])
def test_a_damaged_base_has_no_fingerprint(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    with pytest.raises(BaseModelError, match=r"fetch it again|safetensors only"):
        fingerprint(folder)


def test_the_fingerprint_depends_on_weights_and_sizes_alone(tiny_base_folder: Path, tmp_path: Path) -> None:
    model = hf.AutoModelForCausalLM.from_pretrained(tiny_base_folder, dtype=torch.bfloat16)
    for name, kept, shard in (("half", model, "5GB"), ("single", model.float(), "5GB"), ("shards", model, "60KB")):
        kept.save_pretrained(tmp_path / name, max_shard_size=shard)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert len({fingerprint(tmp_path / name) for name in ("half", "single", "shards")}) == 1
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    (tmp_path / "half" / "config.json").write_text(json.dumps({**config, "transformers_version": "99"}))
    assert fingerprint(tmp_path / "half") == fingerprint(tmp_path / "single")


def test_another_models_fingerprint_is_another(tiny_base_folder: Path, folder: Path) -> None:
    found = {fingerprint(tiny_base_folder)}
    make_network("llama", 400, seed=1).save_pretrained(folder)
    found.add(fingerprint(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_attention_heads": 8}))
    found.add(fingerprint(folder))
    assert len(found) == 3


def test_fine_tuning_half_of_any_one_matrix_changes_the_fingerprint(tiny_base_folder: Path, folder: Path) -> None:
    before = fingerprint(folder)
    tensors = safetensors.torch.load((folder / "model.safetensors").read_bytes())
    for name in tensors:
        behind = torch.arange(tensors[name].numel()).view_as(tensors[name]) >= tensors[name].numel() // 2
        moved = {**tensors, name: tensors[name] + 0.01 * behind}
        safetensors.torch.save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
        assert fingerprint(folder) != before, name


def test_a_tokenizer_without_character_offsets_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf.PreTrainedTokenizerFast, "is_fast", property(lambda _: False))
    with pytest.raises(BaseModelError, match=r"my-base.*fast tokenizer"):
        load_base(folder, id="my-base")


def test_a_base_without_linear_layers_to_adapt_is_refused(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentpress.backbone.add_lora", lambda *_: [])
    with pytest.raises(BaseModelError, match="no linear layer"):
        Backbone(tiny_base.model, lora=LoraSettings(rank=2))


def test_moving_the_adapters_never_moves_the_base(tiny_base: Base) -> None:
    before = {name: p.clone() for name, p in tiny_base.model.named_parameters()}
    backbone = Backbone(tiny_base.model, lora=LoraSettings(rank=2)).train()
    adapters = [p for p in backbone.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(adapters, lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        backbone(backbone.embed(ids_of(8)), Layout.of((8,), "causal")).square().sum().backward()
        optimiser.step()
    assert all(p.grad is not None and bool(p.grad.any()) for p in adapters)
    assert all(torch.equal(p, before[name]) for name, p in tiny_base.model.named_parameters())
    assert all(p.grad is None for p in tiny_base.model.parameters())
    assert isinstance(backbone.body.norm, nn.Module)
