"""What a press did with a text, for people to look at: which latent carries which token, and what its method tells.

    shown = inspect(press, text)
    shown.capacity[17]          # how much token 17 may send, 1 if all tokens of its segment had the same

Nothing is drawn here: `latentpress.plots` does that. Tokens are counted from 0 over the whole text, a span ends before
its end; windows, segments and slots are numbered from 1 where a person reads them.

Shape letters: T tokens, M slots (latents), L layers, P pieces.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentpress.arguments import requested_size
from latentpress.compressors import Compressor, Size
from latentpress.compressors.base import Insight
from latentpress.errors import InputError
from latentpress.latents import WindowInfo
from latentpress.model import Encoded
from latentpress.press import Press
from latentpress.tokens import tokenize
from latentpress.windows import cut, passes

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Characters that are shown as one: a token, or several that share a character."""

    text: str
    """Its characters; those of all pieces are the text."""
    start: int
    """First token."""
    end: int
    """End of its tokens."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SegmentPlan:
    """What the tokens of one segment sent to its slots."""

    number: int
    """Number of the segment, from 1."""
    start: int
    """First token."""
    end: int
    """End of its tokens."""
    first_slot: int
    """Index of its first slot."""
    plan: FloatArray
    """How much of each token goes to each slot, `[tokens, slots]`; all of it sums to 1."""
    own: float | None
    """Share of it that goes from a token to the slot whose span it lies in; None if tokens have no such slot."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Inspection:
    """What a press did with a text."""

    press: str
    """Name of the press."""
    fingerprint: str
    """Its fingerprint."""
    compressor: str
    """Name of its method."""
    method: str
    """The method in a line."""
    encodes: bool
    """Whether latents come from states, which know of more tokens than they were read at; else from embeddings."""
    residual: str
    """Kind of its embedding residual."""
    tokens: int
    """Tokens T of the text."""
    pieces: tuple[Piece, ...]
    """The text, `[P]`."""
    windows: tuple[WindowInfo, ...]
    """Encoder windows, with ratio and number of latents."""
    spans: IntArray
    """Tokens that each latent covers, `[M, 2]`."""
    slots: IntArray | None
    """Latent that covers each token, `[T]`, -1 where none does; None where several latents cover one token."""
    capacity: FloatArray | None
    """How much each token may send, `[T]`, 1 if all of its segment had the same; None: the method has no such thing."""
    layers: FloatArray | None
    """Weight of each layer for each token, `[L, T]`, the embedding output first; None: the method reads one layer."""
    salience: FloatArray | None
    """Weight of each token in the residual's mean of its slot, `[T]`; None without a salient residual."""
    segments: int
    """Number of segments; 0 if the method has none."""
    plan: SegmentPlan | None
    """Of the segment that was asked for."""

    def by_piece(self, values: FloatArray) -> FloatArray:
        """Means of values of tokens `[T]` over the tokens of each piece, `[P]`."""
        starts = np.array([piece.start for piece in self.pieces])
        counts = np.diff(np.append(starts, self.tokens))
        return (np.add.reduceat(values, starts) / counts).astype(np.float32)

    def over_equal_share(self, weights: FloatArray) -> FloatArray:
        """Weights `[T]` that sum to 1 over each slot, as multiples of what each token had if all had the same."""
        assert self.slots is not None
        return (weights * (self.spans[:, 1] - self.spans[:, 0])[self.slots]).astype(np.float32)


@torch.no_grad()
def inspect(
    press: Press,
    text: str,
    *,
    ratio: float | None = None,
    length: int | None = None,
    scale: float = 0.0,
    segment: int | None = None,
) -> Inspection:
    """Compresses a text and looks at what happened.

    A press with something to tell reads the text twice: once to compress it, once to tell.

    Args:
        press: any.
        text: a document of any length.
        ratio: as of `Press.compress`.
        length: as of `Press.compress`.
        scale: as of `Press.compress`.
        segment: number of the segment, from 1, whose plan is kept; the first if None.

    Raises:
        InputError, RatioError: as `Press.compress`; a segment that does not exist, or for a press without segments.
    """
    _check_segment(press, segment)
    latents = press.compress(text, ratio=ratio, length=length, scale=scale)
    document = tokenize(press._encoder_tokenizer, text)
    spans: IntArray = latents.token_spans.numpy()
    slots = slots_of(spans, len(document.ids))
    found = _Found(wanted=segment or 1)
    if _tells(press) or _has_salience(press):
        sizes_left = iter(
            _sizes(press, latents.windows, requested_size(press.model.policy, ratio, scale, length), scale)
        )
        for batch in passes(cut([document], press.config.window_tokens), press.model.compressor.adds):
            encoded = press.model.encode([window.ids for window in batch])
            sizes = list(itertools.islice(sizes_left, sum(map(len, encoded.parts))))
            insight = press.model.compressor.insight(encoded.states, encoded.lengths, sizes)
            found.add(insight, [window.start for window in batch], slots)
            if _has_salience(press):
                index = press.model.latents(encoded, sizes).index
                assert index is not None  # a residual needs latents that share the text out
                found.salience.append(_salience(press, encoded, index))
    if segment is not None and segment > found.segments:
        raise InputError(
            f"segment {segment} does not exist: this text of {len(document.ids):,} tokens has {found.segments} "
            f"segments with press {press.config.name!r}; choose one from 1 to {found.segments}"
        )
    return Inspection(
        press=press.config.name,
        fingerprint=press.fingerprint,
        compressor=press.config.compressor,
        method=press.model.compressor.describe,
        encodes=press.model.encoder is not None,
        residual=press.config.residual,
        tokens=len(document.ids),
        pieces=pieces_of(text, document.offsets),
        windows=latents.windows,
        spans=spans,
        slots=slots,
        capacity=_joined(found.capacity),
        layers=_joined(found.layers),
        salience=_joined(found.salience),
        segments=found.segments,
        plan=found.plan,
    )


def _sizes(press: Press, windows: Sequence[WindowInfo], asked: Size | None, scale: float) -> list[Size]:
    """Sizes by which a document became what it is, of each of its parts."""
    tokens = [window.tokens for window in windows]
    if asked is not None:
        return press.model.policy.spread(asked, tokens)
    return press.model.policy.choose_parts([window.log2_ratio for window in windows], scale, tokens)


def pieces_of(text: str, offsets: Sequence[tuple[int, int]]) -> tuple[Piece, ...]:
    """Cuts a text along its tokens; tokens that share a character, as byte-level ones may, are one piece.

    Characters that no token stands for go to the piece behind them, tokens without characters too; both to the last
    piece if there is none behind.
    """
    starts = [0]
    edges = [0]
    reached, empty = 0, True
    for token, (start, end) in enumerate(offsets):
        if not empty and start >= reached:
            starts.append(token)
            edges.append(reached)
            empty = True
        empty = empty and end <= start
        reached = max(reached, end)
    if empty and len(starts) > 1:  # the last ones stand for nothing
        starts.pop()
        edges.pop()
    starts.append(len(offsets))
    edges.append(len(text))
    return tuple(
        Piece(text=text[edges[i] : edges[i + 1]], start=starts[i], end=starts[i + 1]) for i in range(len(starts) - 1)
    )


def slots_of(spans: IntArray, tokens: int) -> IntArray | None:
    """Latent that covers each token `[T]`, -1 where none does; None where several latents cover one token.

    Args:
        spans: tokens of each latent, `[M, 2]`.
        tokens: T.
    """
    slots = np.full(tokens, -1, dtype=np.int64)
    for slot, (start, end) in enumerate(spans.tolist()):
        if (slots[start:end] >= 0).any():
            return None
        slots[start:end] = slot
    return slots


@dataclass(kw_only=True, slots=True)
class _Found:
    """What a method tells, gathered pass by pass."""

    wanted: int
    """Number of the segment whose plan is kept."""
    capacity: list[Tensor] = field(default_factory=list)
    layers: list[Tensor] = field(default_factory=list)
    salience: list[Tensor] = field(default_factory=list)
    segments: int = 0
    """Segments so far."""
    used: int = 0
    """Slots of those segments."""
    plan: SegmentPlan | None = None

    def add(self, insight: Insight, starts: Sequence[int], slots: IntArray | None) -> None:
        """Takes what a method says of some windows, which begin at the given tokens."""
        if insight.capacity is not None:
            self.capacity.append(insight.capacity.cpu())
        if insight.layer_weights is not None:
            self.layers.append(insight.layer_weights.cpu())
        for (window, start, end), plan in zip(insight.segments, insight.plans, strict=True):
            self.segments += 1
            if self.segments == self.wanted:
                self._keep(_array(plan), starts[window] + start, starts[window] + end, slots)
            self.used += plan.shape[1]

    def _keep(self, plan: FloatArray, start: int, end: int, slots: IntArray | None) -> None:
        own = None
        if slots is not None:
            at = slots[start:end] - self.used
            if at.min() >= 0 and at.max() < plan.shape[1]:
                own = float(plan[np.arange(end - start), at].sum() / plan.sum())
        self.plan = SegmentPlan(number=self.wanted, start=start, end=end, first_slot=self.used, plan=plan, own=own)


def _tells(press: Press) -> bool:
    return type(press.model.compressor).insight is not Compressor.insight


def _has_salience(press: Press) -> bool:
    return press.model.residual is not None and press.model.residual.kind == "salient"


def _check_segment(press: Press, segment: int | None) -> None:
    if segment is None:
        return
    if segment < 1:
        raise InputError(f"segment {segment} does not exist; the first is 1")
    if not _tells(press):
        raise InputError(
            f"segment {segment} cannot be shown: press {press.config.name!r}, with compressor "
            f"{press.config.compressor!r}, has no segments; leave it out"
        )


def _salience(press: Press, encoded: Encoded, index: Tensor) -> Tensor:
    """Weights of the residual for the tokens of a pass, `[T]`; `index` is the latent of each."""
    assert press.model.residual is not None
    states = encoded.states if encoded.states.ndim == 2 else encoded.states[-1]
    return press.model.residual.weights(encoded.ids, states, index, int(index.max()) + 1).cpu()


def _joined(parts: list[Tensor]) -> FloatArray | None:
    """Parts joined along their tokens, the last axis."""
    return _array(torch.cat(parts, -1)) if parts else None


def _array(values: Tensor) -> FloatArray:
    made: FloatArray = values.detach().float().cpu().numpy()
    return made
