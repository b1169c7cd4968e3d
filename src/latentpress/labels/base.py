"""The contract of a source of density labels: what it needs of a record, what it measures, and the labels of that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from latentpress.data.lines import Row
from latentpress.data.records import Record
from latentpress.tokens import encode_inert


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A record of one document that can be labelled."""

    record: Record
    """The record."""
    ids: tuple[int, ...]
    """Tokens of its text."""

    @property
    def text(self) -> str:
        """The document."""
        return self.record.contexts[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """Labels of all that was measured."""

    log2_ratios: tuple[float, ...]
    """One a row."""
    found: Mapping[str, Any] = field(default_factory=dict)
    """What was found out from all rows together, for the head of the file; plain data."""


class LabelSource(ABC):
    """Measures texts a batch at a time, and makes labels of what was measured of all of them.

    Args:
        tokenizer: by whose tokens texts are counted.
    """

    name: ClassVar[str]
    """One of `latentpress.data.labels.SOURCES`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    @property
    @abstractmethod
    def made_by(self) -> dict[str, Any]:
        """Whatever measurements depend on beside the texts; plain data."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Whatever labels depend on beside the measurements; plain data."""

    def prepare(self, record: Record) -> Item | str:
        """The record ready to be measured, or the reason why it cannot be, as it stands behind "records"."""
        ids = tuple(encode_inert(self.tokenizer, record.contexts[0]))
        if not ids:
            return "of which the tokenizer makes no tokens"
        return self.check(Item(record=record, ids=ids))

    @abstractmethod
    def check(self, item: Item) -> Item | str:
        """The item, or the reason why it cannot be measured."""

    def check_texts(self, digests: Sequence[str]) -> None:
        """Looks at all texts together before the first is measured.

        Args:
            digests: SHA-256 of each, see `latentpress.data.labels.text_digest`.

        Raises:
            InputError: labels could not be made of them.
        """
        return

    @abstractmethod
    def measure(self, items: Sequence[Item]) -> list[Row]:
        """What labels are computed from, one row an item, which does not depend on the other items."""

    def is_of(self, row: Row, item: Item) -> bool:
        """Whether a row of an earlier run was measured of what the item has beside its text, as far as it tells."""
        return True

    @abstractmethod
    def finish(self, rows: Sequence[Row]) -> Finished:
        """Labels of everything that was measured, by this run and by those before it.

        Args:
            rows: of `measure`, with the `tokens` and the `sha256` of their texts.
        """
