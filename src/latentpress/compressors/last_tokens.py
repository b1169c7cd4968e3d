"""Last tokens: the latents are the states of the last tokens of the text (arXiv 2603.25926, figure 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from latentpress.attention import Visibility
from latentpress.compressors.base import Added, Compressor, Extracted, Size


class LastTokens(Compressor):
    """Hands over the last layer's states of the last M tokens of each window, under causal attention.

    A state under causal attention has read all the tokens up to its own, so what a latent stands for is the text before
    it. Its span is the one token that it was read at.
    """

    name: ClassVar[str] = "last-tokens"
    visibility: Visibility = "causal"
    describe: ClassVar[str] = "hidden states of the last tokens of the text, causal encoder"

    def extract(
        self,
        states: Tensor,
        lengths: Sequence[int],
        sizes: Sequence[Size],
        added: Added | None = None,
        ids: Tensor | None = None,
    ) -> Extracted:
        """See `Compressor.extract`; latent k of M, of a text of T tokens, is its state T - M + k."""
        counts = tuple(size.latents(tokens) for tokens, size in zip(lengths, sizes, strict=True))
        last = [part[-count:] for part, count in zip(states.split(list(lengths)), counts, strict=True)]
        pairs = zip(lengths, counts, strict=True)
        starts = torch.cat([torch.arange(tokens - count, tokens, device=states.device) for tokens, count in pairs])
        vectors = torch.cat(last)
        return Extracted(
            vectors=vectors.to(torch.promote_types(vectors.dtype, torch.float32)),
            counts=counts,
            spans=torch.stack((starts, starts + 1), 1),
        )
