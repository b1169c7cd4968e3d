"""Scores of folders made by hand: means, ratios, shared resamples, paired differences and what they are pooled to."""

from __future__ import annotations

import dataclasses
import json
import lzma
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bootstrap import bootstrap_interval, paired_bootstrap
from made_results import Results, compared_folder, question, row_of, system, yes_questions

from latentpress.errors import InputError
from latentpress.evaluation.latency import break_even, latency
from latentpress.evaluation.metrics_file import KEYS, ratio_key, ratio_of, read_metrics, write_metrics
from latentpress.evaluation.resampling import SetSamples, interval, word
from latentpress.evaluation.results import read_folder
from latentpress.evaluation.scores import columns, headline
from latentpress.evaluation.speed_schema import Speed, Times


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
    made.answer("colours", system("press", "x4"), given, nbytes=10, asked=5)
    row = row_of(write_metrics(tmp_path), "press-x4", "colours")
    assert (row["asked"], row["n"], row["failed"]) == (5, 4, 1)
    assert row["f1"] == pytest.approx((1 + 2 / 3 + 0 + 0) / 4, abs=1e-5)  # the failed one is wrong, the fifth to come
    assert row["exact_match"] == pytest.approx(1 / 4)
    assert row["substring_accuracy"] == pytest.approx(2 / 4)  # "10" is found in "2010"
    assert (row["tokens"], row["kept"], row["ratio"]) == (160, 50, 3.2)  # without the failed one
    assert row["correct_only_ratio"] == pytest.approx((40 + 80) / (10 + 20))
    assert row["bytes_per_token"] == pytest.approx(500 / 160)
    assert row["headline"]["mean"] == row["f1"]
    assert row["headline"]["low"] is None  # of four contexts


def test_chinese_is_scored_by_characters_by_language_or_by_what_is_written(tmp_path: Path) -> None:
    made = Results(tmp_path)
    asked = [question("1", "苏州", text="哪里？"), question("2", "308", lang="zh"), question("3", "308")]
    made.ask("zh", asked)
    made.answer("zh", system("press", "x4"), [("苏州市", 40, 10), ("308分", 40, 10), ("308分", 40, 10)])
    row = row_of(write_metrics(tmp_path), "press-x4", "zh")
    # 2 of 3 characters and 2 of 2; "308" and a character, 1 of 2 tokens; in English another word.
    assert row["f1"] == pytest.approx((4 / 5 + 2 / 3 + 0) / 3, abs=1e-5)


def test_answers_do_not_make_an_english_question_chinese(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.ask("en", [question("1", "正"), question("2", "正", lang="en", text="正？")])
    made.answer("en", system("press", "x4"), [("the 正", 40, 10)] * 2)
    assert row_of(write_metrics(tmp_path), "press-x4", "en")["f1"] == 1


def test_a_set_that_mixes_kinds_is_scored_question_by_question(tmp_path: Path) -> None:
    made = Results(tmp_path)
    asked = [
        question("1", "red"),
        question("2", "blue sky"),
        question("3", "C", kind="choice"),
        question("4", "one two three four", kind="summary"),
    ]
    made.ask("mixed", asked)
    given = [("red", 40, 10), ("sky", 40, 10), ("C. a barn", 40, 10), ("one three five", 40, 10)]
    made.answer("mixed", system("press", "x4"), given)
    content = write_metrics(tmp_path)
    row, about = row_of(content, "press-x4", "mixed"), content["sets"]["mixed"]
    rouge = 2 * 2 / (3 + 4)
    assert row["headline"]["mean"] == pytest.approx((1 + 2 / 3 + 1 + rouge) / 4, abs=1e-5)
    assert (row["choice_accuracy"], row["rouge_l"]) == (1, pytest.approx(rouge, abs=1e-5))
    assert row["exact_match"] == 0.5  # of the two that have it
    assert about["kinds"] == {"span": 2, "summary": 1, "choice": 1}
    assert about["measure"] == "f1+rouge_l+choice_accuracy"
    assert set(about["columns"]) == {"f1", "exact_match", "substring_accuracy", "rouge_l", "choice_accuracy"}


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
    expected = bootstrap_interval(values, samples=4000)
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


def test_interval_of_a_difference_is_that_of_the_paired_bootstrap() -> None:
    generator = np.random.default_rng(4)
    hard = generator.uniform(size=300)
    a, b = hard + 0.1 * generator.uniform(size=300), hard + 0.1 * generator.uniform(size=300)
    _, resampled = SetSamples("set", np.arange(300), {"a": a, "b": b}, samples=4000).means(["a", "b"])
    expected = paired_bootstrap(a, b, samples=4000)
    assert interval(resampled[:, 0] - resampled[:, 1]) == pytest.approx(expected[1:], abs=0.001)


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.1, 0.2, "better"), (-0.2, -0.1, "worse"), (-0.1, 0.1, "level"), (0.0, 0.1, "level")]
)
def test_better_is_said_only_where_the_interval_leaves_zero_out(low: float, high: float, said: str) -> None:
    assert word(low, high) == said


@pytest.fixture
def compared(tmp_path: Path) -> Results:
    return compared_folder(tmp_path)


def test_with_the_papers_protocol_its_ratio_is_the_one_that_scores_are_shown_over(tmp_path: Path) -> None:
    made = Results(tmp_path, protocol="semidynamic")
    made.ask("set", yes_questions(2))
    made.ask("exam", [question("1", "C")], kind="choice")
    made.answer("set", system("press", "x4"), [("yes", 40, 4), ("no", 40, 16)])
    made.answer("set", system("wrong", "x4"), [("no", 40, 4), ("no", 40, 16)])
    made.answer("exam", system("press", "x4"), [("C", 40, 10)])
    content = write_metrics(tmp_path)
    key = ratio_key(content, "set")
    right, wrong = (row_of(content, label, "set") for label in ("press-x4", "wrong-x4"))
    assert (ratio_of(right, key), right["ratio"]) == (10, 4)
    assert ratio_of(wrong, key) == 4  # no answer is right, and it is not hidden for that
    assert ratio_key(content, "exam") == "ratio"  # the paper's is of short answers
    assert content["sets"]["set"]["columns"] == ["f1", "exact_match"]


def test_columns_come_in_the_order_of_the_protocol() -> None:
    assert columns(["span"], "comprexit") == ["f1", "substring_accuracy"]
    assert columns(["span"], "default") == ["exact_match", "substring_accuracy"]
    assert columns(["choice", "span"], "comprexit") == ["exact_match", "f1", "choice_accuracy", "substring_accuracy"]


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


def test_packed_files_and_half_lines_are_read(compared: Results) -> None:
    before = write_metrics(compared.out)
    path = compared.out / "predictions" / "east" / "press-x4.jsonl"
    path.with_suffix(".jsonl.xz").write_bytes(lzma.compress(path.read_bytes() + b'{"id": "q'))
    path.unlink()
    assert write_metrics(compared.out) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"identity"', '"id"', 1), "does not say what made"),
        (lambda text: text.replace('"asked": 40', '"asked": null', 1), "does not say what made"),
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


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("settings.json", '"format": 1', '"format": 9', "is of format 9, not 1"),
        ("settings.json", '"format": 1, ', "", "is no folder of results"),
        ("questions/west.jsonl", '"kind": "span"', '"kind": "essay"', "'essay' is none of span, summary, choice"),
        ("failed.json", "{", "[{", "failed.json cannot be read"),
    ],
)
def test_what_is_laid_out_otherwise_is_refused(compared: Results, file: str, old: str, new: str, message: str) -> None:
    compared.fail("west", "head-x4-tuned", "gone")
    path = compared.out / file
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        read_folder(compared.out)


def test_what_reads_is_not_mixed_up_with_the_identity_of_the_reader(compared: Results) -> None:
    folder = read_folder(compared.out)
    assert folder.systems["full-tuned"].reader == "tuned"
    assert folder.systems["full-tuned"].identity["reader"] == {"fingerprint": "cd"}
    assert folder.asked["east", "head-x4-tuned"] == 20


def test_a_folder_without_settings_is_no_folder_of_results(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder of results"):
        read_folder(tmp_path)


def test_compressing_pays_from_the_first_question_that_makes_it_quicker() -> None:
    assert break_even(compress=1.0, stored=1.0, full=3.0) == 1  # 1 + 1 < 3
    assert break_even(compress=2.0, stored=1.0, full=3.0) == 2  # 2 + 1 = 3 is no quicker, 2 + 2 < 6 is
    assert break_even(compress=5.0, stored=1.0, full=3.0) == 3  # 5 + 3 < 9, 5 + 2 = 7 > 6
    assert break_even(compress=0.1, stored=3.0, full=3.0) == math.inf


def test_compressing_pays_against_a_cached_text_once_what_it_takes_more_has_come_back() -> None:
    assert break_even(compress=5.0, stored=1.0, full=2.0, read=3.0) == 3  # 5 + 3 < 3 + 6, 5 + 2 = 3 + 4
    assert break_even(compress=2.0, stored=1.0, full=2.0, read=3.0) == 1
    assert break_even(compress=2.0, stored=2.5, full=2.0, read=3.0) == math.inf  # 4.5 < 5, but 7 = 7
    assert break_even(compress=2.0, stored=2.0, full=2.0, read=3.0) == 1
    assert break_even(compress=5.0, stored=2.0, full=2.0, read=3.0) == math.inf


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
    lengths = {512: {**speed().lengths[512], "thrifty": Times(kept=1, first_token=(1.0,), total=(1.0,), peak_bytes=0)}}
    thrifty = latency(dataclasses.replace(speed(), lengths=lengths))["lengths"]["512"]["thrifty"]
    assert (thrifty["peak_bytes"], thrifty["peak_ratio"]) == (0, 0)  # known, and nothing
    assert found["break_even"] == {"median": 2, "low": 2, "high": 4}
    assert found["break_even_cached"] is None  # nobody kept the text
    assert latency(speed())["lengths"]["512"]["full-zero-shot"]["break_even"] is None
    cached = Times(
        kept=512,
        compress=(0.5, 1.0, 0.5),
        first_token=(1.1, 2.1, 1.1),
        total=(2.1, 4.1, 2.1),
        stored_first_token=(0.3, 0.6, 0.3),
        stored_total=(1.5, 3.0, 1.0),
    )
    lengths = {512: {**speed().lengths[512], "kept": cached}}
    beside = latency(dataclasses.replace(speed(), cached="kept", lengths=lengths))["lengths"]["512"]
    assert beside["press-x4"]["break_even"] == found["break_even"]
    assert beside["press-x4"]["break_even_cached"] == {"median": 2, "low": 2, "high": None}
    assert beside["kept"]["break_even_cached"] is None


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
