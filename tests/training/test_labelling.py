"""Labels of a file are what the head learns, for the texts that they are of."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_network, make_tokenizer

from latentpress.backbone import Base, wrap_base
from latentpress.checkpoints.io import read_config
from latentpress.compressors import Ratio
from latentpress.data.held_out import is_held_out
from latentpress.data.labels import DensityLabel, LabelFile, label_lines, read_labels, text_digest
from latentpress.data.records import read_records
from latentpress.data.rows import ExampleMaker
from latentpress.decoder.prompt import PromptSettings
from latentpress.errors import DataError, InputError, TrainingError
from latentpress.labels.base import LabelSource
from latentpress.labels.making import make_labels
from latentpress.labels.summary import SummaryLabels
from latentpress.labels.surprisal import SurprisalLabels
from latentpress.model import PressModel
from latentpress.tokens import encode_inert
from latentpress.training.objective import document_latents, row_loss
from latentpress.training.overrides import make_recipe
from latentpress.training.reading import TrainingData, read_data
from training.helpers import overrides, read_log, write_data

Train = Callable[..., Path]


@functools.cache
def tokens_of(text: str) -> int:
    return len(encode_inert(make_tokenizer(), text))


def labels_for(
    data: Path, path: Path, value: Callable[[int], float | None], *, more: int = 0, tokens: int | None = None
) -> Path:
    """Writes labels for the records of a file, none where the value is None, and some of other texts."""
    texts = [record.contexts[0] for record in read_records(data)] + [f"another text {i}" for i in range(more)]
    labels = [
        DensityLabel(
            id=f"r{i}",
            source="fidelity",
            log2_ratio=own,
            tokens=tokens or tokens_of(text),
            sha256=text_digest(text),
            genre="x",
            details={},
        )
        for i, text in enumerate(texts)
        if (own := value(i)) is not None
    ]
    path.write_text(label_lines({"source": "fidelity"}, labels), encoding="utf-8")
    return path


def read(
    data: Path, labels: LabelFile | None, base: Base, hold_out: Path | None = None, **changes: Any
) -> TrainingData:
    recipe = make_recipe("semidynamic", overrides(dev_records=0, **changes))
    maker = ExampleMaker(base.tokenizer, PromptSettings(), 48)
    return read_data([str(data)], None, recipe, maker, labels, None if hold_out is None else str(hold_out))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "records.jsonl")


def test_labels_take_the_place_of_those_of_summaries(data: Path, tmp_path: Path, tiny_base: Base) -> None:
    path = labels_for(data, tmp_path / "labels.jsonl", lambda i: 1.0 + i / 20 if i % 2 else None, more=3)
    made = read(data, read_labels(path), tiny_base)
    assert [record.log2_ratio for record in made.train] == [1.0 + i / 20 if i % 2 else None for i in range(20)]
    assert made.labels is not None
    assert (made.labels.records, made.labels.unknown, made.labels.clamped) == (10, 1, 0)
    plain = read(data, None, tiny_base)
    assert plain.labels is None
    assert [replace(one, log2_ratio=None) for one in plain.train] == [
        replace(one, log2_ratio=None) for one in made.train
    ]
    assert {record.log2_ratio for record in plain.train} != {record.log2_ratio for record in made.train}


def test_the_loss_of_the_head_is_towards_the_labels_of_the_file(
    data: Path, tmp_path: Path, tiny_base: Base, tiny_model: PressModel
) -> None:
    path = labels_for(data, tmp_path / "labels.jsonl", lambda i: 1.0 + i / 10)
    made = read(data, read_labels(path), tiny_base)
    maker = ExampleMaker(tiny_base.tokenizer, PromptSettings(), 48)
    draw = random.Random(0)
    examples = [maker.example([one], draw, questions=2, quotes=1, quote_tokens=8) for one in made.train[3:6]]
    with torch.no_grad():
        loss = row_loss(tiny_model, examples, Ratio(4))
        _, predicted = document_latents(tiny_model, examples, Ratio(4))
    assert predicted is not None
    expected = sum((float(y) - (1.0 + i / 10)) ** 2 for i, y in enumerate(predicted.log2_ratios, start=3))
    assert loss.labelled == 3
    assert float(loss.ratio) == pytest.approx(expected, rel=1e-5)


def test_labels_that_the_candidates_cannot_reach_are_refused_or_clamped(
    data: Path, tmp_path: Path, tiny_base: Base
) -> None:
    path = labels_for(data, tmp_path / "labels.jsonl", lambda i: {3: 0.25, 5: 4.5}.get(i, 2.0))
    said = r"record 'r3' has log2_ratio 0.25, outside 1 to 3, which the ratios 2, 4, 8 can reach, as have 2 of 20; set"
    with pytest.raises(DataError, match=said):
        read(data, read_labels(path), tiny_base)
    made = read(data, read_labels(path), tiny_base, clamp_labels="true")
    assert [made.train[i].log2_ratio for i in (2, 3, 4, 5)] == [2.0, 1.0, 2.0, 3.0]
    assert made.labels is not None
    assert made.labels.clamped == 2
    ends = labels_for(data, tmp_path / "ends.jsonl", lambda i: 1.0 if i % 2 else 3.0)
    assert read(data, read_labels(ends), tiny_base).labels is not None


def test_the_range_of_lengths_depends_on_the_text(data: Path, tmp_path: Path, tiny_base: Base) -> None:
    lengths = {"policy": "length-selector", "candidates": "2,4"}  # of 20 tokens: ratios 10 and 5
    path = labels_for(data, tmp_path / "labels.jsonl", lambda i: 2.0 if i else 3.0, tokens=20)
    with pytest.raises(DataError, match=r"log2_ratio 2, outside 2.32\d* to 3.32\d*, which the lengths 2, 4 can reach"):
        read(data, read_labels(path), tiny_base, dropped=("ratio_schedule",), **lengths)


def test_labels_of_other_texts_alone_are_refused(data: Path, tmp_path: Path, tiny_base: Base) -> None:
    path = labels_for(data, tmp_path / "labels.jsonl", lambda i: None if i < 20 else 2.0, more=4)
    with pytest.raises(DataError, match="none of its 4 labels is of a text of the 20 records"):
        read(data, read_labels(path), tiny_base)


@pytest.mark.parametrize("source", [SurprisalLabels, SummaryLabels])
def test_labels_by_another_tokenizer_are_refused_and_by_another_model_of_the_same_taken(
    data: Path, tmp_path: Path, tiny_base: Base, other_base: Base, source: type[LabelSource]
) -> None:
    def made(base: Base) -> LabelFile:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        make_labels(
            SurprisalLabels(base) if source is SurprisalLabels else SummaryLabels(base.tokenizer), records, path
        )
        return read_labels(path)

    records = read_records(data)
    by = " by 'tiny-other'" if source is SurprisalLabels else ""
    said = rf"has \d+ tokens there{by}, and \d+ by the tokenizer of the base model here; .* make the labels anew with"
    with pytest.raises(DataError, match=said):
        read(data, made(other_base), tiny_base, clamp_labels="true")
    same = wrap_base(
        make_network("qwen2", len(tiny_base.tokenizer), seed=5), tiny_base.tokenizer, id="s", fingerprint="s"
    )
    use = read(data, made(same), tiny_base, clamp_labels="true").labels
    assert use is not None
    assert use.records == (20 if source is SurprisalLabels else sum(one.short_summary is not None for one in records))


def test_the_fifth_is_held_out_with_its_texts(data: Path, tiny_base: Base, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    for i, row in enumerate(rows):
        row["id"] = f"passage-{i}"
    held = [row for row in rows if is_held_out(row["id"])]
    assert 0 < len(held) < 10
    hidden = {"id": "free-2", "context": f"In front: {held[0]['context']}"}
    assert not is_held_out("free-2")
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows, hidden]), encoding="utf-8")
    made = read(data, None, tiny_base, hold_out=data)
    assert made.held_out == len(held) + 1
    assert len(made.train) == 20 - len(held)
    assert len(read(data, None, tiny_base).train) == 21
    path = labels_for(data, tmp_path / "labels.jsonl", lambda _: 2.0)
    labelled = read(data, read_labels(path), tiny_base, hold_out=data)
    assert labelled.labels is not None
    assert labelled.labels.unknown == made.held_out


def test_a_run_learns_from_labels_and_goes_on_with_no_others(
    train: Train, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = labels_for(data, tmp_path / "one.jsonl", lambda _: 1.0, more=2)
    other = labels_for(data, tmp_path / "other.jsonl", lambda _: 3.0)
    given = {"data": [str(data)]}
    first = train("one", {**given, "labels": one}, steps=2, eval_every=2)
    assert "labels: 20 records have one; 2 of its labels are of other texts" in capsys.readouterr().err
    second = train("other", {**given, "labels": other}, steps=2, eval_every=2)
    errors = [
        next(line["eval_ratio_error"] for line in read_log(out) if "eval_loss" in line) for out in (first, second)
    ]
    assert errors[0] != errors[1]
    assert read_config(first / "press")[0].trained["labels"] == {
        "source": "fidelity",
        "digest": read_labels(one).digest,
    }
    for labels in (other, None):
        with pytest.raises(TrainingError, match="holds a run with other settings: data was"):
            train("one", {**given, "labels": labels}, steps=2, eval_every=2)


def test_a_press_that_predicts_nothing_has_no_use_for_labels(train: Train, data: Path, tmp_path: Path) -> None:
    labels = labels_for(data, tmp_path / "labels.jsonl", lambda _: 2.0)
    with pytest.raises(InputError, match=r"has policy=fixed, which predicts no ratio, so that --labels would teach"):
        train(arguments={"data": [str(data)], "labels": labels}, policy="fixed")
