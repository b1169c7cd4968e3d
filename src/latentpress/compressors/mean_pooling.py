"""Mean pooling: each latent is the mean hidden state of a window of the text (arXiv 2603.25926, figure 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from latentpress.attention import Visibility
from latentpress.compressors.base import Added, Compressor, Extracted, Shape, Size, window_index, window_means


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanPoolingSettings:
    """Settings of mean pooling."""

    attention: Visibility = "bidirectional"
    """Attention of the encoder: `bidirectional`, or `causal`, which a base without an adapter was trained for."""


class MeanPooling(Compressor):
    """Means over non-overlapping windows of the last layer's states, under bidirectional attention.

    The authors' code pools in two ways that disagree: in training windows are right-aligned, the first is padded with
    zeros and divided by S; at inference they are left-aligned. Here there is one pooling, left-aligned, by true counts.
    """

    name: ClassVar[str] = "mean-pooling"
    visibility: Visibility = "bidirectional"
    tiles: ClassVar[bool] = True
    Settings: ClassVar[type] = MeanPoolingSettings
    describe: ClassVar[str] = "mean hidden state of each non-overlapping window, bidirectional encoder"

    def __init__(self, shape: Shape | None = None, settings: MeanPoolingSettings | None = None) -> None:
        super().__init__(shape, settings)
        if settings is not None:
            self.visibility = settings.attention

    def extract(
        self,
        states: Tensor,
        lengths: Sequence[int],
        sizes: Sequence[Size],
        added: Added | None = None,
        ids: Tensor | None = None,
    ) -> Extracted:
        """See `Compressor.extract`; latent k of a text at ratio S is the mean of its states kS to (k+1)S - 1."""
        index, counts, spans = window_index(lengths, sizes, states.device)
        return Extracted(vectors=window_means(states, index, sum(counts)), counts=counts, spans=spans, index=index)
