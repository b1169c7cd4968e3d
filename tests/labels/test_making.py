"""A file of labels is there whole or not at all, and an interrupted labelling goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from transformers import PreTrainedTokenizerBase

from latentpress.backbone import Base
from latentpress.data.labels import read_labels, text_digest
from latentpress.data.lines import Row
from latentpress.data.records import Record
from latentpress.errors import InputError
from latentpress.labels import making
from latentpress.labels.base import Finished, Item, LabelSource
from latentpress.labels.fidelity import FidelityLabels
from latentpress.labels.making import Progress, make_labels
from latentpress.labels.summary import SummaryLabels
from latentpress.labels.surprisal import SurprisalLabels
from latentpress.press import Press


class Counting(LabelSource):
    """Labels by the number of texts that it was given before, so that measuring twice shows."""

    name: ClassVar[str] = "summary"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, fails_at: int | None = None, offset: float = 0.0) -> None:
        super().__init__(tokenizer)
        self.fails_at, self.offset = fails_at, offset
        self.measured: list[str] = []

    @property
    def made_by(self) -> dict[str, Any]:
        return {"by": "counting"}

    @property
    def settings(self) -> dict[str, Any]:
        return {"offset": self.offset}

    def check(self, item: Item) -> Item | str:
        return item

    def measure(self, items: Sequence[Item]) -> list[Row]:
        if len(self.measured) == self.fails_at:
            raise KeyboardInterrupt
        self.measured += [item.record.id for item in items]
        return [{"letters": len(item.text)} for item in items]

    def finish(self, rows: Sequence[Row]) -> Finished:
        return Finished(log2_ratios=tuple(self.offset + row["letters"] for row in rows), found={"texts": len(rows)})


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "_BATCH_TOKENS", 1)


def files(folder: Path) -> list[str]:
    """All but the lock."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_an_interrupted_labelling_goes_on_even_after_half_a_line(
    records: list[Record], tiny_base: Base, tmp_path: Path
) -> None:
    out = tmp_path / "labels.jsonl"
    with pytest.raises(KeyboardInterrupt):
        make_labels(Counting(tiny_base.tokenizer, fails_at=2), records, out)
    assert files(tmp_path) == ["labels.jsonl.part"]
    part = tmp_path / "labels.jsonl.part"
    part.write_bytes(part.read_bytes()[:-5])
    again = Counting(tiny_base.tokenizer)
    outcome = make_labels(again, records, out)
    assert again.measured == ["r1", "r2", "r3"]
    assert (outcome.kept, outcome.measured) == (1, 3)
    assert files(tmp_path) == ["labels.jsonl"]
    whole = make_labels(Counting(tiny_base.tokenizer), records, tmp_path / "other.jsonl")
    assert outcome.labels == whole.labels
    assert out.read_bytes() == (tmp_path / "other.jsonl").read_bytes()
    assert list(read_labels(out).labels) == [text_digest(record.contexts[0]) for record in records]


def test_measurements_of_an_interrupted_labelling_serve_other_settings(
    records: list[Record], tiny_base: Base, tmp_path: Path
) -> None:
    out = tmp_path / "labels.jsonl"
    with pytest.raises(KeyboardInterrupt):
        make_labels(Counting(tiny_base.tokenizer, fails_at=3), records, out)
    outcome = make_labels(Counting(tiny_base.tokenizer, offset=0.5), records, out)
    assert outcome.kept == 3
    assert [label.log2_ratio for label in outcome.labels] == [len(record.contexts[0]) + 0.5 for record in records]


def test_a_finished_file_is_gone_on_with_for_more_texts_and_left_alone_for_fewer(
    records: list[Record], tiny_base: Base, tmp_path: Path
) -> None:
    out = tmp_path / "labels.jsonl"
    make_labels(Counting(tiny_base.tokenizer), records, out, limit=2)
    assert len(read_labels(out).labels) == 2
    more = Counting(tiny_base.tokenizer)
    assert make_labels(more, records, out).kept == 2
    assert more.measured == ["r2", "r3"]
    assert read_labels(out).header["found"] == {"texts": 4}
    before = out.read_bytes()
    fewer = Counting(tiny_base.tokenizer)
    outcome = make_labels(fewer, records, out, limit=1)
    assert (outcome.beyond, outcome.kept, outcome.measured) == (3, 4, 0)
    assert outcome.labels == tuple(read_labels(out).labels.values())
    assert outcome.found == {"texts": 4}  # of what the file holds, not of the one that was asked for
    assert fewer.measured == []
    assert out.read_bytes() == before
    assert files(tmp_path) == ["labels.jsonl"]


def test_measurements_beyond_a_smaller_limit_are_kept(records: list[Record], tiny_base: Base, tmp_path: Path) -> None:
    out = tmp_path / "labels.jsonl"
    with pytest.raises(KeyboardInterrupt):
        make_labels(Counting(tiny_base.tokenizer, fails_at=3), records, out)
    fewer = make_labels(Counting(tiny_base.tokenizer), records, out, limit=2)
    assert (len(fewer.labels), fewer.beyond) == (2, 0)
    assert files(tmp_path) == ["labels.jsonl", "labels.jsonl.part"]
    again = Counting(tiny_base.tokenizer)
    assert len(make_labels(again, records, out).labels) == 4
    assert again.measured == ["r3"]
    assert files(tmp_path) == ["labels.jsonl"]


def test_labels_made_otherwise_or_of_other_texts_stay(records: list[Record], tiny_base: Base, tmp_path: Path) -> None:
    out = tmp_path / "labels.jsonl"
    make_labels(Counting(tiny_base.tokenizer), records, out)
    with pytest.raises(InputError, match=r"made otherwise \(settings.offset 0.0, now 0.5\); give another --out"):
        make_labels(Counting(tiny_base.tokenizer, offset=0.5), records, out)
    with pytest.raises(InputError, match="line 2, is of another text"):
        make_labels(Counting(tiny_base.tokenizer), records[::-1], out)
    assert files(tmp_path) == ["labels.jsonl"]
    out.write_text("a text of mine\n")
    with pytest.raises(InputError, match="cannot be read"):
        make_labels(Counting(tiny_base.tokenizer), records, out)
    assert out.read_text() == "a text of mine\n"


def test_measurements_with_other_summaries_or_questions_are_refused(
    records: list[Record], tiny_base: Base, press: Press, tmp_path: Path
) -> None:
    summed = [replace(record, short_summary="fox") for record in records]
    for source, was, now in (
        (SummaryLabels(tiny_base.tokenizer), summed, [*summed[:2], replace(summed[2], short_summary="the fox was")]),
        (FidelityLabels(press), records, [*records[:2], replace(records[2], qas=records[2].qas * 2)]),
    ):
        out = tmp_path / f"{source.name}.jsonl"
        make_labels(source, was, out)
        before = out.read_bytes()
        with pytest.raises(InputError, match=r"line 4, was measured with another .* record 'r2' has now; give another"):
            make_labels(source, now, out)
        assert out.read_bytes() == before
    assert files(tmp_path) == ["fidelity.jsonl", "summary.jsonl"]


def test_records_of_one_text_are_one_with_all_their_questions(
    records: list[Record], press: Press, tmp_path: Path
) -> None:
    first, second = records[0], records[1]
    other = replace(second, contexts=first.contexts)
    outcome = make_labels(FidelityLabels(press), [first, other, records[2]], tmp_path / "labels.jsonl")
    joined = replace(first, qas=first.qas + tuple(qa for qa in other.qas if qa not in first.qas))
    alone = make_labels(FidelityLabels(press), [joined], tmp_path / "alone.jsonl")
    assert [label.id for label in outcome.labels] == ["r0", "r2"]
    assert outcome.labels[0].details["questions"] == len(joined.qas) == 2
    assert outcome.labels[0].log2_ratio == pytest.approx(alone.labels[0].log2_ratio, abs=1e-4)
    assert outcome.left_out == {"of a text that came before, their questions added to its": 1}


def test_progress_is_told_in_texts_and_tokens(records: list[Record], tiny_base: Base, tmp_path: Path) -> None:
    told: list[Progress] = []
    source = SurprisalLabels(tiny_base)
    outcome = make_labels(source, records, tmp_path / "labels.jsonl", progress=told.append)
    sizes = [label.tokens for label in outcome.labels]
    assert [one.texts for one in told] == [0, 1, 2, 3, 4]
    assert [one.tokens for one in told] == [sum(sizes[:i]) for i in range(5)]
    assert {(one.of_texts, one.of_tokens) for one in told} == {(4, sum(sizes))}
    assert outcome.measured_tokens == sum(sizes)


def test_files_name_what_made_them(records: list[Record], tiny_base: Base, press: Press, tmp_path: Path) -> None:
    make_labels(FidelityLabels(press), records, tmp_path / "f.jsonl")
    header = read_labels(tmp_path / "f.jsonl").header
    assert header["made_by"] == {
        "press": {"name": "tiny", "fingerprint": "feed", "dtype": "float32"},
        "ratios": [2, 4, 8],
    }
    assert header["settings"] == {"tolerance": 0.2}
    make_labels(SurprisalLabels(tiny_base), records, tmp_path / "s.jsonl")
    header = read_labels(tmp_path / "s.jsonl").header
    assert header["made_by"]["base"]["fingerprint"] == tiny_base.fingerprint
    assert header["found"] == {"offset": 6.5, "slope": 2.0}


def test_two_labellings_do_not_write_one_file(records: list[Record], tiny_base: Base, tmp_path: Path) -> None:
    out = tmp_path / "labels.jsonl"

    class Meanwhile(Counting):
        def measure(self, items: Sequence[Item]) -> list[Row]:
            if not self.measured:
                with pytest.raises(InputError, match=r"another labelling is running for .*labels\.jsonl; wait"):
                    make_labels(Counting(tiny_base.tokenizer), records, out)
            return super().measure(items)

    assert make_labels(Meanwhile(tiny_base.tokenizer), records, out).measured == len(records)
    assert make_labels(Counting(tiny_base.tokenizer), records, out).kept == len(records)
