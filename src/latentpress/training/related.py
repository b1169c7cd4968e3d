"""Texts that are about like things, by the rare tokens that they share (TF-IDF cosine, in tokens of the base model)."""

from collections.abc import Iterable, Sequence

import torch

_UNIT = 2**20


class RelatedTexts:
    """Ranks texts by how much they are about what one of them is about.

    Weights are rounded to whole numbers and summed exactly: the order depends on no machine's way of adding.

    Args:
        texts: token ids of each text, in any number of pieces.
    """

    def __init__(self, texts: Sequence[Iterable[Sequence[int]]]) -> None:
        vocabularies = [sorted({token for piece in text for token in piece}) for text in texts]
        sizes = torch.tensor([len(vocabulary) for vocabulary in vocabularies], dtype=torch.int64)
        columns = torch.tensor([token for vocabulary in vocabularies for token in vocabulary], dtype=torch.int64)
        width = int(columns.max()) + 1 if len(columns) else 0
        frequency = torch.bincount(columns, minlength=width)
        rarity = torch.log(len(texts) / frequency.clamp(min=1).double())
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
        values = rarity[columns]
        # Unit rows; that of a text whose tokens all stand everywhere stays 0.
        row = torch.arange(len(texts)).repeat_interleave(sizes)
        norms = torch.zeros(len(texts), dtype=torch.float64).index_add_(0, row, values**2).sqrt()
        values = (values / norms.clamp(min=1e-12)[row] * _UNIT).round().long()
        self._starts, self._columns, self._values, self._width = starts, columns, values, width
        self._row, self._count = row, len(texts)

    def ranked(self, index: int) -> list[int]:
        """Indices of all texts, the most alike to that of `index` first, those that are equally alike in order."""
        own = slice(int(self._starts[index]), int(self._starts[index + 1]))
        query = torch.zeros(self._width, dtype=torch.int64)
        query[self._columns[own]] = self._values[own]
        products = self._values * query[self._columns]
        likeness = torch.zeros(self._count, dtype=torch.int64).index_add_(0, self._row, products)
        order: list[int] = likeness.argsort(descending=True, stable=True).tolist()
        return order
