"""Labels from ultra-concise summaries: what a teacher needed to say of a text tells how much is in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

from latentpress.data.lines import Row
from latentpress.data.rows import density_label
from latentpress.labels.base import Finished, Item, LabelSource
from latentpress.tokens import encode_inert


class SummaryLabels(LabelSource):
    """`log2(T / T_summary)` (arXiv 2603.25926, equation 6)."""

    name: ClassVar[str] = "summary"

    @property
    def made_by(self) -> dict[str, Any]:
        """See `LabelSource.made_by`."""
        vocabulary = self.tokenizer.backend_tokenizer.to_str()
        return {"tokenizer": hashlib.sha256(vocabulary.encode()).hexdigest()}

    @property
    def settings(self) -> dict[str, Any]:
        """See `LabelSource.settings`."""
        return {}

    def check(self, item: Item) -> Item | str:
        """See `LabelSource.check`."""
        if item.record.short_summary is None:
            return "without short_summary"
        tokens = self._summary_tokens(item)
        if not tokens:
            return "with a short_summary of which the tokenizer makes no tokens"
        return "with a short_summary longer than the text" if tokens > len(item.ids) else item

    def measure(self, items: Sequence[Item]) -> list[Row]:
        """See `LabelSource.measure`."""
        return [{"summary_tokens": self._summary_tokens(item)} for item in items]

    def is_of(self, row: Row, item: Item) -> bool:
        """See `LabelSource.is_of`: the summary is as long."""
        return bool(row.get("summary_tokens") == self._summary_tokens(item))

    def finish(self, rows: Sequence[Row]) -> Finished:
        """See `LabelSource.finish`."""
        return Finished(log2_ratios=tuple(density_label(row["tokens"], row["summary_tokens"]) for row in rows))

    def _summary_tokens(self, item: Item) -> int:
        return len(encode_inert(self.tokenizer, item.record.short_summary or ""))
