"""How many latents each window of some documents becomes, as the user asks or the press's ratio policy chooses."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch

from latentpress.compressors import Size
from latentpress.model import Encoded, PressModel
from latentpress.windows import Window

Predictions = dict[int, list[float | None]]
"""Log2 ratio predicted of each part, by document."""


class Sizes:
    """Sizes of the parts of documents that go through an encoder in passes.

    A policy that chooses for each window does so from the states of the pass. One that chooses for a document needs
    what is predicted of all its windows: of a document of several passes that is found out ahead.

    Args:
        model: the press.
        batches: windows of all documents by pass, in order.
        asked: size that the user asked for, of each window or document; None: the policy chooses.
        scale: the user's shift of that choice.
        ahead: what `predictions_ahead` tells, where nothing was asked for.
    """

    def __init__(
        self,
        model: PressModel,
        batches: Sequence[Sequence[Window]],
        asked: Size | None,
        scale: float,
        ahead: Predictions,
    ) -> None:
        self._policy, self._scale, self._asked = model.policy, scale, asked
        tokens: dict[int, list[int]] = defaultdict(list)
        for window in itertools.chain(*batches):
            tokens[window.document] += model.compressor.parts(len(window.ids))
        self._tokens = {document: sum(own) for document, own in tokens.items()}
        self._ahead: dict[int, Iterator[Size]] = {}
        if asked is not None:
            self._ahead = {document: iter(self._policy.spread(asked, own)) for document, own in tokens.items()}
        else:
            self._ahead = {
                document: iter(self._policy.choose_parts(own, scale, tokens[document]))
                for document, own in ahead.items()
            }

    def of(self, windows: Sequence[Window], encoded: Encoded) -> list[tuple[Size, float | None]]:
        """Size of each part of the windows of a pass, and its predicted log2 ratio; None if the size was asked for.

        Args:
            windows: the next of the batches.
            encoded: what the encoder knows of them.
        """
        predicted: list[float | None] = [None] * sum(map(len, encoded.parts))
        if self._asked is None and encoded.log2_ratios is not None:
            predicted = encoded.log2_ratios.tolist()
        sizes: list[Size] = []
        pairs = zip(windows, encoded.parts, strict=True)
        for document, group in itertools.groupby(pairs, key=lambda pair: pair[0].document):
            tokens = [count for _, parts in group for count in parts]
            if document in self._ahead:
                sizes += itertools.islice(self._ahead[document], len(tokens))
            else:
                own = predicted[len(sizes) : len(sizes) + len(tokens)]
                whole = self._tokens[document]
                sizes += self._policy.choose_parts(own, self._scale, tokens, document_tokens=whole)
        return list(zip(sizes, predicted, strict=True))


def tokens_ahead(model: PressModel, batches: Sequence[Sequence[Window]]) -> int:
    """Tokens that `predictions_ahead` has the encoder read."""
    if model.policy.selection == "window" or not model.policy.predicts:
        return 0
    return sum(len(window.ids) for batch in _of_several_passes(batches) for window in batch)


@torch.no_grad()
def predictions_ahead(
    model: PressModel, batches: Sequence[Sequence[Window]], read: Callable[[int], None] = lambda _: None
) -> Predictions:
    """What must be known before the first pass: of a policy that chooses for documents, those of several passes.

    They are read for it once, whatever the number of sizes, and memory stays that of a pass.

    Args:
        model: the press.
        batches: windows of all documents by pass, in order.
        read: told the tokens of each pass that was read.

    Returns:
        Log2 ratio predicted of each part by document; None of a press that does not predict.
    """
    found: Predictions = defaultdict(list)
    if model.policy.selection == "window":
        return found
    for batch in _of_several_passes(batches):
        encoded = model.encode([window.ids for window in batch]) if model.policy.predicts else None
        told = iter([] if encoded is None or encoded.log2_ratios is None else encoded.log2_ratios.tolist())
        for window in batch:
            parts = model.compressor.parts(len(window.ids))
            found[window.document] += [next(told, None) for _ in parts]
        if encoded is not None:
            read(sum(len(window.ids) for window in batch))
    return found


def _of_several_passes(batches: Sequence[Sequence[Window]]) -> list[list[Window]]:
    """The windows of those documents that no pass holds whole, by pass."""
    passes_of = Counter(document for batch in batches for document in {window.document for window in batch})
    kept = [[window for window in batch if passes_of[window.document] > 1] for batch in batches]
    return [batch for batch in kept if batch]
