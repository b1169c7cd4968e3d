"""Systems against each other: what is compared with what, at which ratios, and what it comes to."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from made_results import Reply, Results, compared_folder, pair_of, question, replies, row_of, system, yes_questions

from latentpress.evaluation.metrics_file import write_metrics
from latentpress.evaluation.report import render


@pytest.fixture
def compared(tmp_path: Path) -> Results:
    return compared_folder(tmp_path)


@pytest.fixture
def uneven(tmp_path: Path) -> Results:
    """A selector that comes to x8 on one set and x2 on another; the head at x2, x4 and x8 on both."""
    made = Results(tmp_path)
    for name, kept, right in (("easy", 5, "yyyy...."), ("long", 20, "yyyyyyyy")):
        made.ask(name, yes_questions(40))
        made.answer(name, system("press", "auto"), replies(right * 5, kept=kept))
        for size, of, found in (("x2", 20, "yyyyyyy."), ("x4", 10, "yyyy...."), ("x8", 5, "y.......")):
            made.answer(name, system("head", size, "bound", "tuned"), replies(found * 5, kept=of))
    return made


def test_a_selector_is_compared_on_each_set_with_what_keeps_as_much_there(uneven: Results) -> None:
    content = write_metrics(uneven.out)
    (pair,) = [pair for pair in content["pairs"] if pair["a"] == "press-auto"]
    assert pair["b"] == "head-tuned"
    easy, long, pooled = (pair["scopes"][name] for name in ("easy", "long", "pooled"))
    assert (easy["b_of"], easy["ratios"]) == (["head-x8-tuned"], [8, 8])
    assert easy["mean"] == pytest.approx(4 / 8 - 1 / 8)
    assert easy["word"] == "better"
    assert (long["b_of"], long["ratios"]) == (["head-x2-tuned"], [2, 2])
    assert long["mean"] == pytest.approx(1 - 7 / 8)
    assert pooled["mean"] == pytest.approx((easy["mean"] + long["mean"]) / 2)
    assert pooled["ratios"] == [3.2, 3.2]  # 80 over 25 positions, on both sides
    assert not content["losses"]


def test_ratios_more_than_a_twentieth_apart_are_compared_between_two_sizes(uneven: Results) -> None:
    uneven.answer("easy", system("press", "auto"), replies("yyyy...." * 5, tokens=80, kept=12))
    for size, kept in (("x2", 40), ("x4", 20), ("x8", 10)):
        found = {"x2": "yyyyyyy.", "x4": "yyyy....", "x8": "y......."}[size]
        uneven.answer("easy", system("head", size, "bound", "tuned"), replies(found * 5, tokens=80, kept=kept))
    (pair,) = [pair for pair in write_metrics(uneven.out)["pairs"] if pair["a"] == "press-auto"]
    easy = pair["scopes"]["easy"]
    part = math.log2(80 / 12) - 2  # on the way from x4 to x8
    assert easy["mean"] == pytest.approx(4 / 8 - ((1 - part) * 4 / 8 + part * 1 / 8), abs=1e-5)
    assert easy["b_of"] == ["head-x4-tuned", "head-x8-tuned"]
    assert easy["ratios"] == pytest.approx([80 / 12] * 2, abs=1e-4)


def test_without_a_size_on_both_sides_there_is_no_comparison(uneven: Results) -> None:
    uneven.answer("easy", system("press", "auto"), replies("yyyy...." * 5, kept=4))  # x10, beyond the last size
    (pair,) = [pair for pair in write_metrics(uneven.out)["pairs"] if pair["a"] == "press-auto"]
    assert set(pair["scopes"]) == {"long"}


def test_sizes_of_one_name_are_compared_at_what_they_reached(uneven: Results) -> None:
    for name in ("easy", "long"):
        uneven.answer(
            name, system("peer", "x4", "peer", "tuned"), replies("yyyyyy.." * 5, kept=13)
        )  # asked x4, is x3.1
    scopes = pair_of(write_metrics(uneven.out), "head-x4-tuned", "peer-x4-tuned")
    part = math.log2(40 / 13) - 1  # on the way from x2 to x4: the peer has no other size, the head has
    assert scopes["easy"]["a_of"] == ["head-x2-tuned", "head-x4-tuned"]
    assert scopes["easy"]["mean"] == pytest.approx((1 - part) * 7 / 8 + part * 4 / 8 - 6 / 8, abs=1e-5)
    assert scopes["easy"]["ratios"] == pytest.approx([40 / 13] * 2, abs=1e-4)


def test_systems_that_are_not_done_are_left_out_of_pooled_numbers(compared: Results) -> None:
    compared.answer("west", system("head", "x4", "bound", "tuned"), replies("y..." * 2), asked=20)
    compared.fail("west", "head-x4-tuned", "the peer is gone")
    compared.fail("east", "other-x4", "no memory")
    content = write_metrics(compared.out)
    head = content["systems"]["head-x4-tuned"]["scopes"]
    assert set(head) == {"east", "west"}
    assert (head["west"]["asked"], head["west"]["n"]) == (20, 8)
    assert set(pair_of(content, "press-x4", "head-x4-tuned")) == {"east", "west"}
    assert "pooled" in content["systems"]["press-x4"]["scopes"]
    gaps = {(gap["label"], gap["set"]): (gap["asked"], gap["answered"], gap["why"]) for gap in content["gaps"]}
    assert gaps["head-x4-tuned", "west"] == (20, 8, "the peer is gone")
    assert gaps["head-x4-tuned", "east"] == (20, 20, None)  # asked less than there is, and done
    assert gaps["other-x4", "east"] == (None, 0, "no memory")  # could not even begin
    assert ("press-x4", "east") not in gaps


def test_pairs_are_compared_on_common_questions_at_the_same_ratio(compared: Results) -> None:
    content = write_metrics(compared.out)
    scopes = pair_of(content, "press-x4", "head-x4-tuned")
    assert {scope: number["n"] for scope, number in scopes.items()} == {"east": 20, "west": 20, "pooled": 40}
    assert scopes["east"]["mean"] == pytest.approx(0.75)  # 1 and 1/4 of the first 20
    assert scopes["west"]["mean"] == pytest.approx(0.25)
    assert scopes["pooled"]["mean"] == pytest.approx(0.5)
    assert [scopes[scope]["word"] for scope in ("east", "west")] == ["better", "better"]
    against = {(pair["a"], pair["b"]) for pair in content["pairs"]}
    assert ("press-x4", "head-x8-tuned") not in against
    assert ("press-x4", "full-tuned") in against


def test_pooled_is_the_mean_of_the_sets_with_an_interval_narrower_than_theirs(compared: Results) -> None:
    content = write_metrics(compared.out)
    pooled, west = (row_of(content, "press-x4", scope) for scope in ("pooled", "west"))
    assert pooled["f1"] == pooled["headline"]["mean"] == pytest.approx(0.75)
    assert (pooled["n"], pooled["tokens"], pooled["kept"]) == (80, 3200, 800)
    # One set never errs, so the mean moves half as much as the other set's.
    width, half = (row["headline"]["high"] - row["headline"]["low"] for row in (pooled, west))
    assert width == pytest.approx(half / 2, rel=0.02)


def test_retained_is_the_share_of_the_tuned_readers_score_on_common_questions(compared: Results) -> None:
    content = write_metrics(compared.out)
    assert content["ceiling"] == "full-tuned"
    assert row_of(content, "press-x4", "east")["retained"]["mean"] == pytest.approx(1 / 0.75, abs=1e-5)
    head = row_of(content, "head-x4-tuned", "east")["retained"]
    assert (head["mean"], head["n"]) == (pytest.approx(1 / 3, abs=1e-5), 20)
    assert 0 < head["low"] < 1 / 3 < head["high"] < 1
    whole = row_of(content, "full-tuned", "pooled")["retained"]
    assert (whole["mean"], whole["low"], whole["high"]) == (1, 1, 1)


def test_losses_are_where_a_press_is_worse(compared: Results) -> None:
    losses = write_metrics(compared.out)["losses"]
    assert [(loss["press"], loss["against"], loss["scope"]) for loss in losses] == [("press-x4", "full-tuned", "west")]
    assert losses[0]["mean"] == pytest.approx(-0.25)


def test_a_selectors_gain_is_over_the_line_between_the_fixed_ratios_around_it(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.ask("set", yes_questions(8))
    made.answer("set", system("press", "x4"), replies("yyyyyy..", tokens=64, kept=16))
    made.answer("set", system("press", "x16"), replies("yy......", tokens=64, kept=4))
    sizes = (4, 16, 4, 4, 4, 4, 4, 24)
    chosen = [(text, 64, kept) for (text, _, _), kept in zip(replies("yyyyy..."), sizes, strict=True)]
    made.answer("set", system("press", "auto"), chosen)
    (found,) = write_metrics(tmp_path)["selector_gains"]
    (point,) = found["points"]
    assert point["ratio"] == 8  # 8 * 64 over 64 positions: half way from 4 to 16 by log2
    assert point["mean"] == pytest.approx(5 / 8 - (6 / 8 + 2 / 8) / 2)
    assert point["spread"] == pytest.approx(np.std(np.log2(64 / np.array(sizes))), abs=1e-4)
    assert found["slope"] is None  # of one point there is none
    assert found["gain"]["mean"] == point["mean"]


@pytest.mark.parametrize(("contexts", "word"), [(9, "untested"), (10, "better")])
def test_few_contexts_have_no_interval_and_no_word(tmp_path: Path, contexts: int, word: str) -> None:
    made = Results(tmp_path)
    made.ask("small", yes_questions(2 * contexts, each=2))
    made.answer("small", system("press", "x4"), replies("yy" * contexts))
    made.answer("small", system("head", "x4", "bound", "tuned"), replies(".." * contexts))
    made.answer("small", system("full", None, "bound", "tuned"), replies("yy" * contexts))
    content = write_metrics(made.out)
    number = pair_of(content, "press-x4", "head-x4-tuned")["small"]
    known = word != "untested"
    assert (number["mean"], number["low"], number["word"]) == (1, 1 if known else None, word)
    row = row_of(content, "press-x4", "small")
    assert (row["headline"]["mean"], row["headline"]["high"]) == (1, 1 if known else None)
    assert (row["retained"]["mean"], row["retained"]["low"]) == (1, 1 if known else None)
    report = render(content)
    assert ("untested: +100.0" in report) != known
    assert ("better by 100.0 (100.0 to 100.0)" in report) == known
    assert ("| untested on |" in report) != known
    counted = "1 | 0 | 0" if known else "– | – | –"
    assert f"| `press-x4` | x4 | {counted} | {'level' if known else 'untested'} |" in report


def test_a_small_set_leaves_the_mean_over_sets_without_an_interval(compared: Results) -> None:
    compared.ask("small", yes_questions(9))
    for about, right in ((system("press", "x4"), "y"), (system("head", "x4", "bound", "tuned"), ".")):
        compared.answer("small", about, replies(right * 9))
    content = write_metrics(compared.out)
    scopes = pair_of(content, "press-x4", "head-x4-tuned")
    assert [scopes[name]["word"] for name in ("east", "small", "pooled")] == ["better", "untested", "untested"]
    assert scopes["pooled"]["mean"] == pytest.approx((0.75 + 0.25 + 1) / 3, abs=1e-5)
    assert row_of(content, "press-x4", "pooled")["headline"]["low"] is None


def test_measures_beside_the_headline_have_intervals(tmp_path: Path) -> None:
    made = Results(tmp_path)
    for name in ("east", "west"):
        made.ask(name, [question(f"q{i}", "yes", context=f"c{i}") for i in range(40)])
        half_right: list[Reply] = [("oh yes", 40, 10), ("yes", 40, 10), ("no", 40, 10), ("no", 40, 10)]
        made.answer(name, system("press", "x4"), half_right * 10)
    content = write_metrics(made.out)
    for scope in ("east", "pooled"):
        row = row_of(content, "press-x4", scope)
        assert list(row["intervals"]) == ["exact_match", "substring_accuracy"]
        for measure, mean in (("exact_match", 0.25), ("substring_accuracy", 0.5)):
            low, high = row["intervals"][measure]
            assert row[measure] == pytest.approx(mean)
            assert low < mean < high
    low, high = row_of(content, "press-x4", "east")["intervals"]["exact_match"]
    right = np.array([0.0, 1.0, 0.0, 0.0] * 10)
    drawn = np.random.default_rng(1).choice(right, (4000, 40)).mean(1)
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))), abs=0.026)  # steps of 1/40
    assert f"25.0 ({100 * low:.1f} to {100 * high:.1f})" in render(content)
