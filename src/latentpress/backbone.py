"""Any Hugging Face causal LM as encoder and as decoder.

One set of frozen base weights carries several module trees: the plain model, the encoder (its first layers, with an
adapter) and the decoder (with another). The trees are separate modules over the same Parameters, so a training step
moves both adapters and no call switches anything. Every pass goes through packed rows with an explicit mask
(`latentpress.attention`).
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from latentpress.attention import PACKED, Layout
from latentpress.cache_entries import CapturedEntries, KeyRotation
from latentpress.errors import BaseModelError
from latentpress.lora import LoraSettings, add_lora

# RMSNorm classes that compute weight * x / rms(x), with no offset on the weight.
_PLAIN_RMS_NORMS = {"LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "MistralRMSNorm"}
_LENGTH_DEPENDENT = {"dynamic", "longrope"}  # rope types whose frequencies follow the longest position of a pass
# Architectures whose packed passes the tests compare with transformers' own; any other is compared when it is loaded.
_TESTED = {f"{name}ForCausalLM" for name in ("Llama", "Qwen2", "Qwen3", "Mistral", "Gemma", "Gemma2", "Gemma3")}


class _RmsNorm(torch.autograd.Function):
    """`w * x / sqrt(mean(x^2) + eps)` of a frozen weight, in four passes over memory instead of nine."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
        normed = x * inverse
        ctx.save_for_backward(normed, weight, inverse)
        scaled: Tensor = normed * weight
        return scaled

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        normed, weight, inverse = ctx.saved_tensors
        d_normed = grads[0] * weight
        along = torch.linalg.vecdot(d_normed, normed).unsqueeze(-1).div_(normed.shape[-1])
        return torch.addcmul(d_normed, normed, along, value=-1).mul_(inverse), None, None


class FusedRmsNorm(nn.Module):
    """Stands in for a model's RMSNorm, sharing its frozen weight."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight = norm.weight
        self.variance_epsilon = float(norm.variance_epsilon)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` -> `[..., D]`."""
        result: Tensor = _RmsNorm.apply(x, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]
        return result


def _share(module: nn.Module) -> Any:
    """Copies a module tree whose Parameters and buffers stay the same tensors."""
    kept = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(t): t for t in kept})


class Backbone(nn.Module):
    """One module tree over the base weights: `[1, N, D]` embeddings in, hidden states out.

    Args:
        model: the causal LM whose Parameters are shared.
        layers: use only the first so many layers, all if None.
        lora: adapter of every linear layer, none if None.
        prompt_vectors: learned input embeddings before the first document of a prompt (prompt tuning), none if 0. They
            start as those of random vocabulary entries.
        entries: whether latents are read as cache entries (`latentpress.cache_entries`), not as input embeddings.

    Raises:
        BaseModelError: layers that the model does not have, nothing to adapt, or keys that no latent can stand among.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        layers: int | None = None,
        lora: LoraSettings | None = None,
        prompt_vectors: int = 0,
        entries: bool = False,
    ) -> None:
        super().__init__()
        body = _share(model.get_decoder())
        total = len(body.layers)
        if layers is not None and not 1 <= layers <= total:
            raise BaseModelError(
                f"encoder_layers={layers} does not fit a base model of {total} layers; choose 1 to {total}"
            )
        if layers is not None:
            body.layers = body.layers[:layers]
        for name, layer in list(body.named_modules()):
            if type(layer).__name__ in _PLAIN_RMS_NORMS:
                parent, _, leaf = name.rpartition(".")
                setattr(body.get_submodule(parent), leaf, FusedRmsNorm(layer))
        if lora is not None and not add_lora(body.layers, lora):
            raise BaseModelError(f"{type(model).__name__} has no linear layer to adapt; choose another base model")
        body.config = copy.copy(body.config)
        body.config._attn_implementation = PACKED
        for layer in body.modules():
            if isinstance(getattr(layer, "config", None), type(body.config)):
                layer.config = body.config
            if hasattr(layer, "attention_dropout"):  # of the base's own training; ours is the adapters'
                layer.attention_dropout = 0.0
        self.body = body
        object.__setattr__(self, "_head", model.get_output_embeddings())
        self.rotation = KeyRotation(body, model.config, type(model).__name__) if entries else None
        self.softcap: float | None = getattr(model.config, "final_logit_softcapping", None)
        self.width: int = model.config.hidden_size
        self.depth = len(body.layers)
        self.prompt: nn.Parameter | None = None
        if prompt_vectors:
            table = body.get_input_embeddings().weight
            drawn = torch.randint(len(table), (prompt_vectors,)).to(table.device)
            self.prompt = nn.Parameter(table[drawn].detach().float())

    @property
    def dtype(self) -> torch.dtype:
        """Type of the base weights, and of the activations."""
        return self.body.get_input_embeddings().weight.dtype  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """Where the base weights lie."""
        return self.body.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids `[N]` -> input embeddings `[N, D]`."""
        result: Tensor = self.body.get_input_embeddings()(ids)
        return result

    def forward(self, embeddings: Tensor, layout: Layout) -> Tensor:
        """Runs a packed row.

        Args:
            embeddings: `[N, D]` input embeddings.
            layout: sequences, positions and visibility of the row.

        Returns:
            `[N, D]` states after the final norm.
        """
        states: Tensor = self._run(embeddings, layout).last_hidden_state[0]
        return states

    def all_layers(self, embeddings: Tensor, layout: Layout) -> Tensor:
        """Runs a packed row and keeps the states of every layer.

        Args:
            embeddings: `[N, D]` input embeddings.
            layout: sequences, positions and visibility of the row.

        Returns:
            `[L + 1, N, D]`: what enters the first layer, what each layer gives, the last one after the final norm.
        """
        return torch.cat(self._run(embeddings, layout, output_hidden_states=True).hidden_states)

    def keys_values(self, embeddings: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Runs a packed row and keeps the keys and values of every layer, as latents that are cache entries have them.

        Args:
            embeddings: `[N, D]` input embeddings.
            layout: sequences, positions and visibility of the row.

        Returns:
            Keys and values without their positions, `[N, W]` (see `latentpress.cache_entries`), and final states
            `[N, D]`.
        """
        assert self.rotation is not None, "a backbone that latents are cache entries of"
        captured = CapturedEntries(self.rotation, layout.positions)
        states = self(embeddings, dataclasses.replace(layout, captured=captured))
        entries = captured.entries()
        if states.requires_grad:
            # FSDP gathers a layer's weights for the way back where its output has a gradient, as the last layer's has
            # not unless a head reads it.
            entries = entries + (states.sum() * 0.0).to(entries.dtype)
        return entries, states

    def _run(self, embeddings: Tensor, layout: Layout, **outputs: bool) -> Any:
        return self.body(
            inputs_embeds=embeddings[None],
            position_ids=layout.positions[None],
            use_cache=False,
            layout=layout,
            **outputs,
        )

    def logits(self, states: Tensor) -> Tensor:
        """Final states `[N, D]` -> float32 logits `[N, V]`."""
        logits: Tensor = self._head(states).float()  # type: ignore[operator]
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Base:
    """A loaded base model: its weights once, its tokenizer, and its identity."""

    model: PreTrainedModel
    """The frozen causal LM; its module tree is never changed."""
    tokenizer: PreTrainedTokenizerBase
    """Its fast tokenizer."""
    id: str
    """Name or hub id it was asked for by."""
    fingerprint: str
    """SHA-256 over the architecture and a sample of every weight, hex."""

    @property
    def width(self) -> int:
        """Width D of its hidden states and embeddings."""
        return int(self.model.config.hidden_size)

    @property
    def max_positions(self) -> int:
        """Positions the model was made for."""
        return int(self.model.config.max_position_embeddings)


def load_base(folder: Path, *, id: str, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> Base:
    """Loads a base model from a folder of safetensors, frozen.

    Raises:
        BaseModelError: the folder cannot be read, or its tokenizer is not a fast one.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:  # safetensors and transformers raise families of their own
        raise _unreadable(folder, id, error) from error
    tokenizer = load_tokenizer(folder, id=id)
    return wrap_base(model, tokenizer, id=id, fingerprint=fingerprint(folder), device=device)


def load_tokenizer(folder: Path, *, id: str) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a base model alone.

    Raises:
        BaseModelError: it cannot be read, or is not a fast one.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # tokenizers and transformers raise families of their own
        raise _unreadable(folder, id, error) from error
    if not tokenizer.is_fast:
        raise BaseModelError(
            f"base model {id!r} has no fast tokenizer; character spans need one (install its tokenizer.json)"
        )
    return tokenizer


def _unreadable(folder: Path, id: str, error: Exception) -> BaseModelError:
    return BaseModelError(
        f"base model {id!r} in {folder} cannot be loaded ({type(error).__name__}: {error}); "
        "fetch it again, as a folder of config.json, tokenizer.json and *.safetensors"
    )


def wrap_base(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, id: str, fingerprint: str, device: str = "cpu"
) -> Base:
    """Makes a base of a model already in memory; freezes it and puts it in evaluation mode.

    Raises:
        BaseModelError: packed passes do not give what the model itself gives, or one sequence would change another.
    """
    kinds = _rope_types(getattr(model.config, "rope_parameters", None))
    if moving := sorted(kinds & _LENGTH_DEPENDENT):
        raise BaseModelError(
            f"base model {id!r} has rotary embeddings of type {moving[0]!r}, which change with the length of what is "
            "read beside a text; use a model whose rope_type is default, linear, yarn or llama3"
        )
    model.eval().requires_grad_(False)
    model = model.to(device)  # type: ignore[arg-type]
    if type(model).__name__ not in _TESTED and not _packs(model):
        raise BaseModelError(
            f"base model {id!r} is a {type(model).__name__}, which does not keep sequences of one row apart as this "
            "library needs; use a Llama, Qwen2, Qwen3, Mistral, Gemma or another plain transformer"
        )
    return Base(model=model, tokenizer=tokenizer, id=id, fingerprint=fingerprint)


def _rope_types(parameters: Any) -> set[str]:
    """Kinds of rotary embedding in a model's settings, which may hold one for each kind of layer."""
    if not isinstance(parameters, dict):
        return set()
    inner = (_rope_types(value) for value in parameters.values())
    return set().union(*inner) | ({str(parameters["rope_type"])} if "rope_type" in parameters else set())


@torch.no_grad()
def _packs(model: PreTrainedModel) -> bool:
    """Whether two sequences side by side get the logits that the model itself gives each alone."""
    try:
        backbone = Backbone(model)
        ids = torch.arange(5, device=backbone.device)
        packed = backbone.logits(backbone(backbone.embed(ids), Layout.of((2, 3), "causal", device=ids.device)))
        own = [model(input_ids=part[None], use_cache=False).logits[0] for part in ids.split((2, 3))]
        alone = torch.cat(own).float()
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return False
    # bfloat16 rounds differently; what mixes sequences differs by far more.
    return bool((packed - alone).norm() <= 0.1 * alone.norm())


def fingerprint(folder: Path) -> str:
    """Identity of a base model: its sizes, and names, element counts and a sample of the values of all its weights.

    Does not depend on the library's version, the file layout or the type on disk beyond bfloat16 rounding.

    Raises:
        BaseModelError: a file is missing or cannot be read.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"{folder / 'config.json'} of the base model cannot be read ({error}); fetch it again"
        ) from error
    keys = (
        "model_type",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "vocab_size",
    )
    digest = hashlib.sha256(json.dumps({k: config.get(k) for k in keys}, sort_keys=True).encode())
    weights: dict[str, tuple[Path, str]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as opened:
                weights |= {name: (file, name) for name in opened.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise BaseModelError(f"{file} of the base model cannot be read ({error}); fetch it again") from error
    if not weights:
        raise BaseModelError(
            f"no *.safetensors in {folder}: a base model's weights are read from safetensors only; "
            "convert them with save_pretrained"
        )
    for name in sorted(weights):
        with safe_open(weights[name][0], framework="pt") as opened:
            tensor = opened.get_tensor(name).flatten()
            sample = tensor[:: max(1, tensor.numel() // 64)].to(torch.bfloat16).view(torch.int16).numpy().tobytes()
            digest.update(name.encode() + str(tensor.numel()).encode() + sample)
    return digest.hexdigest()
