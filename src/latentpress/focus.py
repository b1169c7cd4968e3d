"""Which windows of long documents a question is about, told by the decoder's own attention.

A small decoder that answers well from one window of a text answers badly from eight: what it looks for is there, and
what stands around it draws attention away (docs/experiments.md). So a question may be read twice: once to see at which
windows its last token looks, and once beside these alone. Latents stay what they are, made of the text once, without
the question.

That some heads in the upper middle of a language model look where an answer stands is known from "retrieval heads" (Wu
et al. 2024, arXiv 2404.15574). No head is chosen here: the mean of all heads of a few layers is.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from latentpress.attention import KeyValueCache, LastTokenAttention
from latentpress.decoder.generate import prefill
from latentpress.decoder.prompt import Piece, Slot
from latentpress.decoder.reader import Reader
from latentpress.errors import InputError
from latentpress.latents import Latents

# Windows that are read together at most: a decoder that is lost among many does not see either which one is meant.
_TOGETHER = 8
# Layers whose attention tells, as shares of all: 20 to 23 of SmolLM2-135M's 30 (docs/experiments.md).
_FROM, _UP_TO = 2 / 3, 4 / 5


class _Unit(NamedTuple):
    """A window of a document."""

    document: int
    window: int


def check_focus(windows: int | None) -> None:
    """Makes sure that a number of windows can be read.

    Raises:
        InputError: it is no whole number of at least 1.
    """
    if windows is not None and (type(windows) is not int or windows < 1):
        raise InputError(f"focus={windows!r} must be a whole number of windows, at least 1; None reads all of them")


def focused(reader: Reader, documents: Sequence[Latents], request: list[int], windows: int) -> list[Latents]:
    """Latents of the windows that a question is about.

    All windows are read with the question, at most eight at a time, and those at which its last token looks least are
    left out, half of them at once, until no more than asked for are left.

    Args:
        reader: the decoder with its prompts.
        documents: latents, in order.
        request: token ids of the question, as `Reader.request` gives them.
        windows: how many are left at most, of all documents together.

    Returns:
        Of each document of which a window is left these windows, in order.

    Raises:
        ContextTooLongError: windows that are read together do not fit beside the question.
    """
    left = [_Unit(i, j) for i, one in enumerate(documents) for j in range(len(one.windows))]
    while len(left) > windows:
        looked = list(itertools.chain(*(_looked_at(reader, documents, group, request) for group in _groups(left))))
        kept = max(windows, -(-len(left) // 2))
        best = sorted(range(len(left)), key=lambda i: (-looked[i], i))[:kept]
        left = [left[i] for i in sorted(best)]
    return _of(documents, left)


def _groups(units: Sequence[_Unit]) -> list[Sequence[_Unit]]:
    """Fewest runs of at most `_TOGETHER` neighbours, equal within one."""
    count = -(-len(units) // _TOGETHER)
    bounds = [i * len(units) // count for i in range(count + 1)]
    return [units[start:end] for start, end in itertools.pairwise(bounds)]


def _of(documents: Sequence[Latents], units: Sequence[_Unit]) -> list[Latents]:
    """Some windows of documents, as latents."""
    by_document = itertools.groupby(units, key=lambda unit: unit.document)
    return [documents[i].of_windows([unit.window for unit in own]) for i, own in by_document]


def _looked_at(reader: Reader, documents: Sequence[Latents], units: Sequence[_Unit], request: list[int]) -> list[float]:
    """How much the last token of a question looks at each of some windows, as a multiple of their mean."""
    latents = _of(documents, units)
    prompt: list[Piece] = [*reader.opening(len(latents)), request]
    reader.check_room(reader.positions(prompt, latents), 0, latents)
    # Key of the first latent of each document; a slot's end is where the prompt up to it ends.
    ends = [reader.positions(prompt[: i + 1], latents) for i, piece in enumerate(prompt) if isinstance(piece, Slot)]
    starts = [end - len(one) for end, one in zip(ends, latents, strict=True)]
    keys: list[Tensor] = []
    for start, one in zip(starts, latents, strict=True):
        own = torch.arange(start, start + len(one)).split([window.latents for window in one.windows])
        # The first of a window is what attention falls back on where it looks for nothing (an attention sink).
        keys += [window[1:] if len(window) > 1 else window for window in own]
    watched = LastTokenAttention(torch.cat(keys), _layers(reader.backbone.depth))
    prefill(reader.backbone, [reader.embed(prompt, latents)], KeyValueCache(1), watched)
    shares = watched.shares().cpu().split([len(window) for window in keys])
    return [len(units) * float(window.sum()) for window in shares]


def _layers(depth: int) -> range:
    """Layers whose attention tells where an answer stands, of a decoder of so many."""
    start = min(round(depth * _FROM), depth - 1)
    return range(start, max(round(depth * _UP_TO), start + 1))
