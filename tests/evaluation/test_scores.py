"""Scores of folders made by hand: means, ratios, shared resamples, paired differences and what they are pooled to."""

from __future__ import annotations

import json
import lzma
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_results import Results, question, replies, system, yes_questions

from latentpress.errors import InputError
from latentpress.evaluation import metrics
from latentpress.evaluation.latency import break_even, latency
from latentpress.evaluation.metrics_file import KEYS, read_metrics, write_metrics
from latentpress.evaluation.resampling import SetSamples, interval, word
from latentpress.evaluation.results import read_folder
from latentpress.evaluation.scores import headline
from latentpress.evaluation.speed_schema import Speed, Times


def row_of(content: dict[str, Any], label: str, scope: str) -> dict[str, Any]:
    row: dict[str, Any] = content["systems"][label]["scopes"][scope]
    return row


def pair_of(content: dict[str, Any], a: str, b: str) -> dict[str, Any]:
    (found,) = [pair["scopes"] for pair in content["pairs"] if (pair["a"], pair["b"]) == (a, b)]
    scopes: dict[str, Any] = found
    return scopes


def test_means_ratios_and_failures_are_those_worked_by_hand(tmp_path: Path) -> None:
    made = Results(tmp_path)
    asked = [
        question("1", "red"),
        question("2", "blue sky"),
        question("3", "10"),
        question("4", "end"),
        question("5", "x"),
    ]
    made.ask("colours", asked, too_long=2)
    given = [("red", 40, 10), ("blue", 40, 20), ("2010", 80, 20), (None, 99, 99)]
    made.answer("colours", system("press", "x4"), given, nbytes=10)
    row = row_of(write_metrics(tmp_path), "press-x4", "colours")
    assert (row["n"], row["failed"], row["missing"]) == (4, 1, 1)
    assert row["f1"] == pytest.approx((1 + 2 / 3 + 0 + 0) / 4, abs=1e-5)  # the failed one is wrong, the fifth not asked
    assert row["exact_match"] == pytest.approx(1 / 4)
    assert row["substring_accuracy"] == pytest.approx(2 / 4)  # "10" is found in "2010"
    assert (row["tokens"], row["kept"], row["ratio"]) == (160, 50, 3.2)  # without the failed one
    assert row["correct_only_ratio"] == pytest.approx((40 + 80) / (10 + 20))
    assert row["bytes_per_token"] == pytest.approx(500 / 160)
    assert row["headline"]["mean"] == row["f1"]
    assert row["headline"]["low"] < row["f1"] < row["headline"]["high"]


def test_chinese_is_scored_by_characters_by_language_or_by_what_is_written(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.ask("zh", [question("1", "苏州"), question("2", "308", lang="zh"), question("3", "308")])
    made.answer("zh", system("press", "x4"), [("苏州市", 40, 10), ("308分", 40, 10), ("308分", 40, 10)])
    row = row_of(write_metrics(tmp_path), "press-x4", "zh")
    # 2 of 3 characters and 2 of 2; "308" and a character, 1 of 2 tokens; in English another word.
    assert row["f1"] == pytest.approx((4 / 5 + 2 / 3 + 0) / 3, abs=1e-5)


def test_summaries_and_choices_have_measures_of_their_own(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.ask("talks", [question("1", "one two three four")], kind="summary")
    made.ask("exam", [question("1", "C")], kind="choice")
    made.answer("talks", system("press", "x4"), [("one three five", 40, 10)])
    made.answer("exam", system("press", "x4"), [("C. the barn", 40, 10)])
    content = write_metrics(tmp_path)
    talk, exam = row_of(content, "press-x4", "talks"), row_of(content, "press-x4", "exam")
    assert talk["headline"]["mean"] == talk["rouge_l"] == pytest.approx(2 * 2 / (3 + 4), abs=1e-5)
    assert exam["headline"]["mean"] == exam["choice_accuracy"] == 1
    assert "f1" not in exam
    assert "pooled" not in content["systems"]["press-x4"]["scopes"]  # different measures are not averaged


@pytest.mark.parametrize(
    ("protocol", "measure"), [("default", "f1"), ("semidynamic", "substring_accuracy"), ("comprexit", "exact_match")]
)
def test_protocol_says_what_short_answers_are_ranked_by(protocol: str, measure: str) -> None:
    assert headline("span", protocol) == measure
    assert headline("summary", protocol) == "rouge_l"


def test_interval_is_the_usual_bootstrap_where_every_question_has_its_own_context() -> None:
    values = np.random.default_rng(1).uniform(size=300)
    samples = SetSamples("set", np.arange(300), {"a": values}, samples=4000)
    means, resampled = samples.means(["a"])
    expected = metrics.bootstrap_interval(values, samples=4000)
    assert means[0] == pytest.approx(expected[0])
    assert interval(resampled[:, 0]) == pytest.approx(expected[1:], abs=0.004)


def test_interval_counts_contexts_where_questions_of_one_are_alike() -> None:
    by_context = np.random.default_rng(2).integers(2, size=50).astype(float)
    values = np.repeat(by_context, 10)
    together = SetSamples("set", np.repeat(np.arange(50), 10), {"a": values}, samples=4000)
    alone = SetSamples("set", np.arange(500), {"a": values}, samples=4000)
    wide, narrow = (np.subtract(*interval(one.means(["a"])[1][:, 0])[::-1]) for one in (together, alone))
    assert wide == pytest.approx(narrow * math.sqrt(10), rel=0.1)


def test_systems_share_resamples_so_a_constant_lead_has_no_interval() -> None:
    values = np.random.default_rng(3).uniform(0, 0.5, size=80)
    samples = SetSamples("set", np.arange(80), {"a": values + 0.25, "b": values})
    _, resampled = samples.means(["a", "b"])
    assert resampled[:, 0] - resampled[:, 1] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.1, 0.2, "better"), (-0.2, -0.1, "worse"), (-0.1, 0.1, "level"), (0.0, 0.1, "level")]
)
def test_better_is_said_only_where_the_interval_leaves_zero_out(low: float, high: float, said: str) -> None:
    assert word(low, high) == said


@pytest.fixture
def compared(tmp_path: Path) -> Results:
    """Two sets of 40 questions; a press, a cut text on the first 20 of each, and the tuned reader of the full text."""
    made = Results(tmp_path)
    for name, press in (("east", "yyyy"), ("west", "yy..")):
        made.ask(name, yes_questions(40, each=2))
        made.answer(name, system("press", "x4"), replies(press * 10))
        made.answer(name, system("head", "x4", "bound", "tuned"), replies("y..." * 5))
        made.answer(name, system("full", None, "bound", "tuned"), replies("yyy." * 10, kept=40))
        made.answer(name, system("none", None, "bound", "tuned"), replies("...." * 10, kept=0))
        made.answer(name, system("head", "x8", "bound", "tuned"), replies("...." * 10, kept=5))
    return made


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


def test_what_is_undefined_is_null_and_the_file_is_the_same_each_time(compared: Results) -> None:
    write_metrics(compared.out)
    written = (compared.out / "metrics.json").read_text()
    content = json.loads(written, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert row_of(content, "none-tuned", "east")["ratio"] is None
    assert row_of(content, "press-x4", "east")["bytes_per_token"] is None
    assert content["keys"] == KEYS
    assert read_metrics(compared.out) == content
    write_metrics(compared.out)
    assert (compared.out / "metrics.json").read_text() == written


def test_a_selectors_size_is_compared_at_the_nearest_asked_ratio(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.ask("set", yes_questions(4))
    for size, kept in (("x4", 10), ("x8", 5), ("auto", 9), ("auto+1", 6), ("auto+2", 2)):
        made.answer("set", system("press", size), replies("yy..", kept=kept))
    systems = write_metrics(tmp_path)["systems"]
    # 40 tokens over 9, 6 and 2 positions: x4.4, x6.7 and x20, further than half an octave from every asked ratio.
    assert [systems[f"press-{size}"]["compared_at"] for size in ("auto", "auto+1", "auto+2")] == [4, 8, None]


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


def test_packed_files_and_half_lines_are_read(compared: Results) -> None:
    before = write_metrics(compared.out)
    path = compared.out / "predictions" / "east" / "press-x4.jsonl"
    path.with_suffix(".jsonl.xz").write_bytes(lzma.compress(path.read_bytes() + b'{"id": "q'))
    path.unlink()
    assert write_metrics(compared.out) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("digest of q1", "another"), "line 3, answers a question that is not in"),
        (lambda text: text + text.splitlines()[1] + "\n", "a second time"),
        (lambda text: text.replace('"kept": 10, ', "", 1), "lacks prediction, tokens or kept"),
        (lambda text: text.replace('"fingerprint": "ab"', '"fingerprint": "cd"'), "were made otherwise"),
        (lambda text: text.replace('"label"', '"table"', 1), "does not say what made"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(compared: Results, change: Any, message: str) -> None:
    path = compared.out / "predictions" / "west" / "press-x4.jsonl"
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message):
        read_folder(compared.out)


def test_a_folder_without_settings_is_no_folder_of_results(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder of results"):
        read_folder(tmp_path)


def test_compressing_pays_from_the_first_question_that_makes_it_quicker() -> None:
    assert break_even(compress=1.0, stored=1.0, full=3.0) == 1  # 1 + 1 < 3
    assert break_even(compress=2.0, stored=1.0, full=3.0) == 2  # 2 + 1 = 3 is no quicker, 2 + 2 < 6 is
    assert break_even(compress=5.0, stored=1.0, full=3.0) == 3  # 5 + 3 < 9, 5 + 2 = 7 > 6
    assert break_even(compress=0.1, stored=3.0, full=3.0) == math.inf


def speed() -> Speed:
    whole = Times(kept=512, first_token=(1.0, 2.0, 1.0), total=(2.0, 4.0, 2.0), peak_bytes=1000)
    press = Times(
        kept=128,
        compress=(1.0, 2.0, 3.0),
        first_token=(1.5, 3.0, 3.5),
        total=(2.0, 4.0, 4.0),
        stored_first_token=(0.5, 1.0, 0.5),
        stored_total=(1.0, 2.0, 1.0),
        peak_bytes=500,
    )
    return Speed(
        machine="one core",
        reference="full-zero-shot",
        answer_tokens=8,
        lengths={512: {"full-zero-shot": whole, "press-x4": press}},
        left_out={512: {"peer-x4": "no package"}},
    )


def test_times_are_ratios_within_each_round() -> None:
    found = latency(speed())["lengths"]["512"]["press-x4"]
    assert found["total"]["ratio"] == {"median": 1.0, "low": 1.0, "high": 2.0}
    assert found["first_token"]["ratio"] == {"median": 1.5, "low": 1.5, "high": 3.5}  # to the full text's first token
    assert found["compress"]["ratio"] == {"median": 0.5, "low": 0.5, "high": 1.5}  # to its whole answer
    assert found["stored_total"]["ratio"]["median"] == 0.5
    assert found["peak_ratio"] == 0.5
    assert found["break_even"] == {"median": 2, "low": 2, "high": 4}
    assert latency(speed())["lengths"]["512"]["full-zero-shot"]["break_even"] is None


def test_times_are_read_as_they_were_written(tmp_path: Path) -> None:
    speed().write(tmp_path / "speed.json")
    assert Speed.read(tmp_path / "speed.json") == speed()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"format": 1', '"format": 2'),
        ('"reference": "full-zero-shot"', '"reference": "other"'),
        ("0.5,", "-0.5,"),
        ('"stored_total": [', '"stored": ['),
        ('"lengths"', '"widths"'),
    ],
)
def test_times_that_are_none_are_refused(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "speed.json"
    speed().write(path)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match="measure the times again"):
        Speed.read(path)
