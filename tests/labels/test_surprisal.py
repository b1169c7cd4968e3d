"""Surprisals are the base model's own losses, and labels a line through their logarithms."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from labels.conftest import make_record

from latentpress.backbone import Backbone, Base
from latentpress.data.labels import LabelFile, read_labels, text_digest
from latentpress.data.records import Record
from latentpress.errors import InputError
from latentpress.labels.making import make_labels
from latentpress.labels.surprisal import MOST, SURPRISING, Line, SurprisalLabels, surprisals


@torch.no_grad()
def losses(base: Base, ids: list[int]) -> torch.Tensor:
    """What transformers' own loss is the mean of, in nats."""
    given = torch.tensor([ids])
    out = base.model(input_ids=given, labels=given, use_cache=False)
    each = torch.nn.functional.cross_entropy(out.logits[0, :-1].float(), given[0, 1:], reduction="none")
    torch.testing.assert_close(each.mean(), out.loss)
    return each


def test_surprisals_are_transformers_own_loss_window_by_window(tiny_bases: Base) -> None:
    texts = [[(7 * i + j) % 200 + 3 for i in range(n)] for j, n in enumerate((30, 2, 17))]
    found = surprisals(Backbone(tiny_bases.model), texts, window_tokens=12)
    for ids, bits in zip(texts, found, strict=True):
        windows = {30: (0, 10, 20, 30), 2: (0, 2), 17: (0, 9, 17)}[len(ids)]
        own = [losses(tiny_bases, ids[a:b]) for a, b in itertools.pairwise(windows)]
        expected = torch.cat(own).double() / math.log(2)
        torch.testing.assert_close(bits, expected, rtol=1e-4, atol=1e-4)


def test_a_row_counts_every_token_of_a_text_once(records: list[Record], tiny_base: Base) -> None:
    source = SurprisalLabels(tiny_base, window_tokens=10)
    items = [item for record in records if not isinstance(item := source.prepare(record), str)]
    alone = [source.measure([item])[0] for item in items]
    for item, row, own in zip(items, source.measure(items), alone, strict=True):
        bits = surprisals(source.backbone, [item.ids], 10)[0]
        assert row["bits_per_token"] == pytest.approx(float(bits.mean()))
        assert row["bits_per_character"] == pytest.approx(float(bits.sum()) / len(item.text))
        assert row["surprising_share"] == pytest.approx(sum(b >= SURPRISING for b in bits.tolist()) / len(bits))
        assert row == pytest.approx(own, rel=1e-4)


def test_a_label_falls_by_the_slope_where_the_statistic_doubles_and_stays_in_range() -> None:
    line = Line(offset=4.0, slope=1.5)
    assert line.label(1.0) == 4.0
    assert line.label(2.0) == pytest.approx(2.5)
    assert (line.label(0.0), line.label(1e-9), line.label(1e9)) == (MOST, MOST, 0.0)


@pytest.mark.parametrize("statistic", ["token", "character"])
def test_calibrated_labels_have_mean_and_spread_of_others(tiny_base: Base, tmp_path: Path, statistic: str) -> None:
    words = ("treaty", "fox", "dog", "Paris", "words", "beginning", "the", "signed", "lazy", "May", "document", "brown")
    many = [make_record(i, f"{word} was {word} in the {words[i - 1]} and {word}.") for i, word in enumerate(words)]
    others = read_labels(
        _labels_of(tmp_path / "others.jsonl", {one.contexts[0]: 1 + i / 7 for i, one in enumerate(many)})
    )
    source = SurprisalLabels(tiny_base, statistic=statistic, like=others)
    outcome = make_labels(source, many, tmp_path / "labels.jsonl")
    mine = [one.log2_ratio for one in outcome.labels]
    theirs = [one.log2_ratio for one in others.labels.values()]
    assert 0 < min(mine) < max(mine) < MOST  # none is clamped, so that mean and spread are exact
    assert statistics.fmean(mine) == pytest.approx(statistics.fmean(theirs))
    assert statistics.pstdev(mine) == pytest.approx(statistics.pstdev(theirs))
    assert outcome.found["in_common"] == len(words)
    assert read_labels(tmp_path / "labels.jsonl").header["settings"]["like"] == {
        "source": "fidelity",
        "digest": others.digest,
    }


def _labels_of(path: Path, values: dict[str, float]) -> Path:
    from latentpress.data.labels import DensityLabel, label_lines

    labels = [
        DensityLabel(
            id=text, source="fidelity", log2_ratio=value, tokens=9, sha256=text_digest(text), genre="x", details={}
        )
        for text, value in values.items()
    ]
    path.write_text(label_lines({"source": "fidelity"}, labels), encoding="utf-8")
    return path


def test_too_few_labels_in_common_or_all_alike_are_refused(
    records: list[Record], tiny_base: Base, tmp_path: Path
) -> None:
    few = read_labels(_labels_of(tmp_path / "few.jsonl", {one.contexts[0]: float(i) for i, one in enumerate(records)}))
    with pytest.raises(InputError, match="has labels of 4 of the 4 texts"):
        make_labels(SurprisalLabels(tiny_base, like=few), records, tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl.part").exists()  # found out before anything is measured
    many = [make_record(i, f"the fox {i} was there") for i in range(12)]
    alike = read_labels(_labels_of(tmp_path / "alike.jsonl", dict.fromkeys((one.contexts[0] for one in many), 2.0)))
    with pytest.raises(InputError, match=r"the labels in .*alike.jsonl of the 12 texts in common are all the same"):
        make_labels(SurprisalLabels(tiny_base, like=alike), many, tmp_path / "b.jsonl")


def test_settings_that_cannot_be_are_refused(tiny_base: Base) -> None:
    with pytest.raises(InputError, match="statistic 'words' is unknown; choose one of token, character, surprising"):
        SurprisalLabels(tiny_base, statistic="words")
    for window in (1, 513):
        with pytest.raises(InputError, match=f"window_tokens={window} must be from 2 to 512"):
            SurprisalLabels(tiny_base, window_tokens=window)


def test_a_text_of_one_token_is_left_out(records: list[Record], tiny_base: Base, tmp_path: Path) -> None:
    outcome = make_labels(
        SurprisalLabels(tiny_base), [replace(records[0], contexts=("a",)), records[1]], tmp_path / "labels.jsonl"
    )
    assert len(outcome.labels) == 1
    assert outcome.left_out == {"of a single token, which nothing is before": 1}


def test_the_digest_of_labels_decides_whether_a_calibration_is_the_same(tmp_path: Path, tiny_base: Base) -> None:
    def settings(value: float) -> object:
        file: LabelFile = read_labels(_labels_of(tmp_path / "other.jsonl", {"a": 1.0, "b": value}))
        return SurprisalLabels(tiny_base, like=file).settings

    assert settings(2.0) == settings(2.0)
    assert settings(2.0) != settings(3.0)
