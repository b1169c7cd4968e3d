"""The network of a press: encoder, head, compressor, converter, decoder. Training and inference call the same methods.

ids -> encode -> states, prediction -> latents(size) -> decoder input embeddings, or entries of its cache
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentpress.attention import Layout
from latentpress.backbone import Backbone, Base
from latentpress.checkpoints.config import PressConfig, read_dataclass
from latentpress.compressors import COMPRESSORS, Added, Compressor, Extracted, Length, Ratio, Shape, Size
from latentpress.errors import PressError, RatioError
from latentpress.lora import lora_state
from latentpress.ratios import POLICIES, RatioPolicy
from latentpress.residual import EmbeddingResidual

_T = TypeVar("_T")
_NO_ENCODER = "has no encoder; set residual='none', policy='fixed' or 'fixed-length', and no encoder_base"
_SAMPLED_ENTRIES = 4096  # of a vocabulary: enough for the mean and spread of its embeddings


class Converter(nn.Module):
    """Encoder width to decoder width: RMSNorm, Linear, GELU, Linear, no bias (arXiv 2603.25926, the authors' code).

    The last layer starts at zero beside a residual path, so that training starts from the embeddings alone.
    """

    def __init__(self, width: int, hidden: int, out: int, *, zero: bool) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, out, bias=False)
        if zero:
            nn.init.zeros_(self.down.weight)

    def forward(self, pooled: Tensor, dtype: torch.dtype) -> Tensor:
        """`[M, De]` float32 -> `[M, D]` of the given type; float32 masters, products in that type."""
        hidden = F.gelu(F.linear(self.norm(pooled).to(dtype), self.up.weight.to(dtype)))
        return F.linear(hidden, self.down.weight.to(dtype))


class RatioHead(nn.Module):
    """The selector's linear head on the state of the EOS token (arXiv 2603.25926, equations 1 and 2).

    The state is scaled to norm 4 and the bias starts at the middle of the usual ratios, 4: a large state under a plain
    linear layer gives gradients that drown those of the language model in a clipped step (measured,
    docs/experiments.md).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, 2.0)

    def forward(self, states: Tensor) -> Tensor:
        """`[B, De]` -> predicted log2 ratios `[B]` float32."""
        return self.linear(self.features(states))[:, 0]  # type: ignore[no-any-return]

    @staticmethod
    def features(states: Tensor) -> Tensor:
        """What the linear layer reads of states: `[B, De]` -> `[B, De]` float32, of norm 4."""
        return 4 * F.normalize(states.float(), dim=-1)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """What the encoder knows of some texts, end to end."""

    ids: Tensor
    """Token ids of the texts, `[T1 + T2 + ...]`."""
    lengths: tuple[int, ...]
    """Tokens of each text."""
    parts: tuple[tuple[int, ...], ...]
    """Tokens of each part of each text; a part has a size of its own."""
    states: Tensor
    """States of their tokens, `[T1 + T2 + ..., De]`; with a leading axis of layers for a compressor that reads all, and
    keys and values `[T1 + T2 + ..., W]` for one that reads these."""
    added: Added
    """States of what the compressor had the encoder read behind each text."""
    log2_ratios: Tensor | None
    """What the head predicts for each part of all texts, `[P]` float32; None without a head."""
    gists: Tensor | None = None
    """States that the head predicts from, `[P, De]`; None without a head."""


class PressModel(nn.Module):
    """Everything a press computes with.

    Args:
        config: its settings.
        base: decoder's base model.
        encoder_base: encoder's, the same if None.

    Raises:
        PressError: an unknown name in the settings, or settings that do not go together.
    """

    def __init__(self, config: PressConfig, base: Base, encoder_base: Base | None = None) -> None:
        super().__init__()
        if (config.encoder_base is None) != (encoder_base is None):
            raise PressError(
                f"press {config.name!r} needs {'another' if config.encoder_base else 'no other'} base model for "
                "its encoder; pass encoder_base= accordingly"
            )
        source = encoder_base or base
        self.config = config
        # Latents that are cache entries are made by what reads them.
        shared = _named(COMPRESSORS, config.compressor, "compressor").reads == "keys-values"
        if shared:
            _check_shared(config)
        self.decoder = Backbone(
            base.model, lora=config.decoder_lora, prompt_vectors=config.prompt_vectors, entries=shared
        )
        self.policy: RatioPolicy = make_policy(config)
        layers = config.encoder_layers or source.model.config.num_hidden_layers
        shape = Shape(
            width=source.width,
            layers=layers + 1,
            out=base.width,
            entry=(1, 1, 2) if self.decoder.rotation is None else self.decoder.rotation.shape,
            vocabulary=source.model.config.vocab_size,
            window_tokens=config.window_tokens,
            most=self.policy.most,
        )
        self.compressor = make_compressor(config, shape)
        if self.compressor.frozen and config.encoder_lora is not None:
            raise PressError(
                f"compressor {config.compressor!r} reads the base model as it is, so an adapter of the encoder would "
                "never be trained; set encoder_lora to none"
            )
        self.encoder: Backbone | None = None
        self.converter: Converter | None = None
        if shared:
            self.encoder = self.decoder
        elif self.compressor.reads != "embeddings":
            self.encoder = Backbone(source.model, layers=config.encoder_layers, lora=config.encoder_lora)
            self._start_added_tokens(self.encoder, source)
            if not self.compressor.converts:
                zero = config.residual != "none"
                self.converter = Converter(source.width, config.converter_width, base.width, zero=zero)
        elif encoder_base is not None or config.residual != "none":
            raise PressError(f"compressor {config.compressor!r} {_NO_ENCODER}")
        self.head = RatioHead(source.width) if self.policy.predicts else None
        self.residual: EmbeddingResidual | None = None
        if config.residual != "none" and not self.compressor.tiles:
            raise PressError(
                f"residual={config.residual!r} needs a compressor whose latents share the text out, "
                f"{config.compressor!r} is none; set residual='none'"
            )
        if config.residual != "none":
            if encoder_base is not None:
                raise PressError(
                    f"residual={config.residual!r} needs encoder and decoder to share a tokenizer; "
                    "set residual='none' for an encoder of another base"
                )
            self.residual = EmbeddingResidual(config.residual, base.model.config.vocab_size, source.width)
            self.compressor.start_at_zero()
        eos = source.tokenizer.eos_token_id
        if eos is None:
            raise PressError(
                f"base model {source.id!r} has no EOS token, which the selector's head reads; use a base model with one"
            )
        self.eos = int(eos)
        adapter = config.decoder_lora if shared else config.encoder_lora
        self.trains_encoder = self.encoder is not None and adapter is not None
        self.to(base.model.device)

    def _start_added_tokens(self, encoder: Backbone, source: Base) -> None:
        window = self.config.window_tokens
        added = self.compressor.adds(window)
        if added and window + 1 + added > source.max_positions:
            raise PressError(
                f"compressor {self.config.compressor!r} reads {added:,} tokens behind a window of {window:,} and its "
                f"EOS, and base model {source.id!r} has {source.max_positions:,} positions; lower window_tokens, or "
                "choose sizes of fewer latents"
            )
        if added:
            entries = source.model.config.vocab_size
            sample = torch.arange(0, entries, -(-entries // _SAMPLED_ENTRIES), device=encoder.device)
            self.compressor.start_from(encoder.embed(sample))

    def encode(self, texts: Sequence[Sequence[int]]) -> Encoded:
        """Runs the encoder over texts, each followed by an EOS that the head alone reads.

        Args:
            texts: token ids of each, at least one token.
        """
        device = self.decoder.device
        lengths = tuple(len(text) for text in texts)
        parts = tuple(self.compressor.parts(length) for length in lengths)
        plain = torch.tensor([i for text in texts for i in text], device=device)
        if self.encoder is None:
            nothing = Added(states=self.decoder.embed(plain[:0]), counts=(0,) * len(lengths))
            return Encoded(plain, lengths, parts, self.decoder.embed(plain), nothing, None)
        ids = torch.tensor([i for text in texts for i in (*text, self.eos)], device=device)
        prepared = self.compressor.prepare(self.encoder.embed(ids), [n + 1 for n in lengths])
        rows = [n + 1 + more for n, more in zip(lengths, prepared.added, strict=True)]
        layout = Layout.of(rows, self.compressor.visibility, device=device)
        reads = self.compressor.reads
        # A frozen encoder of frozen inputs keeps nothing for a way back.
        with torch.set_grad_enabled(
            torch.is_grad_enabled() and (self.trains_encoder or prepared.embeddings.requires_grad)
        ):
            if reads == "keys-values":
                states, final = self.encoder.keys_values(prepared.embeddings, layout)
            else:
                states = (self.encoder.all_layers if reads == "all" else self.encoder)(prepared.embeddings, layout)
                final = states if states.ndim == 2 else states[-1]
        # Each row is its text, its EOS and what was added: parts 0, 1 and 2.
        sizes = torch.tensor([[n, 1, more] for n, more in zip(lengths, prepared.added, strict=True)], device=device)
        part = torch.tensor([0, 1, 2], device=device).repeat(len(lengths)).repeat_interleave(sizes.flatten())
        text, added = (states[..., part == i, :] for i in (0, 2))
        encoded = Encoded(plain, lengths, parts, text, Added(states=added, counts=prepared.added), None)
        if self.head is None:
            return encoded
        gists = self.compressor.gist(text, [tokens for own in parts for tokens in own])
        if gists is None:
            gists = final[part == 1]
        return dataclasses.replace(encoded, log2_ratios=self.head(gists), gists=gists)

    def latents(self, encoded: Encoded, sizes: Size | Sequence[Size]) -> Extracted:
        """Makes latents as the decoder reads them.

        Args:
            encoded: texts that went through `encode`.
            sizes: one for all, or one a part of each text, end to end.

        Returns:
            Vectors `[M1 + M2 + ..., latent_width]` in the decoder's type.
        """
        if isinstance(sizes, Ratio | Length):
            sizes = [sizes] * sum(map(len, encoded.parts))
        extracted = self.compressor.extract(encoded.states, encoded.lengths, sizes, encoded.added, encoded.ids)
        if self.converter is None and self.residual is None:
            return extracted
        vectors = extracted.vectors
        if self.converter is not None:
            vectors = self.converter(vectors, self.decoder.dtype)
        if self.residual is not None:
            assert extracted.index is not None
            states = encoded.states if encoded.states.ndim == 2 else encoded.states[-1]
            embeddings = self.decoder.embed(encoded.ids)
            embedded = self.residual(embeddings, encoded.ids, states, extracted.index, len(vectors))
            vectors = vectors + embedded.to(vectors.dtype)
        return dataclasses.replace(extracted, vectors=vectors)

    def own_state(self) -> dict[str, Tensor]:
        """Weights outside base and adapters, by name."""
        kept: dict[str, Tensor] = {}
        for part in ("compressor", "converter", "head", "residual"):
            module = getattr(self, part)
            if module is not None:
                kept |= {f"{part}.{name}": tensor for name, tensor in module.state_dict().items()}
        if self.decoder.prompt is not None:
            kept["decoder.prompt"] = self.decoder.prompt.detach()
        return kept

    @property
    def latent_width(self) -> int:
        """Width of a latent: of the decoder's input embeddings, or of its cache entries."""
        return self.decoder.width if self.decoder.rotation is None else math.prod(self.decoder.rotation.shape)

    def trees(self) -> dict[str, Backbone]:
        """Module trees over the base weights, by role; an encoder that is the decoder is none of its own."""
        encoder = {} if self.encoder is None or self.encoder is self.decoder else {"encoder": self.encoder}
        return {**encoder, "decoder": self.decoder}

    def adapter_states(self) -> dict[str, dict[str, Tensor]]:
        """Weights of the adapters under PEFT's names."""
        found = {role: lora_state(tree.body) for role, tree in self.trees().items()}
        return {role: state for role, state in found.items() if state}


def _check_shared(config: PressConfig) -> None:
    """Makes sure that what only an encoder of its own or input embeddings can have is not asked for.

    Raises:
        PressError: it is.
    """
    wrong = {
        "encoder_base": config.encoder_base is not None,
        "encoder_layers": config.encoder_layers is not None,
        "encoder_lora": config.encoder_lora is not None,
        "prompt_vectors": config.prompt_vectors > 0,
        "residual": config.residual != "none",
    }
    if given := [name for name, there in wrong.items() if there]:
        raise PressError(
            f"latents of compressor {config.compressor!r} are cache entries of the decoder, which reads the text too, "
            f"so there is no place for {' and '.join(given)}; set encoder_base, encoder_layers and encoder_lora to "
            "none, residual='none' and prompt_vectors=0"
        )


def make_compressor(config: PressConfig, shape: Shape) -> Compressor:
    """The compressor that a configuration names.

    Raises:
        PressError: it has no such settings, or cannot make the sizes that the ratio policy chooses.
    """
    kind = _named(COMPRESSORS, config.compressor, "compressor")
    policy = _named(POLICIES, config.policy, "ratio policy")
    if policy.kind not in kind.sizes:
        predicts = kind.reads != "embeddings"
        fitting = [name for name, one in POLICIES.items() if one.kind in kind.sizes and (predicts or not one.predicts)]
        others = [name for name, one in COMPRESSORS.items() if policy.kind in one.sizes]
        makes = " and ".join(f"{size.__name__.lower()}s" for size in kind.sizes)
        raise PressError(
            f"ratio policy {config.policy!r} chooses {policy.word()}s, and compressor {config.compressor!r} makes "
            f"{makes} only; choose the policy {' or '.join(fitting)}, or the compressor {' or '.join(others)}"
        )
    if policy.predicts and kind.reads == "embeddings":
        raise PressError(
            f"ratio policy {config.policy!r} predicts from an encoder's states, and compressor {config.compressor!r} "
            f"{_NO_ENCODER}"
        )
    where = f"press {config.name!r}: compressor_settings"
    try:
        made = kind(shape, read_dataclass(kind.Settings, config.compressor_settings, where))
        made.check(config.candidates)
    except RatioError as error:
        raise PressError(f"{where} cannot be: {error}") from error
    return made


def _named(table: dict[str, _T], name: str, kind: str) -> _T:
    if name not in table:
        raise PressError(f"{kind} {name!r} is unknown; choose one of {', '.join(table)}")
    return table[name]


def make_policy(config: PressConfig) -> RatioPolicy:
    """The ratio policy that a configuration names."""
    kind = _named(POLICIES, config.policy, "ratio policy")
    try:
        return kind.make(
            config.candidates,
            rounding=config.rounding,
            selection=config.selection,
            length_exponent=config.length_exponent,
        )
    except RatioError as error:
        raise PressError(f"press {config.name!r} has settings that cannot be: {error}") from error
