"""Density labels of a training from a file: which record has which, and which are refused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from latentpress.compressors import Ratio
from latentpress.data.labels import DensityLabel, LabelFile, text_digest
from latentpress.data.records import Record
from latentpress.data.rows import TokenizedRecord
from latentpress.errors import DataError
from latentpress.ratios import RatioPolicy

_ROUNDING = 1e-9  # of a logarithm: a label at the end of the range lies within


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelUse:
    """What became of a file of labels."""

    records: int
    """Records that have one."""
    unknown: int
    """Labels of texts that the data does not hold."""
    clamped: int
    """Labels that were brought to the end of the range."""


class Labelling:
    """Gives records the labels of their texts, and none to those without.

    Labels of `short_summary` do not stand in for missing ones: two sources differ in mean and spread.

    Args:
        file: labels.
        policy: whose head learns them.
        clamp: brings labels outside the range of the policy's sizes to its end.
        remedy: how the user asks for that, for messages.
    """

    def __init__(
        self, file: LabelFile, policy: RatioPolicy, *, clamp: bool, remedy: str = "set clamp_labels=true"
    ) -> None:
        self.file, self.policy, self.clamp, self._remedy = file, policy, clamp, remedy

    def check(self, records: Sequence[Record]) -> LabelUse:
        """Looks at the labels of some records before they are used.

        Raises:
            DataError: no label is of any of them, or some are outside the range and shall not be clamped.
        """
        found = [label for record in records if (label := self._find(record)) is not None]
        if not found:
            raise DataError(
                f"{self.file.path}: none of its {len(self.file.labels)} labels is of a text of the {len(records)} "
                "records; texts are compared character by character: label the data that is trained on"
            )
        outside = [label for label in found if not self._within(label)]
        if outside and not self.clamp:
            first = outside[0]
            low, high = self._range(first)
            sizes = f"{self.policy.word()}s {', '.join(map(str, self.policy.candidates))}"
            raise DataError(
                f"{self.file.path}: record {first.id!r} has log2_ratio {first.log2_ratio:g}, outside {low:g} to "
                f"{high:g}, which the {sizes} can reach, as have {len(outside)} of {len(found)}; {self._remedy} "
                "to bring them to the end of the range, or choose other candidates"
            )
        used = {label.sha256 for label in found}
        return LabelUse(records=len(found), unknown=len(self.file.labels.keys() - used), clamped=len(outside))

    def labelled(self, record: Record, made: TokenizedRecord) -> TokenizedRecord:
        """The tokenised record with the label of its text, or without any.

        Raises:
            DataError: the label was made with another tokenizer.
        """
        label = self._find(record)
        if label is None:
            return dataclasses.replace(made, log2_ratio=None)
        self.file.check_tokens(label, made.tokens)
        return dataclasses.replace(made, log2_ratio=self.reached(label))

    def reached(self, label: DensityLabel) -> float:
        """The log2 ratio of a label, or the end of the range that it is outside of."""
        low, high = self._range(label)
        return min(high, max(low, label.log2_ratio))

    def _find(self, record: Record) -> DensityLabel | None:
        return self.file.labels.get(text_digest(record.contexts[0])) if len(record.contexts) == 1 else None

    def _within(self, label: DensityLabel) -> bool:
        low, high = self._range(label)
        return low - _ROUNDING <= label.log2_ratio <= high + _ROUNDING

    def _range(self, label: DensityLabel) -> tuple[float, float]:
        """Lowest and highest log2 ratio that the policy's candidates make of the label's text."""
        first, last = self.policy.candidates[0], self.policy.candidates[-1]
        if self.policy.kind is Ratio:
            return math.log2(first), math.log2(last)
        return max(0.0, math.log2(label.tokens / last)), max(0.0, math.log2(label.tokens / first))
