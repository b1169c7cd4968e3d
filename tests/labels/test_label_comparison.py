"""Comparisons pair labels by their texts, whatever the order and the gaps of their files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from labels.conftest import make_record

from latentpress.data.labels import DensityLabel, LabelFile, text_digest
from latentpress.data.predictors import zlib_ratio
from latentpress.errors import InputError
from latentpress.labels.comparison import ALL, Compared, compare

TEXTS = [f"text {i} " + "fox " * i for i in range(1, 31)]


def labels_file(path: str, source: str, values: dict[str, float]) -> LabelFile:
    labels = {
        text_digest(text): DensityLabel(
            id=text,
            source=source,
            log2_ratio=value,
            tokens=len(text),
            sha256=text_digest(text),
            genre="long" if len(text) > 60 else "short",
            details={},
        )
        for text, value in values.items()
    }
    return LabelFile(path=path, header={"source": source}, labels=labels)


def numbers(seed: int) -> list[float]:
    return list(np.random.default_rng(seed).normal(2.0, 0.5, len(TEXTS)))


def compared() -> tuple[Compared, list[float], list[float]]:
    first, noise = numbers(0), numbers(1)
    second = [2 * a + b for a, b in zip(first, noise, strict=True)]
    one = labels_file("a.jsonl", "summary", dict(zip(TEXTS, first, strict=True)))
    rest = dict(reversed([*zip(TEXTS, second, strict=True)][5:]))
    other = labels_file("b.jsonl", "fidelity", rest | {"a text of its own": 9.0})
    return compare([one, other], [make_record(i, text) for i, text in enumerate(TEXTS)]), first[5:], second[5:]


def test_correlations_are_over_the_texts_in_common() -> None:
    found, first, second = compared()
    pair = found.pairs[0]
    assert (pair.first, pair.second, pair.texts) == ("summary", "fidelity", 25)
    assert pair.pearson["mean"] == pytest.approx(float(np.corrcoef(first, second)[0, 1]))
    orders = [np.argsort(np.argsort(values)) for values in (first, second)]  # no two are equal
    assert pair.spearman["mean"] == pytest.approx(float(np.corrcoef(*orders)[0, 1]))
    for estimate in (pair.pearson, pair.spearman):
        assert -1 <= estimate["low"] < estimate["mean"] < estimate["high"] <= 1


def test_labels_stand_beside_length_and_zlib_but_these_not_beside_each_other() -> None:
    found, _, second = compared()
    assert [(pair.first, pair.second) for pair in found.pairs] == [
        ("summary", "fidelity"),
        ("summary", "length"),
        ("summary", "zlib"),
        ("fidelity", "length"),
        ("fidelity", "zlib"),
    ]
    zlib = [zlib_ratio(text) for text in TEXTS[5:]]
    assert found.pairs[4].pearson["mean"] == pytest.approx(float(np.corrcoef(second, zlib)[0, 1]))
    length = [math.log2(len(text)) for text in TEXTS[5:]] + [math.log2(len("a text of its own"))]
    assert found.pairs[3].pearson["mean"] == pytest.approx(float(np.corrcoef([*second, 9.0], length)[0, 1]))


def test_means_and_spreads_are_by_genre() -> None:
    found, _, second = compared()
    own = found.spreads["fidelity"]
    assert list(own) == [ALL, "long", "short"]
    assert own[ALL].texts == 26
    assert own[ALL].mean == pytest.approx(float(np.mean([*second, 9.0])))
    short = [value for text, value in zip(TEXTS[5:], second, strict=True) if len(text) <= 60] + [9.0]
    assert (own["short"].texts, own["short"].deviation) == (len(short), pytest.approx(float(np.std(short))))


def test_the_same_seed_gives_the_same_intervals() -> None:
    assert compared()[0] == compared()[0]


def test_constant_labels_have_no_correlation() -> None:
    one = labels_file("a.jsonl", "summary", dict.fromkeys(TEXTS, 2.0))
    other = labels_file("b.jsonl", "fidelity", dict(zip(TEXTS, numbers(0), strict=True)))
    assert math.isnan(compare([one, other]).pairs[0].pearson["mean"])


def test_files_of_one_source_are_told_apart_by_their_names(tmp_path: Path) -> None:
    values = dict(zip(TEXTS, numbers(0), strict=True))
    files = [labels_file(str(tmp_path / name), "fidelity", values) for name in ("a.jsonl", "b.jsonl")]
    assert list(compare(files).spreads) == ["fidelity (a.jsonl)", "fidelity (b.jsonl)"]
    with pytest.raises(InputError, match="given twice"):
        compare([files[0], files[0]])


def test_labels_of_other_texts_are_refused() -> None:
    one = labels_file("a.jsonl", "summary", dict(zip(TEXTS[:15], numbers(0), strict=False)))
    other = labels_file("b.jsonl", "fidelity", dict(zip(TEXTS[13:], numbers(0), strict=False)))
    with pytest.raises(InputError, match="summary and fidelity have 2 texts in common, and a correlation needs 3"):
        compare([one, other])
    with pytest.raises(InputError, match="none of the 15 labels is of a text of --data"):
        compare([one], [make_record(0, "an unknown text")])
