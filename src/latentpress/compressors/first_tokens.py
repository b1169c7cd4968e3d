"""The first tokens of the text, verbatim: no compression, a bound that every compressor must beat.

At ratio 1 it is the full text, so a press of this kind, trained on the same data, is the full-context reader too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from latentpress.attention import Visibility
from latentpress.compressors.base import Added, Compressor, Extracted, Reads, Size


class FirstTokens(Compressor):
    """Hands over the embeddings of the first M tokens of each window; has no encoder and no converter."""

    name: ClassVar[str] = "first-tokens"
    visibility: Visibility = "causal"
    reads: ClassVar[Reads] = "embeddings"
    describe: ClassVar[str] = "the first tokens of the text, verbatim (a bound; the full text at ratio 1)"

    def extract(
        self,
        states: Tensor,
        lengths: Sequence[int],
        sizes: Sequence[Size],
        added: Added | None = None,
        ids: Tensor | None = None,
    ) -> Extracted:
        """See `Compressor.extract`; `states` are the decoder's input embeddings."""
        counts = tuple(size.latents(tokens) for tokens, size in zip(lengths, sizes, strict=True))
        vectors = torch.cat([part[:count] for part, count in zip(states.split(list(lengths)), counts, strict=True)])
        starts = torch.cat([torch.arange(count, device=states.device) for count in counts])
        return Extracted(vectors=vectors, counts=counts, spans=torch.stack((starts, starts + 1), 1))
