"""Answers, token by token, from prompts that hold latents.

Prompts of a batch lie side by side in packed rows, each with its own keys and values: an answer does not depend on what
else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentpress.attention import KeyValueCache, LastTokenAttention, Layout
from latentpress.backbone import Backbone
from latentpress.decoder.prompt import Piece, Slot
from latentpress.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are chosen."""

    max_new_tokens: int = 64
    """Most tokens of an answer."""
    temperature: float = 0.0
    """0 takes the likeliest token; higher values sample."""
    seed: int = 0
    """Seed of the sampling, the same for each prompt of a batch: an answer does not depend on its companions."""

    def __post_init__(self) -> None:
        if type(self.max_new_tokens) is not int or self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens={self.max_new_tokens!r} must be a whole number of at least 1")
        if not isinstance(self.temperature, int | float) or not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature={self.temperature!r} must be 0 (greedy) or a finite number above")
        if type(self.seed) is not int or not -(2**63) <= self.seed < 2**64:
            raise InputError(f"seed={self.seed!r} must be a whole number of at most 64 bits")


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Latents of a document that are cache entries."""

    latents: Tensor
    """`[M, W]`, see `latentpress.cache_entries`."""


@dataclass(frozen=True, slots=True, eq=False)
class MixedPrompt:
    """A prompt in which latents that are cache entries stand between tokens."""

    parts: tuple[Tensor | Entries, ...]
    """Input embeddings `[T, D]` and entries, in order."""


Prompt = Tensor | MixedPrompt
"""What a decoder reads before it answers: input embeddings `[T, D]`, or these with entries among them."""


def prompt_of(backbone: Backbone, pieces: Sequence[Piece], latents: Sequence[Tensor]) -> Prompt:
    """A prompt as the backbone reads it.

    Args:
        backbone: the decoder.
        pieces: tokens and slots.
        latents: of each document, `[M, D]` input embeddings, or `[M, W]` where the backbone reads cache entries.
    """
    if backbone.rotation is None or not any(isinstance(piece, Slot) for piece in pieces):
        return embed_pieces(backbone, pieces, latents)
    return MixedPrompt(
        tuple(
            Entries(latents[piece.document].to(backbone.device))
            if isinstance(piece, Slot)
            else embed_pieces(backbone, [piece], [])
            for piece in pieces
        )
    )


def embed_pieces(backbone: Backbone, pieces: Sequence[Piece], latents: Sequence[Tensor]) -> Tensor:
    """Input embeddings `[T, D]` of a prompt: tokens looked up, each slot replaced by a document's latents `[M, D]`.

    The backbone's learned vectors, if it has any, stand before the first slot.
    """
    rows = []
    prompt = backbone.prompt
    for piece in pieces:
        if isinstance(piece, Slot):
            if prompt is not None:
                rows.append(prompt.to(backbone.dtype))
                prompt = None
            rows.append(latents[piece.document].to(backbone.device, backbone.dtype))
        else:
            rows.append(backbone.embed(torch.tensor(piece, device=backbone.device)))
    return torch.cat(rows) if rows else torch.empty(0, backbone.width, dtype=backbone.dtype, device=backbone.device)


@torch.no_grad()
def prefill(
    backbone: Backbone, prompts: Sequence[Prompt], cache: KeyValueCache, watched: LastTokenAttention | None = None
) -> Tensor:
    """Reads prompts into a cache.

    Args:
        backbone: the decoder.
        prompts: what each holds; entries go into the cache as they are, in a position each.
        cache: what came before each prompt; extended.
        watched: given the attention of one prompt.

    Returns:
        Final state of the last token of each prompt, `[B, D]`; zeros for one without a token.
    """
    assert watched is None or len(prompts) == 1, "one prompt is watched at a time"
    left: list[list[Tensor | Entries]] = [
        [*prompt.parts] if isinstance(prompt, MixedPrompt) else [prompt] for prompt in prompts
    ]
    last = torch.zeros(len(prompts), backbone.width, dtype=backbone.dtype, device=backbone.device)
    while any(left):
        now = [_next_tokens(backbone, parts, cache, i) for i, parts in enumerate(left)]
        lengths = tuple(map(len, now))
        if not any(lengths):
            continue
        positions = [torch.arange(n, device=last.device) + cache.length(i) for i, n in enumerate(lengths)]
        layout = Layout(lengths, torch.cat(positions), "causal", cache, watched=watched)
        states: Tensor = backbone(torch.cat(now), layout)
        read = [i for i, n in enumerate(lengths) if n]
        last[read] = states[torch.tensor(lengths, device=last.device).cumsum(0)[read] - 1]
    return last


def _next_tokens(backbone: Backbone, parts: list[Tensor | Entries], cache: KeyValueCache, sequence: int) -> Tensor:
    """Takes the next part that is embeddings, none if there is no more; entries before it go into the cache."""
    while parts:
        part = parts.pop(0)
        if not isinstance(part, Entries):
            return part
        rotation = backbone.rotation
        assert rotation is not None
        positions = torch.arange(len(part.latents), device=backbone.device) + cache.length(sequence)
        keys, values = rotation.placed(part.latents, positions, backbone.dtype)
        for layer, (key, value) in enumerate(zip(keys, values, strict=True)):
            cache.extend(layer, sequence, key, value, positions)
    return torch.empty(0, backbone.width, dtype=backbone.dtype, device=backbone.device)


def generate(
    backbone: Backbone, states: Tensor, cache: KeyValueCache, stops: frozenset[int], sampling: Sampling
) -> Iterator[list[int | None]]:
    """Continues prefilled prompts.

    Args:
        backbone: the decoder.
        states: final states of the prompts' last tokens, `[B, D]`.
        cache: their keys and values.
        stops: token ids that end an answer.
        sampling: length and randomness.

    Yields:
        The next token of each prompt, None for those that ended.
    """
    total = len(states)
    live = list(range(total))
    draws = [torch.Generator(device=states.device).manual_seed(sampling.seed) for _ in live]
    for step in range(sampling.max_new_tokens):
        with torch.no_grad():
            tokens = _choose(backbone.logits(states), sampling, draws)
        going = [i for i, token in enumerate(tokens) if token not in stops]
        row: list[int | None] = [None] * total
        for i in going:
            row[live[i]] = tokens[i]
        if not going:
            return
        yield row
        if step + 1 == sampling.max_new_tokens:
            return
        if len(going) < len(live):
            cache, live, draws = cache.keep(going), [live[i] for i in going], [draws[i] for i in going]
        ids = torch.tensor([tokens[i] for i in going], device=states.device)
        with torch.no_grad():
            positions = torch.tensor([cache.length(i) for i in range(len(live))], device=states.device)
            states = backbone(backbone.embed(ids), Layout((1,) * len(live), positions, "causal", cache))


def _choose(logits: Tensor, sampling: Sampling, draws: Sequence[torch.Generator]) -> list[int]:
    if sampling.temperature == 0:
        return [int(i) for i in logits.argmax(-1)]
    below = logits - logits.max(-1, keepdim=True).values  # 0 at the top, so that no temperature overflows
    weights = torch.softmax(below / max(sampling.temperature, torch.finfo(below.dtype).tiny), -1)
    return [int(torch.multinomial(row, 1, generator=draw)) for row, draw in zip(weights, draws, strict=True)]
