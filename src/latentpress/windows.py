"""Documents cut into encoder windows, the windows gathered into passes, and their latents put together again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from latentpress.latents import WindowInfo
from latentpress.tokens import TokenizedText, equal_windows

# Encoder tokens of one pass: enough to keep the processor busy, few enough to bound memory whatever the document.
# Eight windows of 512 tokens with the EOS of each.
PASS_TOKENS = 8 * (512 + 1)


class Window(NamedTuple):
    """Part of a document that the encoder reads at once."""

    document: int
    """Index of the document."""
    start: int
    """First token, counted over the document."""
    ids: tuple[int, ...]
    """Token ids."""


class WindowLatents(NamedTuple):
    """What became of a window."""

    vectors: Tensor
    """`[M, D]` on the CPU."""
    token_spans: Tensor
    """`[M, 2]` int64, counted over the document."""
    infos: tuple[WindowInfo, ...]
    """Sizes and ratio of each part that has a ratio of its own; with most compressors that is the window."""


def cut(documents: Sequence[TokenizedText], limit: int) -> list[Window]:
    """Cuts each document into the fewest windows of at most `limit` tokens, equal within one token."""
    return [
        Window(i, start, document.ids[start:end])
        for i, document in enumerate(documents)
        for start, end in equal_windows(len(document.ids), limit)
    ]


def part_places(window: Window, parts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First token, counted over the document, and tokens of each part of a window."""
    return zip(itertools.accumulate(parts, initial=window.start), parts, strict=False)


def passes(windows: Sequence[Window], adds: Callable[[int], int] = lambda _: 0) -> Iterator[list[Window]]:
    """Batches of windows in order, at most `PASS_TOKENS` encoder tokens each unless one window alone is longer.

    Args:
        windows: of any documents.
        adds: encoder tokens that a compressor adds behind a window of so many tokens and its EOS.
    """
    batch: list[Window] = []
    used = 0
    for window in windows:
        size = len(window.ids) + 1 + adds(len(window.ids))  # 1: the EOS that the selector's head reads
        if batch and used + size > PASS_TOKENS:
            yield batch
            batch, used = [], 0
        batch.append(window)
        used += size
    if batch:
        yield batch
