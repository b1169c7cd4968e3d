"""Pooled cache entries: each latent is the pooled keys and values of a window of the text, in every layer.

The text is read by the decoder itself, as far as its weights and its adapter go; what it would keep of each token, a
key and a value a layer and head, is pooled over each window and read in place of the window's own. At ratio 1 that is
the full text, each encoder window of it read alone. The windows are those of mean pooling (arXiv 2603.25926, figure 1);
what is pooled are not the last layer's states on their way into the decoder's input, but all layers' on their way into
its attention (docs/compressors/kv-pooling.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from latentpress.attention import Visibility
from latentpress.compressors.base import Added, Compressor, Extracted, Reads, Shape, Size, window_index
from latentpress.errors import RatioError


@dataclass(frozen=True, kw_only=True, slots=True)
class KvPoolingSettings:
    """Settings of pooled cache entries."""

    weights: Literal["learned", "mean"] = "learned"
    """Weights of a window's tokens: learned from their keys and values, of each layer and head its own, or equal."""
    windows: Literal["equal", "salient"] = "equal"
    """How a text is cut into windows: of equal numbers of tokens, or narrow where tokens say much."""
    sharpness: float = 0.8
    """For `salient`: the power of a token's salience that it weighs by; 0 weighs all alike."""

    def __post_init__(self) -> None:
        if not 0 <= self.sharpness < math.inf:
            raise RatioError(f"sharpness={self.sharpness} must be 0 or more, and finite; 0 weighs all tokens alike")


class KvPooling(Compressor):
    """Pools keys and values, without their positions, over non-overlapping windows.

    Windows have equal numbers of tokens, or equal shares of the weight of a text (`weighted_windows`). A token weighs
    by its surprisal under the unigram frequencies of the training's texts and by how often it is in their questions'
    answers: names and numbers come through alone or nearly so, what is said often and never asked for is pooled more.

    Of layer l and key/value head h, with x_t = [k_t; v_t] the entry of token t, k_t turned back to position 0, latent m
    of window W_m holds `sum_t a_t x_t`, `a = softmax over W_m of <w_lh, x_t>`, plus `log2 |W_m| u_lh`, which tells the
    decoder how many tokens it stands for. w and u start at zero: plain means.
    """

    name: ClassVar[str] = "kv-pooling"
    visibility: Visibility = "causal"
    reads: ClassVar[Reads] = "keys-values"
    converts: ClassVar[bool] = True
    Settings: ClassVar[type] = KvPoolingSettings
    describe: ClassVar[str] = "keys and values of every layer, pooled over each window; read as cache entries"

    def __init__(self, shape: Shape | None = None, settings: KvPoolingSettings | None = None) -> None:
        super().__init__(shape, settings)
        assert shape is not None
        self._shape = shape.entry
        chosen = settings or KvPoolingSettings()
        learned = chosen.weights == "learned"
        layers, heads, width = shape.entry
        self.weight = nn.Parameter(torch.zeros(layers, heads, width)) if learned else None
        self.size = nn.Parameter(torch.zeros(layers, heads, width)) if learned else None
        self._sharpness = chosen.sharpness
        self.register_buffer("salience", torch.ones(shape.vocabulary) if chosen.windows == "salient" else None)

    salience: Tensor | None
    """Weight of each vocabulary entry where a text is cut, `[V]`; none where windows are equal."""

    @property
    def asks_counts(self) -> bool:
        """See `Compressor.asks_counts`."""
        return self.salience is not None

    def start_from_counts(self, counts: Tensor, asked: Tensor) -> None:
        """See `Compressor.start_from_counts`; salience is unigram surprisal (add-one smoothed) times `asked`."""
        if self.salience is not None:
            smoothed = counts.double() + 1
            weights = (-(smoothed / smoothed.sum()).log() * asked).pow(self._sharpness)
            mean = (weights * smoothed).sum() / smoothed.sum()  # of the texts' tokens
            self.salience.copy_((weights / mean).bfloat16())  # as a press is kept

    def extract(
        self,
        states: Tensor,
        lengths: Sequence[int],
        sizes: Sequence[Size],
        added: Added | None = None,
        ids: Tensor | None = None,
    ) -> Extracted:
        """See `Compressor.extract`; `states` are entries `[T1 + T2 + ..., W]`, and so are the latents."""
        weights = None
        if self.salience is not None:
            assert ids is not None, "salient windows are cut by what the tokens are"
            weights = self.salience[ids].clamp_min(torch.finfo(torch.bfloat16).tiny)
        index, counts, spans = window_index(lengths, sizes, states.device, weights)
        if len(spans) == len(states):  # a token each: weights of one are 1, and log2 1 is 0
            vectors = states
            if self.weight is not None and self.size is not None and torch.is_grad_enabled():
                # Part of the graph all the same: every step has a gradient for them, as several processes expect.
                vectors = states + (0.0 * (self.weight.sum() + self.size.sum())).to(states.dtype)
            return Extracted(vectors=vectors, counts=counts, spans=spans)
        tokens = (spans[:, 1] - spans[:, 0]).to(torch.promote_types(states.dtype, torch.float32))
        # Layer by layer: float32 copies of all layers at once would take several times the memory, and twice the time.
        layers = states.view(len(states), *self._shape).unbind(1)
        pooled = [self._pooled(entries, layer, index, tokens).to(states.dtype) for layer, entries in enumerate(layers)]
        return Extracted(vectors=torch.stack(pooled, 1).flatten(1), counts=counts, spans=spans)

    def _pooled(self, entries: Tensor, layer: int, index: Tensor, tokens: Tensor) -> Tensor:
        """Latents `[M, K, 2 D]` of the entries `[T, K, 2 D]` of a layer, in the type of `tokens`, `[M]` a window."""
        entries = entries.to(tokens.dtype)
        if self.weight is None or self.size is None:
            share = (1 / tokens)[index][:, None]
        else:
            share = _softmax(torch.einsum("tkx,kx->tk", entries, self.weight[layer].to(tokens.dtype)), index, tokens)
        pooled = entries.new_zeros(len(tokens), *entries.shape[1:]).index_add(0, index, entries * share[..., None])
        return pooled if self.size is None else pooled + tokens.log2()[:, None, None] * self.size[layer]


def _softmax(scores: Tensor, index: Tensor, windows: Tensor) -> Tensor:
    """Weight of every token in its window, `[T, K]`; those of a window sum to 1."""
    top = scores.new_full((len(windows), scores.shape[1]), -math.inf)
    top = top.scatter_reduce(0, index[:, None].expand_as(scores), scores.detach(), "amax")
    raised = (scores - top[index]).exp()
    total = raised.new_zeros(len(windows), scores.shape[1]).index_add(0, index, raised)
    return raised / total[index]
