"""Fixtures of the labelling tests: records of every kind, and a tiny press."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tiny import config_for, make_model

from latentpress.data.records import QA, Record

if TYPE_CHECKING:
    from latentpress.backbone import Base
    from latentpress.press import Press

TEXTS = (
    "The treaty was signed in Paris on the first day of May, and there was nothing.",
    "The quick brown fox jumps over the lazy dog, and the dog was lazy.",
    "In the beginning there was nothing, and then there were words.",
    "the the the the the the the the the the the the the the",
)


def make_record(number: int, text: str, *questions: tuple[str, str], **fields: Any) -> Record:
    """A record of one document."""
    qas = tuple(QA(id=f"q{i}", question=asked, answers=(answer,)) for i, (asked, answer) in enumerate(questions))
    values = {"id": f"r{number}", "contexts": (text,), "source": "wiki" if number % 2 else "book", "lang": None}
    return Record(**{**values, "qas": qas, "summary": None, "short_summary": None, **fields})


@pytest.fixture
def records() -> list[Record]:
    """Four texts with questions, summaries and ultra-concise summaries."""
    asked = (("who signed?", "the fox"), ("when was the treaty signed?", "the first day of May"), ("where?", "Paris"))
    return [
        make_record(i, text, *asked[: 1 + i % 3], summary="A treaty.", short_summary=" ".join(text.split()[: 2 + i]))
        for i, text in enumerate(TEXTS)
    ]


@pytest.fixture(scope="session")
def press(tiny_base: Base) -> Press:
    """A tiny press of the ratios 2, 4 and 8, windows of 48 tokens."""
    from latentpress.press import Press

    return Press(make_model(config_for(tiny_base), tiny_base), tiny_base, None, "feed")
