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

_LEAST_LIKELY = 1e-4  # of being asked for: what is ruled out still takes some room


@dataclass(frozen=True, kw_only=True, slots=True)
class KvPoolingSettings:
    """Settings of pooled cache entries."""

    weights: Literal["learned", "mean"] = "learned"
    """Weights of a window's tokens: learned from their keys and values, of each layer and head its own, or equal."""
    windows: Literal["equal", "salient", "asked"] = "equal"
    """How a text is cut into windows: of equal numbers of tokens, narrow where tokens say much by how rare they are and
    how often answers hold them, or narrow where rare tokens are likely to be asked for, told from the text around."""
    sharpness: float = 0.8
    """For `salient` and `asked`: the power of a token's salience that it weighs by; 0 weighs all alike."""

    def __post_init__(self) -> None:
        if not 0 <= self.sharpness < math.inf:
            raise RatioError(f"sharpness={self.sharpness} must be 0 or more, and finite; 0 weighs all tokens alike")


class KvPooling(Compressor):
    """Pools keys and values, without their positions, over non-overlapping windows.

    Windows have equal numbers of tokens, or equal shares of the weight of a text (`weighted_windows`). A token weighs
    by its surprisal under the unigram frequencies of the training's texts and by how often it is in their questions'
    answers: names and numbers come through alone or nearly so, what is said often and never asked for is pooled more.
    Or, in place of how often, by how likely it is part of an answer where it stands: a logistic regression on its entry
    in one layer, fitted when a training begins.

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
        weighs, asks = chosen.windows != "equal", chosen.windows == "asked"
        self.register_buffer("salience", torch.ones(shape.vocabulary) if weighs else None)
        self.register_buffer("asked", torch.zeros(heads * width + 1) if asks else None)

    salience: Tensor | None
    """Weight of each vocabulary entry where a text is cut, `[V]`; none where windows are equal."""
    asked: Tensor | None
    """Weights of a token's clues and a constant, which say how likely it is asked for, `[K 2D + 1]` float32; none where
    that is not looked at. Zero until they are fitted: as if all were as likely."""

    @property
    def asks_counts(self) -> bool:
        """See `Compressor.asks_counts`."""
        return self.salience is not None

    def start_from_counts(self, counts: Tensor, asked: Tensor) -> None:
        """See `Compressor.start_from_counts`.

        Salience is unigram surprisal (add-one smoothed), times `asked` where that is not told from the text.
        """
        if self.salience is not None:
            smoothed = counts.double() + 1
            surprisal = -(smoothed / smoothed.sum()).log()
            weights = (surprisal if self.asked is not None else surprisal * asked).pow(self._sharpness)
            mean = (weights * smoothed).sum() / smoothed.sum()  # of the texts' tokens
            self.salience.copy_((weights / mean).bfloat16())  # as a press is kept

    @property
    def asks_clues(self) -> bool:
        """See `Compressor.asks_clues`."""
        return self.asked is not None and not bool(self.asked.any())

    def clues(self, states: Tensor) -> Tensor:
        """See `Compressor.clues`; a token's keys and values two thirds of the layers up, `[T, K 2D]`."""
        layers = self._shape[0]
        return states.view(len(states), layers, -1)[:, layers * 2 // 3]

    def start_from_asked(self, clues: Tensor, asked: Tensor) -> None:
        """See `Compressor.start_from_asked`."""
        if self.asked is not None:
            weight, bias = logistic(clues, asked)
            self.asked.copy_(torch.cat((weight, bias[None])).bfloat16())  # as a press is kept

    def _weights(self, states: Tensor, ids: Tensor | None) -> Tensor | None:
        """Weight of each token where a text is cut, `[T]` float32 above 0; none where all weigh alike."""
        if self.salience is None:
            return None
        assert ids is not None, "windows of unequal weights are cut by what the tokens are"
        weights = self.salience[ids].clamp_min(torch.finfo(torch.bfloat16).tiny)
        if self.asked is None:
            return weights
        likely = torch.sigmoid(self.clues(states).float() @ self.asked[:-1] + self.asked[-1])
        return weights * likely.clamp_min(_LEAST_LIKELY).pow(self._sharpness)

    def extract(
        self,
        states: Tensor,
        lengths: Sequence[int],
        sizes: Sequence[Size],
        added: Added | None = None,
        ids: Tensor | None = None,
    ) -> Extracted:
        """See `Compressor.extract`; `states` are entries `[T1 + T2 + ..., W]`, and so are the latents."""
        index, counts, spans = window_index(lengths, sizes, states.device, self._weights(states, ids))
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


_PENALTY = 1e-3  # of the squared weights of standardised clues, a token
_NEWTON_STEPS = 20


def logistic(clues: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Logistic regression with a penalty of the squared weights, by Newton's method.

    Args:
        clues: `[T, F]`.
        asked: `[T]` bool, both values among them.

    Returns:
        Weights `[F]` and a constant, float64: the logarithm of the odds that a token is asked for is their sum.
    """
    exact, target = clues.double(), asked.double()
    middle, spread = exact.mean(0), exact.std(0).clamp_min(1e-6)
    standard = torch.cat(((exact - middle) / spread, exact.new_ones(len(exact), 1)), 1)
    penalty = exact.new_full((standard.shape[1],), _PENALTY * len(exact))
    penalty[-1] = 0
    weights = exact.new_zeros(standard.shape[1])
    for _ in range(_NEWTON_STEPS):
        likely = torch.sigmoid(standard @ weights)
        slope = standard.T @ (likely - target) + penalty * weights
        bend = (standard * (likely * (1 - likely))[:, None]).T @ standard + penalty.diag()
        step = torch.linalg.solve(bend, slope)
        weights = weights - step
        if float(step.abs().max()) < 1e-6:
            break
    scaled = weights[:-1] / spread
    return scaled, weights[-1] - scaled @ middle
