"""How well a head predicts, what roundings make of it, and the lines and correlations behind both."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latentpress.analysis.head import Split, judge, split
from latentpress.analysis.predictions import Policy, Predicted, read_predictions
from latentpress.analysis.rounding import rounding
from latentpress.analysis.statistics import Line, fit, pearson, ranks, spearman
from latentpress.data.held_out import is_held_out
from latentpress.data.labels import DensityLabel, LabelFile, text_digest
from latentpress.data.records import Record
from latentpress.errors import DataError, InputError
from latentpress.tokens import encode_inert

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SELECTOR = Policy(press="mine", name="selector", candidates=(2, 4, 8), selection="window")


def records(count: int) -> list[Record]:
    return [
        Record(
            id=f"text-{i}",
            contexts=(" ".join(f"word{i} is here and there" for _ in range(1 + i % 17)),),
            qas=(),
            summary=None,
            short_summary="word",
            source=f"genre{i % 2}",
            lang=None,
        )
        for i in range(count)
    ]


def labelled(every: list[Record], values: list[float], tokenizer: PreTrainedTokenizerBase) -> LabelFile:
    labels = {
        text_digest(one.contexts[0]): DensityLabel(
            id=one.id,
            source="fidelity",
            log2_ratio=value,
            tokens=len(encode_inert(tokenizer, one.contexts[0])),
            sha256=text_digest(one.contexts[0]),
            genre=one.source,
            details={},
        )
        for one, value in zip(every, values, strict=True)
    }
    return LabelFile(path="labels.jsonl", header={"source": "fidelity"}, labels=labels)


def predicted(cut: Split, values: list[float]) -> list[Predicted]:
    return [
        Predicted(id=one.passage.id, genre=one.passage.genre, tokens=(8,), log2_ratios=(value,))
        for one, value in zip(cut.judged, values, strict=True)
    ]


def test_only_held_back_passages_are_judged_and_lines_are_fitted_on_the_others(
    tiny_tokenizer: PreTrainedTokenizerBase,
) -> None:
    every = records(100)
    cut = split(every, tiny_tokenizer)
    held = [one.id for one in every if is_held_out(one.id)]
    assert [one.passage.id for one in cut.judged] == held
    assert sorted(one.passage.id for one in cut.fitted) == sorted(one.id for one in every if one.id not in held)
    whole = split(every, tiny_tokenizer, every=True)
    assert [one.passage.id for one in whole.judged[: len(held)]] == held
    assert len(whole.judged) == 100
    assert cut.source == "summary"


def test_without_a_file_labels_come_from_the_short_summary(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    one = split(records(100), tiny_tokenizer).judged[0]
    counts = [len(encode_inert(tiny_tokenizer, text)) for text in (one.passage.text, "word")]
    assert one.label == pytest.approx(math.log2(counts[0] / counts[1]))
    assert one.length == pytest.approx(math.log2(counts[0]))


def test_lines_find_labels_that_follow_them_and_heads_are_held_against_them(
    tiny_tokenizer: PreTrainedTokenizerBase,
) -> None:
    every = records(120)
    lengths = [math.log2(len(encode_inert(tiny_tokenizer, one.contexts[0]))) for one in every]
    cut = split(
        every, tiny_tokenizer, labels=labelled(every, [0.5 + 0.25 * value for value in lengths], tiny_tokenizer)
    )
    labels = [one.label for one in cut.judged]
    # A head that errs by half in turn to both sides.
    content = judge(
        cut,
        predicted(cut, [label + 0.5 * (-1) ** i for i, label in enumerate(labels)]),
        press="mine",
        place="here",
    )
    head, length, _, mean = content["predictors"]
    assert head["mae"]["mean"] == pytest.approx(0.5)
    assert (head["mae"]["low"], head["mae"]["high"]) == pytest.approx((0.5, 0.5))
    assert length["mae"]["mean"] == pytest.approx(0, abs=1e-9)
    assert length["pearson"]["mean"] == pytest.approx(1)
    assert length["spearman"]["mean"] == pytest.approx(1)
    assert length["ahead"]["mean"] == pytest.approx(-0.5)
    assert length["ahead"]["word"] == "worse"
    assert mean["pearson"] is None
    fitted = float(np.mean([one.label for one in cut.fitted]))
    assert mean["mae"]["mean"] == pytest.approx(float(np.mean(np.abs(np.array(labels) - fitted))))
    assert content["source"] == "fidelity"
    assert content["passages"][0]["length"] == pytest.approx(labels[0])


def test_labels_by_another_tokenizer_are_refused(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    every = records(100)
    found = labelled(every, [1.0] * 100, tiny_tokenizer)
    digest, first = next(iter(found.labels.items()))
    other = dataclasses.replace(found, labels={**found.labels, digest: dataclasses.replace(first, tokens=3)})
    with pytest.raises(DataError, match=r"record 'text-0' has 3 tokens there, and \d+ by the tokenizer of the base"):
        split(every, tiny_tokenizer, labels=other)


def test_texts_of_held_back_passages_are_not_fitted_to(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    every = records(100)
    held = next(one for one in every if is_held_out(one.id))
    free = next(one for one in every if not is_held_out(one.id))
    copy = Record(
        id=free.id,
        contexts=(held.contexts[0].upper(),),
        qas=(),
        summary=None,
        short_summary="word",
        source="copy",
        lang=None,
    )
    cut = split([copy if one is free else one for one in every], tiny_tokenizer)
    assert copy.id not in [one.passage.id for one in cut.fitted]


def test_data_that_cannot_be_judged_on_are_refused(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    held = [one for one in records(60) if is_held_out(one.id)]
    free = [one for one in records(60) if not is_held_out(one.id)]
    with pytest.raises(InputError, match=r"0 of .* labelled passages are held back"):
        split(free, tiny_tokenizer)
    with pytest.raises(InputError, match="not held back, to fit"):
        split(held, tiny_tokenizer)
    with pytest.raises(InputError, match=r"labels\.jsonl has labels of none"):
        split(free, tiny_tokenizer, labels=LabelFile(path="labels.jsonl", header={"source": "fidelity"}, labels={}))


def test_roundings_differ_between_their_thresholds_only() -> None:
    # From 1.5 to log2 3 = 1.585, log rounding has gone on to 4 and linear has not.
    found = [Predicted(id="a", genre="g", tokens=(64,), log2_ratios=(value,)) for value in (1.55, 2.0)]
    content = rounding(SELECTOR, found, scales=[-1, 0])
    assert content["chosen"] == {"linear": {"2": 1, "4": 1}, "log": {"4": 2}}
    assert content["differ"] == 0.5
    below, at = content["scales"]
    assert (at["linear"], at["log"]) == (128 / 48, 128 / 32)
    assert (below["linear"], below["log"], below["differ"]) == (2, 2, 0)


def test_parts_of_a_document_with_one_size_are_rounded_together() -> None:
    policy = Policy(press="mine", name="selector", candidates=(2, 4, 8), selection="document")
    content = rounding(policy, [Predicted(id="a", genre="g", tokens=(30, 10), log2_ratios=(1.0, 3.2))], scales=[0])
    # (30 * 1.0 + 10 * 3.2) / 40 = 1.55
    assert content["chosen"] == {"linear": {"2": 1}, "log": {"4": 1}}
    assert (content["choices"], content["differ"]) == (1, 1.0)
    assert content["scales"] == [{"scale": 0, "linear": 40 / 20, "log": 40 / (8 + 3), "differ": 1.0}]


@pytest.mark.parametrize("selection", ["window", "document"])
def test_the_length_exponent_of_the_press_counts(selection: str) -> None:
    policy = Policy(press="mine", name="selector", candidates=(2, 4, 8), selection=selection, length_exponent=1.0)
    content = rounding(policy, [Predicted(id="a", genre="g", tokens=(256, 256), log2_ratios=(1.0, 1.0))], scales=[0])
    assert set(content["chosen"]["linear"]) == {"8"}  # 2^(1 + log2(512 / 128))
    assert content["length_exponent"] == 1.0


def test_a_length_that_a_document_shares_out_is_one_choice() -> None:
    policy = Policy(press="mine", name="length-selector", candidates=(16, 32), selection="document")
    long = Predicted(id="a", genre="g", tokens=(48, 48, 32), log2_ratios=(2.0, 2.0, 2.0))  # 128 / 4
    short = Predicted(id="b", genre="g", tokens=(48,), log2_ratios=(2.0,))  # 48 / 4
    content = rounding(policy, [long, short], scales=[0])
    assert content["chosen"] == {"linear": {"16": 1, "32": 1}, "log": {"16": 1, "32": 1}}
    assert (content["choices"], content["passages"]) == (2, 2)
    assert content["scales"][0]["linear"] == 176 / 48
    each = rounding(dataclasses.replace(policy, selection="window"), [long, short], scales=[0])
    assert each["choices"] == 4
    assert each["chosen"]["linear"] == {"16": 4}


def test_a_policy_that_does_not_round_is_refused() -> None:
    policy = Policy(press="mine", name="continuous", candidates=(2, 8), selection="window")
    with pytest.raises(InputError, match="'continuous', which does not round"):
        rounding(policy, [Predicted(id="a", genre="g", tokens=(8,), log2_ratios=(1.0,))])


def test_files_that_are_no_predictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"head\.jsonl cannot be read.*analyze head"):
        read_predictions(tmp_path)
    other = tmp_path / "other.jsonl"
    other.write_text('{"latentpress_labels": 1}\n{"id": "a"}\n')
    with pytest.raises(InputError, match="no predictions of a head"):
        read_predictions(other)
    header = {"latentpress_head": 1, "press": "p", "policy": "selector", "candidates": [2], "selection": "window"}
    other.write_text(json.dumps(header) + '\n{"id": "a", "genre": "g", "tokens": [1], "log2_ratios": [1.0]}\n')
    assert read_predictions(other)[0].length_exponent == 0
    row = other.read_text().partition("\n")[2]
    other.write_text(json.dumps({**header, "length_exponent": 0.5}) + "\n" + row)
    assert read_predictions(other)[0].length_exponent == 0.5
    other.write_text(json.dumps(header) + '\n{"id": "a", "genre": "g", "tokens": [1], "log2_ratios": []}\n')
    with pytest.raises(InputError, match="1 parts and 0 predictions"):
        read_predictions(other)


def test_ranks_of_equal_values_are_shared() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0, 2.5, 1]


def test_correlations_are_the_textbook_s() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=50)
    y = x + generator.normal(size=50)
    assert pearson(x, y) == pytest.approx(float(np.corrcoef(x, y)[0, 1]))
    assert spearman(x, np.exp(3 * x)) == pytest.approx(1)
    assert spearman(x, -(x**3)) == pytest.approx(-1)
    assert math.isnan(pearson(x, np.ones(50)))
    line = Line.through(x, y)
    assert (line.slope, line.offset) == pytest.approx(tuple(np.polyfit(x, y, 1)))


def test_a_line_through_points_without_noise_has_no_width() -> None:
    x, y = np.array([0.0, 1.0, 3.0]), np.array([1.0, 3.0, 7.0])
    found = fit(x, y, np.tile(y, (10, 1)))
    assert found["slope"] == {"mean": pytest.approx(2), "low": pytest.approx(2), "high": pytest.approx(2)}
    assert found["line"][0] == pytest.approx([0, 1, 1, 1])
