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

from latentpress.attention import KeyValueCache, LastTokenAttention
from latentpress.decoder.generate import prefill
from latentpress.decoder.prompt import Slot
from latentpress.decoder.reader import Reader
from latentpress.errors import BaseModelError, InputError
from latentpress.latents import Latents
from latentpress.tokens import equal_windows

# Windows that are read together at most: a decoder that is lost among many does not see either which one is meant.
_TOGETHER = 8
# Layers whose attention tells, as shares of all: 20 to 23 of SmolLM2-135M's 30 (docs/experiments.md).
_FROM, _UP_TO = 2 / 3, 4 / 5


class _Unit(NamedTuple):
    """A window of a document."""

    document: int
    window: int


def check_focus(windows: int | None, name: str) -> None:
    """Makes sure that a number of windows can be read.

    Args:
        windows: how many; None, where it may be, is all of them.
        name: of the argument.

    Raises:
        InputError: it is no whole number of at least 1.
    """
    if windows is not None and (type(windows) is not int or windows < 1):
        raise InputError(
            f"{name}={windows!r} must be a whole number of windows, at least 1; leave focus out to read all of them"
        )


def focused(reader: Reader, documents: Sequence[Latents], request: list[int], windows: int) -> list[Latents]:
    """Latents of the windows that a question is about.

    All windows are read with the question, at most eight at a time and no more than the decoder has positions for, and
    those at which its last token looks least are left out, half of them at once, until no more than asked for are left.
    Windows of several readings are compared by their multiples of the mean of their reading.

    Args:
        reader: the decoder with its prompts.
        documents: latents, in order.
        request: token ids of the question, as `Reader.request` gives them.
        windows: how many are left at most, of all documents together.

    Returns:
        Of each document of which a window is left these windows, in order.

    Raises:
        ContextTooLongError: a window alone does not fit beside the question.
        BaseModelError: no layer whose attention tells what a question is about sees a whole prompt.
    """
    left = [_Unit(i, j) for i, one in enumerate(documents) for j in range(len(one.windows))]
    while len(left) > windows:
        looked: list[float] = []
        for start, end in equal_windows(len(left), _TOGETHER):
            looked += _looked_at(reader, documents, left[start:end], request)
        kept = max(windows, -(-len(left) // 2))
        best = sorted(range(len(left)), key=lambda i: (-looked[i], i))[:kept]
        left = [left[i] for i in sorted(best)]
    return _of(documents, left)


def _of(documents: Sequence[Latents], units: Sequence[_Unit]) -> list[Latents]:
    """Some windows of documents, as latents."""
    by_document = itertools.groupby(units, key=lambda unit: unit.document)
    return [documents[i].of_windows([unit.window for unit in own]) for i, own in by_document]


def _looked_at(reader: Reader, documents: Sequence[Latents], units: Sequence[_Unit], request: list[int]) -> list[float]:
    """How much the last token of a question looks at each of some windows, as a multiple of their mean.

    Where the decoder has not the positions for all of them, those of each half are read apart.
    """
    latents = _of(documents, units)
    prompt = reader.prompt(latents, request)
    used, half = reader.positions(prompt, latents), len(units) // 2
    if half and not reader.has_room(used):
        return [
            share for part in (units[:half], units[half:]) for share in _looked_at(reader, documents, part, request)
        ]
    reader.check_room(used, 0, latents)
    # Key of the first latent of each document; a slot's end is where the prompt up to it ends.
    ends = [reader.positions(prompt[: i + 1], latents) for i, piece in enumerate(prompt) if isinstance(piece, Slot)]
    starts = [end - len(one) for end, one in zip(ends, latents, strict=True)]
    own = [
        window
        for start, one in zip(starts, latents, strict=True)
        for window in torch.arange(start, start + len(one)).split([window.latents for window in one.windows])
    ]
    # The first of a window is what attention falls back on where it looks for nothing (an attention sink).
    first = 1 if all(len(window) > 1 for window in own) else 0
    keys = [window[first:] for window in own]
    watched = LastTokenAttention(torch.cat(keys), _layers(reader.backbone.depth))
    prefill(reader.backbone, [reader.embed(prompt, latents)], KeyValueCache(1), watched)
    given = watched.shares()
    if given is None:
        raise BaseModelError(
            "the decoder's layers from two thirds to four fifths of its depth see a sliding window shorter than the "
            f"{len(torch.cat(keys)):,} latents to choose among, so they cannot tell which are meant; ask without focus"
        )
    shares = given.cpu().split([len(window) for window in keys])
    return [len(units) * float(window.sum()) for window in shares]


def _layers(depth: int) -> range:
    """Layers whose attention tells where an answer stands, of a decoder of so many."""
    start = min(round(depth * _FROM), depth - 1)
    return range(start, max(round(depth * _UP_TO), start + 1))
