"""What a selector gains over the variance of its choices, and what it chooses for which genre, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_results import Reply, Results, question, replies, system, yes_questions
from made_sweeps import swept_folder

from latentpress.analysis.comparison import read
from latentpress.analysis.genres import genres
from latentpress.analysis.variance import variance
from latentpress.errors import InputError

TOKENS = 64


def answers(marks: str, ratios: list[int]) -> list[Reply]:
    return [
        ("yes" if mark == "y" else "no", TOKENS, TOKENS // ratio) for mark, ratio in zip(marks, ratios, strict=True)
    ]


def gaining(out: Path) -> Results:
    """Variances 0, 1 and 4, gains 0, 1/8 and 4/8: fixed ratios have half of the answers right, whatever they are."""
    made = Results(out)
    for name, ratios, right in (("one", [4, 4], "yyyy...."), ("two", [2, 8], "yyyyy..."), ("three", [1, 16], "y" * 8)):
        made.ask(name, yes_questions(40))
        for ratio in (1, 4, 16):
            made.answer(name, system("mine", f"x{ratio}"), replies("yyyy...." * 5, tokens=TOKENS, kept=TOKENS // ratio))
        made.answer(name, system("mine", "auto"), answers(right * 5, ratios * 20))
    return made


def test_gain_variance_line_and_correlation_are_those_by_hand(tmp_path: Path) -> None:
    gaining(tmp_path)
    content = variance(read([tmp_path]), "mine")
    found = {point["name"]: (point["variance"], point["gain"]["mean"]) for point in content["points"]}
    assert list(found) == ["one", "two", "three"]
    assert np.array(list(found.values())) == pytest.approx(np.array([(0, 0), (1, 1 / 8), (4, 1 / 2)]))
    fit = content["fits"]["set"]
    assert fit["slope"]["mean"] == pytest.approx(0.125)
    assert fit["offset"] == pytest.approx(0)
    assert fit["correlation"]["mean"] == pytest.approx(1)
    assert fit["correlation"]["low"] < 1
    assert fit["slope"]["low"] < 0.125 < fit["slope"]["high"]
    x, y, low, high = fit["line"][-1]
    assert (x, y) == (4, pytest.approx(0.5))
    assert low <= y <= high


def test_genres_are_points_of_their_own_where_questions_carry_one(tmp_path: Path) -> None:
    swept_folder(tmp_path, sets=3, genres=3, questions=60, scales=(0.0,))
    content = variance(read([tmp_path]), "mine", least=20)
    kinds = [point["kind"] for point in content["points"]]
    assert (kinds.count("set"), kinds.count("genre")) == (3, 9)
    assert set(content["fits"]) == {"set", "genre"}
    (one,) = [point for point in content["points"] if point["name"] == "set0: genre1"]
    assert one["n"] == 20


def test_small_genres_are_left_out_and_named(tmp_path: Path) -> None:
    swept_folder(tmp_path, sets=3, genres=3, questions=60, scales=(0.0,))
    content = variance(read([tmp_path]), "mine", least=21)
    assert {point["kind"] for point in content["points"]} == {"set"}
    assert "set0: genre1 (20)" in content["notes"][-1]


def test_too_few_points_are_refused_with_what_there_is(tmp_path: Path) -> None:
    swept_folder(tmp_path, sets=2, genres=1, questions=20, scales=(0.0,))
    with pytest.raises(InputError, match=r"too few for a correlation, which needs 3: 2 \(set0, set1\) of sets"):
        variance(read([tmp_path]), "mine")


def test_choices_that_never_vary_have_no_line(tmp_path: Path) -> None:
    made = Results(tmp_path)
    for name in ("one", "two", "three"):
        made.ask(name, yes_questions(8))
        for size in ("x4", "auto"):
            made.answer(name, system("mine", size), replies("yyyy....", kept=10))
    with pytest.raises(InputError, match="do not differ in variance"):
        variance(read([tmp_path]), "mine")


def test_a_context_counts_once_in_its_genre(tmp_path: Path) -> None:
    made = Results(tmp_path)
    asked = [
        question(f"q{i}", "yes", context=context) | {"source": source}
        for i, (context, source) in enumerate([("a", "book"), ("a", "book"), ("b", "book"), ("c", "wiki")])
    ]
    made.ask("east", asked)
    made.answer("east", system("mine", "auto"), answers("yyyy", [4, 4, 16, 2]))
    wiki, book = genres(read([tmp_path]), "mine")["genres"]
    assert (wiki["genre"], wiki["contexts"], wiki["questions"], wiki["mean"]) == ("wiki", 1, 1, 2)
    assert (book["genre"], book["contexts"], book["questions"]) == ("book", 2, 3)
    assert (book["log2_mean"], book["log2_spread"], book["mean"]) == (3, 1, 8)
    assert book["ratio"] == 128 / 20
    assert book["ratios"] == [4, 16]


def test_the_set_stands_for_the_genre_where_the_folder_does_not_say(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.ask("east", yes_questions(4))
    made.answer("east", system("mine", "auto+1"), replies("yy..", kept=5))
    content = genres(read([tmp_path]), "mine", scale=1)
    assert [(row["genre"], row["contexts"]) for row in content["genres"]] == [("east", 4)]
    assert "Of east the folder does not say" in content["notes"][0]


def test_a_scale_that_is_not_there_is_refused(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.ask("east", yes_questions(4))
    made.answer("east", system("mine", "x4"), replies("yy.."))
    with pytest.raises(InputError, match=r"lacks 1 of 1 scales.*--with mine@auto`"):
        genres(read([tmp_path]), "mine")
