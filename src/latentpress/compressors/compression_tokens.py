"""Compression tokens: the latents are the states of learned tokens behind the text (arXiv 2603.25926, figure 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from latentpress.attention import Visibility
from latentpress.compressors.base import Added, Compressor, Extracted, Prepared, Shape, Size
from latentpress.errors import RatioError


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressionTokensSettings:
    """Settings of compression tokens."""

    embeddings: Literal["different", "shared"] = "different"
    """`different`, an embedding for each of the tokens, or `shared`, one for all of them."""


class CompressionTokens(Compressor):
    """Appends learned tokens to the text and its EOS; the last layer's states of the first M of them are the latents.

    How many are appended depends on the text's length alone: as many as the size that gives most, of all that the ratio
    policy may choose. Attention is causal, so the first M states are the same whichever size is chosen.

    The authors' code appends to rows that are padded on the left and reads at an offset that ignores the padding. Here
    rows are packed, and what was appended to a row is told from its text by count.
    """

    name: ClassVar[str] = "compression-tokens"
    visibility: Visibility = "causal"
    Settings: ClassVar[type] = CompressionTokensSettings
    describe: ClassVar[str] = "hidden states of learned tokens behind the text, one embedding or many, causal encoder"

    def __init__(self, shape: Shape, settings: CompressionTokensSettings) -> None:
        super().__init__(shape, settings)
        self.window_tokens, self.most = shape.window_tokens, shape.most
        self.shared = settings.embeddings == "shared"
        entries = 1 if self.shared else self.most(self.window_tokens)
        self.tokens = nn.Parameter(0.02 * torch.randn(entries, shape.width))

    def start_from(self, embeddings: Tensor) -> None:
        """See `Compressor.start_from`: draws from a normal distribution with their mean and spread, by dimension.

        The first layer then reads vectors of the place and size that it was trained on, and those of different tokens
        differ. An embedding of the vocabulary would come with the meaning of its word.
        """
        spread, mean = torch.std_mean(embeddings.float().cpu(), 0)
        with torch.no_grad():
            self.tokens.copy_(mean + spread * torch.randn(self.tokens.shape))

    def adds(self, tokens: int) -> int:
        """See `Compressor.adds`.

        Raises:
            RatioError: more than there are embeddings.
        """
        needed = self.most(tokens)
        if not self.shared and needed > len(self.tokens):
            raise RatioError(
                f"a text of {tokens:,} tokens needs {needed:,} compression tokens, and this press has embeddings for "
                f"{len(self.tokens):,}, enough for window_tokens={self.window_tokens}; cut the text into windows of at "
                "most so many tokens"
            )
        return needed

    def prepare(self, embeddings: Tensor, lengths: Sequence[int]) -> Prepared:
        """See `Compressor.prepare`; the first of a text's compression tokens stands right behind its EOS."""
        added = tuple(self.adds(length - 1) for length in lengths)
        own = self.tokens.to(embeddings.dtype)
        rows = zip(embeddings.split(list(lengths)), added, strict=True)
        parts = [part for row, count in rows for part in (row, own.expand(count, -1) if self.shared else own[:count])]
        return Prepared(embeddings=torch.cat(parts), added=added)

    def extract(
        self,
        states: Tensor,
        lengths: Sequence[int],
        sizes: Sequence[Size],
        added: Added | None = None,
        ids: Tensor | None = None,
    ) -> Extracted:
        """See `Compressor.extract`; latent k is the state of compression token k, and its span the whole text.

        Raises:
            RatioError: a size of more latents than compression tokens were read.
        """
        assert added is not None, "the states of what `prepare` added"
        counts = tuple(size.latents(tokens) for size, tokens in zip(sizes, lengths, strict=True))
        for tokens, count, there in zip(lengths, counts, added.counts, strict=True):
            if count > there:
                raise RatioError(
                    f"{count:,} latents of a text of {tokens:,} tokens are more than the {there:,} compression tokens "
                    "behind it; choose a size that this press was trained for"
                )
        own = zip(added.states.split(list(added.counts)), counts, strict=True)
        vectors = torch.cat([part[:count] for part, count in own])
        ends = torch.tensor(lengths, device=states.device).repeat_interleave(torch.tensor(counts, device=states.device))
        return Extracted(
            vectors=vectors.to(torch.promote_types(vectors.dtype, torch.float32)),
            counts=counts,
            spans=torch.stack((torch.zeros_like(ends), ends), 1),
        )
