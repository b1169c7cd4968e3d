"""Labels of summaries are the paper's formula."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from latentpress.backbone import Base
from latentpress.data.labels import read_labels
from latentpress.data.records import Record
from latentpress.errors import DataError
from latentpress.labels.making import make_labels
from latentpress.labels.summary import SummaryLabels


def test_labels_are_log2_of_text_tokens_over_summary_tokens(
    records: list[Record], tiny_base: Base, tmp_path: Path
) -> None:
    outcome = make_labels(SummaryLabels(tiny_base.tokenizer), records, tmp_path / "labels.jsonl")

    def count(text: str) -> int:
        return len(tiny_base.tokenizer(text)["input_ids"])

    assert [label.log2_ratio for label in outcome.labels] == pytest.approx(
        [math.log2(count(one.contexts[0]) / count(one.short_summary or "")) for one in records]
    )
    assert [label.tokens for label in outcome.labels] == [count(one.contexts[0]) for one in records]
    assert read_labels(tmp_path / "labels.jsonl").source == "summary"


def test_records_without_a_usable_summary_are_left_out_and_counted(
    records: list[Record], tiny_base: Base, tmp_path: Path
) -> None:
    first, second, third, fourth = records
    mixed = [
        replace(first, short_summary=None),
        replace(second, short_summary=second.contexts[0] + " and more"),
        replace(third, contexts=(*third.contexts, "Another document.")),
        fourth,
    ]
    outcome = make_labels(SummaryLabels(tiny_base.tokenizer), mixed, tmp_path / "labels.jsonl")
    assert [label.id for label in outcome.labels] == [fourth.id]
    assert outcome.left_out == {
        "without short_summary": 1,
        "with a short_summary longer than the text": 1,
        "of several documents": 1,
    }
    with pytest.raises(DataError, match=r"none of 3 records can be labelled by summary: 1 of several documents, 1 wi"):
        make_labels(SummaryLabels(tiny_base.tokenizer), mixed[:3], tmp_path / "others.jsonl")
    assert not (tmp_path / "others.jsonl").exists()
