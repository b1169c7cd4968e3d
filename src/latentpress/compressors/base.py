"""The contract of a compressor: hidden states of packed sequences in, latents of chosen sizes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from latentpress.attention import Visibility
from latentpress.errors import RatioError


@dataclass(frozen=True, slots=True)
class Ratio:
    """A size given as context tokens per latent."""

    value: int
    """Pooling window S, at least 1."""

    def __post_init__(self) -> None:
        _check_size(self.value)

    def latents(self, tokens: int) -> int:
        """Number of latents M = ceil(T / S) of a text of so many tokens."""
        return -(-tokens // self.value)


@dataclass(frozen=True, slots=True)
class Length:
    """A size given as a number of latents."""

    value: int
    """Latents M, at least 1."""

    def __post_init__(self) -> None:
        _check_size(self.value)

    def latents(self, tokens: int) -> int:
        """Number of latents of a text of so many tokens: never more than it has."""
        return min(self.value, tokens)


Size = Ratio | Length
Reads = Literal["last", "all", "embeddings", "keys-values"]


def _check_size(value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise RatioError(
            f"size {value!r} must be a whole number of at least 1; 4 is four tokens a latent, or four latents"
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Extracted:
    """Latents of several sequences, end to end."""

    vectors: Tensor
    """`[M1 + M2 + ..., D]` float32, or of the states' type where no converter follows."""
    counts: tuple[int, ...]
    """Number of latents of each sequence."""
    spans: Tensor
    """`[M1 + M2 + ..., 2]` int64, half-open token span of each latent, counted from the start of its own sequence."""
    index: Tensor | None = None
    """Latent whose span each token lies in, `[T1 + T2 + ...]` int64, where spans share the text out (`tiles`)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Insight:
    """What a compressor did with the tokens of some texts, for people to look at; None where a method has no such."""

    layer_weights: Tensor | None = None
    """Weight of each layer for each token, `[L, T1 + ...]` float32, the embedding output first; columns sum to 1."""
    capacity: Tensor | None = None
    """How much each token may send, `[T1 + T2 + ...]` float32, 1 if all tokens of its segment had the same."""
    segments: tuple[tuple[int, int, int], ...] = ()
    """Text, first token and end of each segment, counted from the start of its own text."""
    plans: tuple[Tensor, ...] = ()
    """How much of each token of a segment goes to each of its slots, `[tokens, slots]` float32; all of it sums to 1."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prepared:
    """What the encoder reads: each row as it was given, and behind it what the compressor adds."""

    embeddings: Tensor
    """`[N1 + N2 + ..., D]`, the rows end to end."""
    added: tuple[int, ...]
    """Tokens added behind each row."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Added:
    """States of what `Compressor.prepare` added."""

    states: Tensor
    """`[A1 + A2 + ..., D]` (a leading layer axis if `reads` is `all`)."""
    counts: tuple[int, ...]
    """How many of them belong to each text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What a compressor stands between, and how much it is asked for."""

    width: int
    """Width De of the states."""
    layers: int
    """Number of layers that `reads="all"` gives, the embedding output included."""
    out: int
    """Width D of the decoder's input embeddings."""
    entry: tuple[int, int, int] = (1, 1, 2)
    """Layers, key/value heads and twice the width of a head of a cache entry, for one that reads keys and values."""
    vocabulary: int = 1
    """Entries of the vocabulary that the texts are in."""
    window_tokens: int = 512
    """Most tokens of a text."""
    most: Callable[[int], int] = Ratio(1).latents
    """Most latents that a text of so many tokens may be asked for, whatever its ratio policy chooses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoSettings:
    """Of a compressor that has none."""


class Compressor(nn.Module, ABC):
    """Turns the hidden states of texts into latents, each text at a size of its own.

    A method says as class attributes which states it reads and which attention the encoder runs with, so nobody has to
    ask for its type. Sequences come packed, without padding; nothing a sequence yields may depend on its companions.
    """

    name: ClassVar[str]
    """Name in configurations and on the command line."""
    visibility: Visibility
    """Attention of the encoder."""
    reads: ClassVar[Reads] = "last"
    """What `extract` takes: the last layer's states, those of all layers (the embedding output first, the last one
    after the final norm), the decoder's input embeddings of the text (there is no encoder then, and no converter), or
    keys and values of every layer as the decoder itself reads the text (`latentpress.cache_entries`): latents are cache
    entries then, and the encoder is the decoder."""
    sizes: ClassVar[tuple[type[Size], ...]] = (Ratio, Length)
    """Kinds of size it can make."""
    tiles: ClassVar[bool] = False
    """Whether every token lies in the span of one latent, so that an embedding residual may stand beside them."""
    converts: ClassVar[bool] = False
    """Whether its latents lie in the decoder's input space already, so that no converter follows."""
    frozen: ClassVar[bool] = False
    """Whether it reads the base model as it is: no gradient goes back to the states, so the encoder has no adapter."""
    Settings: ClassVar[type] = NoSettings
    """Dataclass of its own settings, every one with a default; a value that cannot be raises a RatioError."""
    describe: ClassVar[str]
    """One line for `latentpress info`."""

    def __init__(self, shape: Shape | None = None, settings: Any = None) -> None:
        """Args: shape: widths and layers, for one that has weights. settings: its own, of the class `Settings`."""
        super().__init__()

    def check(self, candidates: Sequence[int]) -> None:
        """Refuses ratios that it cannot make, with a RatioError that names the ratio and the limit."""

    def count(self, tokens: int, size: Size) -> int:
        """Latents that `extract` makes of a text of so many tokens."""
        return size.latents(tokens)

    def parts(self, tokens: int) -> tuple[int, ...]:
        """Tokens of each part, in order, of a text of so many; a part has a size of its own. By default there is one.

        Where there are several, `gist` must say what the selector's head reads of each.
        """
        return (tokens,)

    def gist(self, states: Tensor, lengths: Sequence[int]) -> Tensor | None:
        """What the selector's head reads of each part, `[P, D]`; None, as by default, for the state of a text's EOS.

        Args:
            states: as `extract` takes them.
            lengths: tokens of each part of all texts, end to end.
        """
        return None

    def start_at_zero(self) -> None:
        """For one that `converts`: makes its first latents zero, so that a residual starts alone."""

    def start_from(self, embeddings: Tensor) -> None:
        """For one that adds tokens of its own: starts them from what the encoder reads otherwise.

        Args:
            embeddings: `[V, D]` the encoder's input embeddings of a sample of its vocabulary.
        """

    @property
    def asks_counts(self) -> bool:
        """Whether `start_from_counts` has anything to do."""
        return False

    def start_from_counts(self, counts: Tensor, asked: Tensor) -> None:
        """For one that asks how much a token says: takes it from a training's data, by default nothing.

        Args:
            counts: how often each vocabulary entry occurs in the texts, `[V]`.
            asked: how often it occurs in answers to questions about them for each time in the texts, `[V]`.
        """

    def adds(self, tokens: int) -> int:
        """Tokens that `prepare` adds behind a text of so many and its EOS, by default none."""
        return 0

    def prepare(self, embeddings: Tensor, lengths: Sequence[int]) -> Prepared:
        """Adds what the encoder shall read behind each text and its EOS, by default nothing.

        Args:
            embeddings: `[T1 + 1 + T2 + 1 + ..., D]` input embeddings of the texts, an EOS behind each, end to end.
            lengths: tokens of each text with its EOS.
        """
        return Prepared(embeddings=embeddings, added=(0,) * len(lengths))

    @abstractmethod
    def extract(
        self,
        states: Tensor,
        lengths: Sequence[int],
        sizes: Sequence[Size],
        added: Added | None = None,
        ids: Tensor | None = None,
    ) -> Extracted:
        """Makes the latents.

        Args:
            states: `[T1 + T2 + ..., D]` states of the text tokens of all sequences, end to end (a leading layer axis if
                `reads` is `all`).
            lengths: tokens of each text.
            sizes: one a part of each text, end to end; see `parts`.
            added: states of what `prepare` added behind the texts; None if that is nothing.
            ids: `[T1 + T2 + ...]` token ids of the texts, for a compressor that asks for them.
        """

    def insight(self, states: Tensor, lengths: Sequence[int], sizes: Sequence[Size]) -> Insight:
        """What `extract` does with the same arguments, for people to look at; by default nothing beyond its spans."""
        return Insight()


def window_index(
    lengths: Sequence[int], sizes: Sequence[Size], device: torch.device, weights: Tensor | None = None
) -> tuple[Tensor, tuple[int, ...], Tensor]:
    """Which latent each token of each text belongs to.

    Windows never cross from one text to the next. Of equal weights they are left-aligned; with a `Ratio` the last one
    of a text holds what is left, with a `Length` they are equal within one token. Otherwise they hold equal shares of
    the weight, as near as whole tokens come: see `weighted_windows`.

    Args:
        lengths: tokens of each text.
        sizes: of each text.
        device: of the result.
        weights: of every token, `[T1 + T2 + ...]`, above 0; equal if None.

    Returns:
        Index of every token's latent in the packed row of latents `[T1 + T2 + ...]`, latents of each text, and spans
        `[M, 2]`.
    """
    index, counts, spans, before, start = [], [], [], 0, 0
    for tokens, size in zip(lengths, sizes, strict=True):
        at = torch.arange(tokens, device=device)
        count = size.latents(tokens)
        if weights is not None:
            window = weighted_windows(weights[start : start + tokens], count)
        else:
            window = at // size.value if isinstance(size, Ratio) else at * count // tokens
        index.append(window + before)
        counts.append(count)
        starts = torch.searchsorted(window, torch.arange(count + 1, device=device))
        spans.append(torch.stack((starts[:-1], starts[1:]), 1))
        before, start = before + count, start + tokens
    return torch.cat(index), tuple(counts), torch.cat(spans)


def weighted_windows(weights: Tensor, count: int) -> Tensor:
    """Cuts a text into neighbouring windows of equal weight, as near as whole tokens come.

    A token that outweighs a whole window counts as one, and what it has beyond is shared by all: with weights so
    capped at c, their sum is c times the number of windows, and a token belongs to the window in which its middle
    lies. So no window is empty, and each but for its two ends holds a weight of c.

    Args:
        weights: `[T]`, above 0.
        count: number of windows, 1 to T.

    Returns:
        Window of each token, `[T]` int64, ascending from 0 to `count` - 1.
    """
    if count == len(weights):
        return torch.arange(count, device=weights.device)
    exact = weights.double()
    heaviest, _ = exact.sort(descending=True)
    # The cap if the k heaviest are capped: what the others weigh, over the windows that these leave.
    rest = heaviest.sum() - heaviest.cumsum(0) + heaviest
    caps = rest[:count] / torch.arange(count, 0, -1, device=weights.device)
    cap = caps[(heaviest[:count] <= caps).int().argmax()]
    capped = exact.clamp_max(cap)
    middles = (capped.cumsum(0) - capped / 2) / cap
    return (middles + 1e-9).long().clamp_max(count - 1)  # middles on an edge, whatever their rounding, are beyond it


def window_means(values: Tensor, index: Tensor, windows: int) -> Tensor:
    """Mean of the rows of each window, by its true number of tokens, in float32 or finer.

    Args:
        values: `[T, D]`.
        index: window of each row, `[T]`.
        windows: their number.

    Returns:
        `[windows, D]` float32, float64 for float64.
    """
    exact = torch.promote_types(values.dtype, torch.float32)
    total = torch.zeros(windows, values.shape[-1], dtype=exact, device=values.device).index_add(
        0, index, values.to(exact)
    )
    return total / torch.bincount(index, minlength=windows).unsqueeze(1)
