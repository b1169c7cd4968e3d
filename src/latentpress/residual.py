"""The embedding path beside the converter: what of the text itself each latent hands to the decoder.

A decoder that has never seen latents reads token embeddings. Giving each latent a weighted mean of its window's
embeddings lets it read something from the first step, and the converter's output, zero at the start, adds what one
embedding cannot say. Not in the paper; measured in docs/experiments.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentpress.compressors.base import window_means
from latentpress.errors import PressError


class EmbeddingResidual(nn.Module):
    """Weighted mean of the decoder's input embeddings over each window.

    `mean` weighs all tokens alike. `salient` weighs token t by a softmax over its window of `s[id_t] + v . norm(h_t)`:
    a learned salience of each vocabulary entry, started at `sharpness` times its surprisal under the training text's
    unigram frequencies, and a learned reading of the encoder's state, zero at the start. Rare words come through nearly
    whole, frequent ones hardly.

    Args:
        kind: `mean` or `salient`.
        vocabulary: size of the vocabulary.
        width: of the encoder's states.
    """

    KINDS = ("none", "mean", "salient")

    def __init__(self, kind: str, vocabulary: int, width: int) -> None:
        super().__init__()
        if kind not in ("mean", "salient"):
            raise PressError(f"residual {kind!r} is unknown; choose one of {', '.join(self.KINDS)}")
        self.kind = kind
        self.log_gain = nn.Parameter(torch.zeros(()))
        if kind == "salient":
            self.salience = nn.Parameter(torch.zeros(vocabulary))
            self.read = nn.Linear(width, 1, bias=False)
            nn.init.zeros_(self.read.weight)

    def start_from(self, counts: Tensor, sharpness: float) -> None:
        """Sets the salience to `sharpness` times the unigram surprisal in nats, add-one smoothed.

        Args:
            counts: how often each vocabulary entry occurs, `[V]`.
            sharpness: 0 weighs all tokens alike, 1 by the inverse of their frequency.
        """
        if self.kind == "salient":
            smoothed = counts.double() + 1
            with torch.no_grad():
                self.salience.copy_(-sharpness * (smoothed / smoothed.sum()).log())

    def forward(self, embeddings: Tensor, ids: Tensor, states: Tensor, index: Tensor, windows: int) -> Tensor:
        """Embedding part of each latent.

        Args:
            embeddings: decoder input embeddings of the text tokens, `[T, D]`.
            ids: their token ids, `[T]`.
            states: the encoder's states of them, `[T, De]`.
            index: latent of each token, `[T]`.
            windows: number of latents M.

        Returns:
            `[M, D]` float32.
        """
        gain = self.log_gain.exp()
        if self.kind == "mean":
            return gain * window_means(embeddings, index, windows)
        weight = self.weights(ids, states, index, windows)
        mixed = torch.zeros(windows, embeddings.shape[-1], device=weight.device).index_add(
            0, index, embeddings.float() * weight[:, None]
        )
        return gain * mixed

    def weights(self, ids: Tensor, states: Tensor, index: Tensor, windows: int) -> Tensor:
        """Weight of each token in the mean of its window, from the arguments of `forward`.

        Returns:
            `[T]` float32; those of a window sum to 1.
        """
        if self.kind == "mean":
            return 1 / torch.bincount(index, minlength=windows)[index]
        score = self.salience[ids] + F.linear(F.rms_norm(states.float(), states.shape[-1:]), self.read.weight)[:, 0]
        top = torch.full((windows,), -torch.inf, device=score.device).scatter_reduce(0, index, score.detach(), "amax")
        weight = (score - top[index]).exp()
        total = torch.zeros(windows, device=score.device).index_add(0, index, weight)
        return weight / total[index]
