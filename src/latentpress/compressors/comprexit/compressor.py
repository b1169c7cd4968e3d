"""ComprExIT (arXiv 2602.03784): latents from the frozen states of all layers, without an encoder that is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from latentpress.attention import Visibility
from latentpress.compressors.base import (
    Added,
    Compressor,
    Extracted,
    Insight,
    Ratio,
    Reads,
    Shape,
    Size,
    window_means,
)
from latentpress.compressors.comprexit.depth import DepthTransmission
from latentpress.compressors.comprexit.sinkhorn import Gradient
from latentpress.compressors.comprexit.width import Segments, WidthTransmission
from latentpress.errors import RatioError


@dataclass(frozen=True, kw_only=True, slots=True)
class ComprExITSettings:
    """Settings of ComprExIT; the usual ones are the authors'."""

    segment_tokens: int = 128
    """Tokens W of a segment, within which tokens are carried into slots."""
    query_width: int = 256
    """Width of the projected pairs, of layers and of tokens and slots."""
    temperature: float = 0.7
    """Temperature tau of the attention over layers."""
    epsilon: float = 0.1
    """Entropic regularisation of the transport."""
    iterations: int = 30
    """Sinkhorn's iterations."""
    uniform: float = 0.05
    """Share of the senders' capacity that all tokens have alike."""
    locality: float = 0.0
    """Beyond the paper: cost added between a token and slots of other stretches (half of it for those next to its own),
    so that slots start from their own part of the segment."""
    normalise: bool = False
    """Beyond the paper: states of all layers are scaled to the same norm before they are weighed."""
    gradient: Gradient = "iterations"
    """Gradient of the transport: of these `iterations`, or `implicit`, of the plan they converge to."""
    selects: Literal["window", "segment"] = "window"
    """Beyond the paper: what the selector chooses a ratio for, the whole of an encoder window or each segment of it."""
    layer: int | None = None
    """An ablation: one layer alone, 0 the embedding output and -1 the last; None for all."""
    transport: Literal["sinkhorn", "window"] = "sinkhorn"
    """`sinkhorn`, or an ablation: `window`, attention of each slot over its own stretch of the segment."""
    capacity: Literal["learned", "uniform"] = "learned"
    """`learned`, or an ablation: `uniform`, every token the same."""
    receivers: Literal["means", "shuffled"] = "means"
    """`means`, or an ablation: `shuffled`, the means of a segment in an order that is not the text's."""

    def __post_init__(self) -> None:
        for name in ("segment_tokens", "query_width", "iterations"):
            if getattr(self, name) < 1:
                raise RatioError(f"{name} is {getattr(self, name)}, it must be at least 1")
        for name, usual in (("temperature", 0.7), ("epsilon", 0.1)):
            if not 0 < getattr(self, name) < float("inf"):
                raise RatioError(
                    f"{name} is {getattr(self, name)}, it must be above 0 and finite; the authors' is {usual}"
                )
        if not 0 < self.uniform <= 1:  # at 0, a token without a share would not be there
            raise RatioError(f"uniform is {self.uniform}, it must be above 0 and at most 1; the authors' is 0.05")
        if not 0 <= self.locality <= 4:  # beyond it the transport would leave the range of float32 scalings
            raise RatioError(f"locality is {self.locality}, it must be between 0 and 4; the paper has none, 0")


class ComprExIT(Compressor):
    """Anchors of the tokens from all layers (depth), carried into the slots of their segment (width)."""

    name: ClassVar[str] = "comprexit"
    visibility: Visibility = "causal"
    reads: ClassVar[Reads] = "all"
    sizes: ClassVar[tuple[type[Size], ...]] = (Ratio,)
    tiles: ClassVar[bool] = True
    converts: ClassVar[bool] = True
    frozen: ClassVar[bool] = True
    Settings: ClassVar[type] = ComprExITSettings
    describe: ClassVar[str] = "optimal transport of frozen states of all layers into the slots of each segment"

    def __init__(self, shape: Shape, settings: ComprExITSettings) -> None:
        super().__init__(shape, settings)
        self.settings = settings
        if settings.layer is not None and not -shape.layers <= settings.layer < shape.layers:
            raise RatioError(
                f"layer {settings.layer} does not exist; choose 0 (the embedding output) to {shape.layers - 1} (the "
                "last), or -1 and below counted from the last"
            )
        self.depth = DepthTransmission(
            shape.width,
            shape.layers if settings.layer is None else 1,
            query_width=settings.query_width,
            temperature=settings.temperature,
            normalise=settings.normalise,
        )
        self.width = WidthTransmission(
            shape.width,
            shape.out,
            query_width=settings.query_width,
            epsilon=settings.epsilon,
            iterations=settings.iterations,
            uniform=1.0 if settings.capacity == "uniform" else settings.uniform,
            stretches=settings.transport == "window",
            shuffled=settings.receivers == "shuffled",
            locality=settings.locality,
            gradient=settings.gradient,
        )

    def check(self, candidates: Sequence[int]) -> None:
        """See `Compressor.check`; a segment has a slot at least, so its length bounds the ratio."""
        most = self.settings.segment_tokens
        for ratio in candidates:
            if ratio > most:
                raise RatioError(
                    f"ratio {ratio} leaves a segment of {most} tokens less than a slot; "
                    f"choose ratios up to {most}, or a longer segment_tokens"
                )

    def count(self, tokens: int, size: Size) -> int:
        """See `Compressor.count`: each segment has whole slots."""
        whole, rest = divmod(tokens, self.settings.segment_tokens)
        return whole * size.latents(self.settings.segment_tokens) + size.latents(rest)

    def parts(self, tokens: int) -> tuple[int, ...]:
        """See `Compressor.parts`: the segments, where each has a ratio of its own."""
        return (tokens,) if self.settings.selects == "window" else self._segment_lengths(tokens)

    def gist(self, states: Tensor, lengths: Sequence[int]) -> Tensor:
        """See `Compressor.gist`: the mean anchor, as no EOS that is frozen tells of the text before it."""
        anchors, _ = self.depth(self._chosen(states))
        counts = torch.tensor(lengths, device=anchors.device)
        part = torch.arange(len(lengths), device=anchors.device).repeat_interleave(counts)
        return window_means(anchors, part, len(lengths))

    def start_at_zero(self) -> None:
        """See `Compressor.start_at_zero`; the bias of the last layer is zero from the start."""
        nn.init.zeros_(self.width.down.weight)

    def extract(
        self,
        states: Tensor,
        lengths: Sequence[int],
        sizes: Sequence[Size],
        added: Added | None = None,
        ids: Tensor | None = None,
    ) -> Extracted:
        """See `Compressor.extract`; segments are laid over the true tokens of each text, the last may be shorter.

        The span of a slot is the stretch whose mean receives; what it carries may come from anywhere in the segment.
        """
        segments = self._segments(lengths, sizes, states.device)
        anchors, _ = self.depth(self._chosen(states))
        slots, _ = self.width(anchors, segments)
        spans, index = segments.spans, segments.slot_of
        if self.settings.receivers == "shuffled":  # a slot may receive for any part of its segment
            index = segments.shuffled.argsort()[index]
            spans = torch.tensor([place[1:] for place in segments.places], device=states.device)
            spans = spans.repeat_interleave(segments.slots, 0)
        return Extracted(vectors=slots, counts=segments.counts, spans=spans, index=index)

    @torch.no_grad()
    def insight(self, states: Tensor, lengths: Sequence[int], sizes: Sequence[Size]) -> Insight:
        """See `Compressor.insight`: weights of the layers, capacities and plans; a layer that is not read weighs 0."""
        segments = self._segments(lengths, sizes, states.device)
        anchors, read = self.depth(self._chosen(states))
        _, sent = self.width(anchors, segments)
        weights = read
        if self.settings.layer is not None:
            weights = torch.zeros(states.shape[:2], device=states.device)
            weights[self.settings.layer] = 1.0
        there = segments.tokens_there
        laid = zip(sent.plan, segments.tokens.tolist(), segments.slots.tolist(), strict=True)
        return Insight(
            layer_weights=weights.float(),
            capacity=(sent.capacity * segments.tokens[:, None])[there].float(),
            segments=segments.places,
            plans=tuple(plan[:tokens, :slots].float() for plan, tokens, slots in laid),
        )

    def _chosen(self, states: Tensor) -> Tensor:
        return states if self.settings.layer is None else states[self.settings.layer][None]

    def _segments(self, lengths: Sequence[int], sizes: Sequence[Size], device: torch.device) -> Segments:
        chosen = [size.value for size in sizes]
        if self.settings.selects == "window":  # all segments of a text alike
            segments = [len(self._segment_lengths(length)) for length in lengths]
            chosen = [ratio for ratio, count in zip(chosen, segments, strict=True) for _ in range(count)]
        return Segments.of(lengths, chosen, self.settings.segment_tokens, device)

    def _segment_lengths(self, tokens: int) -> tuple[int, ...]:
        most = self.settings.segment_tokens
        return tuple(min(most, tokens - start) for start in range(0, tokens, most))
