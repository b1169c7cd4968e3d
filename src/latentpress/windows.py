"""Documents cut into encoder windows, the windows gathered into passes, and their latents put together again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from latentpress.compressors import Extracted, Ratio, Size
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


def by_window(
    windows: Sequence[Window],
    parts: Sequence[Sequence[int]],
    made: Extracted,
    chosen: Sequence[tuple[Size, float | None]],
    count: Callable[[int, Size], int],
) -> list[WindowLatents]:
    """Latents of a pass, shared out among its windows.

    Args:
        windows: of the pass.
        parts: tokens of each part of each.
        made: latents of all of them, end to end.
        chosen: size and predicted log2 ratio of each part, end to end.
        count: latents of so many tokens at a size.
    """
    # Kept in bfloat16 or float32, which holds every float16 exactly.
    dtype = torch.float32 if made.vectors.dtype == torch.float16 else made.vectors.dtype
    vectors, spans = made.vectors.to("cpu", dtype).split(made.counts), made.spans.cpu().split(made.counts)
    each = iter(chosen)

    def info(start: int, tokens: int) -> WindowInfo:
        size, log2_ratio = next(each)
        latents = count(tokens, size)
        ratio = float(size.value) if isinstance(size, Ratio) else tokens / latents
        return WindowInfo(start=start, tokens=tokens, latents=latents, ratio=ratio, log2_ratio=log2_ratio)

    return [
        WindowLatents(own, token_spans + window.start, tuple(info(*place) for place in part_places(window, tokens)))
        for window, tokens, own, token_spans in zip(windows, parts, vectors, spans, strict=True)
    ]


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
