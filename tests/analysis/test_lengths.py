"""What a selector by length alone would give, by hand from answers at fixed ratios."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_results import Reply, Results, replies, system, yes_questions
from made_sweeps import swept_folder

from latentpress.analysis.comparison import read
from latentpress.analysis.lengths import lengths
from latentpress.errors import InputError

SHORT, LONG = 128, 1024


def made(out: Path) -> None:
    """40 questions about texts of 128 tokens and 40 of 1,024: at 2x all right, at 16x a quarter of the long ones."""
    results = Results(out)
    results.ask("east", yes_questions(80))

    def at(ratio: int, short: str, long: str) -> list[Reply]:
        halves = ((short * 10, SHORT), (long * 10, LONG))
        return [one for marks, tokens in halves for one in replies(marks, tokens=tokens, kept=tokens // ratio)]

    results.answer("east", system("mine", "x2"), at(2, "yyyy", "yyyy"))
    results.answer("east", system("mine", "x16"), at(16, "....", "y..."))


def test_long_texts_are_answered_as_at_the_ratio_that_they_would_get(tmp_path: Path) -> None:
    made(tmp_path)
    content = lengths(read([tmp_path]), "mine", exponents=[0.5, 1], scales=[1])
    assert list(content["groups"]) == ["fixed ratios", "exponent 0.5", "exponent 1"]
    (row,) = [one for one in content["points"] if one["group"] == "exponent 1"]
    # short: 2^1; long: 2^(1 + 3), 64 latents each, as many as of a short one
    assert row["ratio"] == pytest.approx(40 * (SHORT + LONG) / (80 * 64))
    assert row["score"]["mean"] == pytest.approx((40 + 10) / 80)
    share = 1 - (3.169925 - 1) / 3  # log2 of 9, between 1 and 4
    assert row["reference"]["mean"] == pytest.approx(share * 1 + (1 - share) * 10 / 80)
    (half,) = [one for one in content["points"] if one["group"] == "exponent 0.5"]
    assert half["ratio"] == 2  # 2^2.5 is nearer to 2 than to 16
    assert half["difference"]["mean"] == 0


def test_texts_of_one_length_gain_nothing(tmp_path: Path) -> None:
    swept_folder(tmp_path, scales=())
    content = lengths(read([tmp_path]), "mine", exponents=[1], scales=[1, 2])
    gains = [row["difference"]["mean"] for row in content["points"] if row["difference"]]
    assert len(gains) == 2 * 4  # three sets and their mean, at two scales
    assert gains == [0.0] * 8
    assert {row["ratio"] for row in content["points"] if row["group"] == "exponent 1"} == {4, 8}


def test_questions_that_failed_at_one_ratio_keep_their_length_and_sets_without_one_are_named(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for name in ("east", "west"):
        results.ask(name, yes_questions(8))
        results.answer(name, system("mine", "x2"), replies("yyyyyyyy", tokens=LONG, kept=LONG // 2))
    failed: list[Any] = [(None, None, None), *replies(".......", tokens=LONG, kept=LONG // 16)]
    results.answer("east", system("mine", "x16"), failed)
    content = lengths(read([tmp_path]), "mine", exponents=[1], scales=[1])
    rows = [row for row in content["points"] if row["group"] == "exponent 1"]
    assert [(row["scope"], row["n"], row["score"]["mean"]) for row in rows] == [("east", 8, 0)]  # all at 16x
    assert "west" in content["notes"][-1]
    assert "not all ratios (2, 16) were asked" in content["notes"][-1]


def test_a_press_of_lengths_is_refused(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.ask("east", yes_questions(4))
    for size in ("m16", "m32"):
        results.answer("east", system("mine", size), replies("yyyy", tokens=160, kept=int(size[1:])))
    with pytest.raises(InputError, match="'mine' counts latents, and a length exponent raises ratios"):
        lengths(read([tmp_path]), "mine")


def test_what_is_needed_and_missing_is_told(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.ask("east", yes_questions(4))
    results.answer("east", system("mine", "x4"), replies("yyyy", tokens=160, kept=40))
    with pytest.raises(InputError, match=r"'mine' at fewer than two whole ratios \(4\).*mine@2/4/8/16/32"):
        lengths(read([tmp_path]), "mine")
    with pytest.raises(InputError, match="'mime' is not in"):
        lengths(read([tmp_path]), "mime")
