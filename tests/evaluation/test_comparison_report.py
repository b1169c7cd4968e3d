"""The report of a folder made by hand says what the numbers say, in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_results import Results, question, replies, system, yes_questions

from latentpress.errors import InputError
from latentpress.evaluation.markdown import table, verdict
from latentpress.evaluation.metrics_file import read_metrics
from latentpress.evaluation.protocols import PROTOCOLS
from latentpress.evaluation.report import write
from latentpress.evaluation.speed_schema import Speed, Times


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next of its level or above."""
    level = title.partition(" ")[0]
    _, _, after = text.partition(f"\n{title}\n")
    assert after, f"no {title!r}"
    lines = []
    for line in after.split("\n"):
        if line.startswith("#") and len(line.partition(" ")[0]) <= len(level):
            break
        lines.append(line)
    return "\n".join(lines)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Two sets; a press that is better than the head and worse than the sentences that were chosen by the question."""
    how = {"command": ["latentpress", "eval", "--with", "a press"], "min_tokens": 9, "data": {"east": "east.jsonl"}}
    made = Results(tmp_path, asked_how=how, base={"id": "tiny"})
    for name in ("east", "west"):
        made.ask(name, yes_questions(40), too_long=3)
        made.answer(name, system("press", "x4"), replies("yy.." * 10), nbytes=8)
        made.answer(name, system("head", "x4", "bound", "tuned"), replies("y..." * 10))
        made.answer(name, system("bm25", "x4", "bound", "tuned", sees_question=True), replies("yyy." * 10))
        made.answer(name, system("full", None, "bound", "tuned"), replies("yyyy" * 10, kept=40))
    return made


def report_of(made: Results) -> str:
    write(made.out)
    return (made.out / "report.md").read_text()


def test_command_settings_sets_and_what_was_dropped_are_told(results: Results) -> None:
    told = section(report_of(results), "## What was compared, and how")
    assert "latentpress eval --with 'a press'" in told
    assert "- min tokens: 9" in told
    assert '- data: `{"east": "east.jsonl"}`' in told
    assert "- seed: 0" in told
    assert '- base: `{"id": "tiny"}`' in told
    assert "| east | 40 | span | F1 | contexts | `d-east` | 3 too long |" in told


def test_the_protocol_is_told_with_what_is_our_choice_in_it(tmp_path: Path) -> None:
    made = Results(tmp_path, protocol="semidynamic")
    made.ask("only", yes_questions(4))
    made.answer("only", system("press", "x4"), replies("yy.."))
    told = report_of(made)
    protocol = PROTOCOLS["semidynamic"]
    how = section(told, "## What was compared, and how")
    assert protocol.about in how
    assert all(f"- {choice}\n" in how for choice in protocol.ours)
    assert "scores are shown over this ratio here" in told
    assert "| substring accuracy (95%) | F1 | EM | retained | correct-only ratio | ratio |" in told


def test_a_set_that_mixes_kinds_says_so(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.ask("both", [*yes_questions(3), question("c", "C", kind="choice")])
    made.answer("both", system("press", "x4"), replies("yy.y"))
    told = report_of(made)
    assert "| both | 4 | 3 span, 1 choice | F1 or accuracy |" in told
    assert "Kinds of questions are mixed in both" in told
    assert "| F1 or accuracy (95%) | F1 | EM | substring accuracy | accuracy |" in told


def test_systems_that_see_the_question_and_bounds_have_tables_of_their_own(results: Results) -> None:
    told = section(report_of(results), "## All together: the mean of east, west")
    blind = section(told, "### Systems that do not see the question while they compress")
    sees = section(told, "### Systems that see the question while they compress")
    whole = section(told, "### Bounds: no context, and all of it")
    assert blind.index("`press-x4`") < blind.index("`head-x4-tuned`")  # the better one first
    assert "bm25" not in blind
    assert "full" not in blind
    assert "`bm25-x4-tuned`" in sees
    assert "`full-tuned`" in whole


def test_rows_hold_scores_with_intervals_and_the_papers_numbers_under_their_names(results: Results) -> None:
    told = section(report_of(results), "## east")
    header, _, press, _ = section(told, "### Systems that do not see the question while they compress").split("\n")[1:5]
    cells = dict(zip(header.split(" | "), press.split(" | "), strict=True))
    number = read_metrics(results.out)["systems"]["press-x4"]["scopes"]["east"]["headline"]
    assert cells["F1 (95%)"] == f"50.0 ({100 * number['low']:.1f} to {100 * number['high']:.1f})"
    assert cells["EM"] == cells["substring accuracy"] == cells["F1 (95%)"]  # whole answers, right or wrong
    assert cells["retained"].startswith("50.0 (")
    assert (cells["ratio"], cells["correct-only ratio"]) == ("x4", "x4")
    assert cells["bytes a context token"] == "2"


def test_in_short_counts_systems_that_do_not_see_the_question(results: Results) -> None:
    assert "| `press-x4` | x4 | 1 | 0 | 0 | worse |" in section(report_of(results), "## In short")


def test_in_short_counts_what_two_readers_read_once_by_the_trained_one(results: Results) -> None:
    for name in ("east", "west"):
        results.answer(name, system("head", "x4", "bound", "zero-shot"), replies("...." * 10))
        results.answer(name, system("tail", "x4", "bound", "zero-shot"), replies("yyyy" * 10))
    assert "| `press-x4` | x4 | 1 | 0 | 1 | worse |" in section(report_of(results), "## In short")


def test_losses_are_listed_by_whom_they_are_to(results: Results) -> None:
    told = section(report_of(results), "## Where presses lose")
    assert section(told, "### To systems that do not see the question, at the same ratio").strip() == "Nowhere."
    sees = section(told, "### To systems that see the question, at the same ratio")
    assert "| `press-x4` | `bm25-x4-tuned` | 25.0 (" in sees
    assert "| `press-x4` | `full-tuned` | 50.0 (" in section(told, "### To bounds of no size")


def test_every_comparison_of_a_press_is_in_words(results: Results) -> None:
    told = section(report_of(results), "## Presses against every other system at the same ratio")
    assert "| `press-x4` | `head-x4-tuned` | better by 25.0 (" in told
    assert "| `press-x4` | `bm25-x4-tuned` | worse by 25.0 (" in told
    assert "| 80 | x4 | x4 | every set | – | – |" in told


def test_ratios_of_a_pair_are_told_with_those_that_lie_between_two_sizes(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.ask("only", yes_questions(40))
    made.answer("only", system("press", "auto"), replies("yyyy" * 10, tokens=60, kept=10))
    for size, kept in (("x4", 15), ("x8", 7)):
        made.answer("only", system("head", size, "bound", "tuned"), replies("y..." * 10, tokens=60, kept=kept))
    told = section(report_of(made), "## Presses against every other system at the same ratio")
    assert "| `press-auto` | `head-tuned` | better by 75.0 (" in told
    assert "| 40 | x6 | x6* | only | – | – |" in told


def test_two_presses_are_told_from_both_sides(results: Results) -> None:
    for name in ("east", "west"):
        results.answer(name, system("other", "x4"), replies("yyyy" * 10))
    told = section(report_of(results), "## Presses against every other system at the same ratio")
    assert "| `press-x4` | `other-x4` | worse by 50.0 (" in section(told, "### press")
    assert "| `other-x4` | `press-x4` | better by 50.0 (" in section(told, "### other")


def test_missing_and_failed_answers_are_told(results: Results) -> None:
    assert section(report_of(results), "## Missing and failed answers").strip() == "None."
    results.answer("east", system("peer", "x4", "peer", "tuned"), replies("y" * 20))
    results.answer("west", system("peer", "x4", "peer", "tuned"), [*replies("yy"), (None, 40, 10)], asked=20)
    results.fail("west", "peer-x4-tuned", "the peer\nis gone")
    told = report_of(results)
    gaps = section(told, "## Missing and failed answers")
    assert "and done with them: `peer-x4-tuned`." in gaps
    assert "| `peer-x4-tuned` | west | 40 | 20 | 3 | 1 | the peer is gone |" in gaps
    results.fail("east", "late-x4", "no memory")
    results.fail("west", "late-x4", "no memory")
    late = section(report_of(results), "## Missing and failed answers")
    assert "| `late-x4` | east, west | 40 | – | 0 | – | no memory |" in late
    pooled = section(told, "## All together: the mean of east, west")
    assert "have not answered all they are asked on every set: `peer-x4-tuned`" in pooled
    assert "| `peer-x4-tuned` | x4 |" not in pooled
    west = section(told, "## west")
    assert next(line for line in west.split("\n") if "`peer-x4-tuned`" in line).endswith("| 20 | 3 |")


def test_times_are_ratios_and_say_when_compressing_pays(results: Results) -> None:
    assert "## Speed" not in report_of(results)
    whole = Times(kept=512, first_token=(1.0,), total=(2.0,))
    slow = Times(
        kept=128, first_token=(1.0,), total=(2.5,), compress=(0.5,), stored_total=(2.0,), stored_first_token=(0.5,)
    )
    quick = Times(
        kept=128, first_token=(1.0,), total=(2.0,), compress=(1.0,), stored_total=(1.0,), stored_first_token=(0.5,)
    )
    every = {"full-zero-shot": whole, "press-x4": quick, "slow-x4": slow}
    Speed(
        machine="one core",
        reference="full-zero-shot",
        answer_tokens=8,
        lengths={512: every},
        left_out={512: {"p": "why"}},
        elsewhere={"slow-x4": "answers afar", "press-x4": "answers afar", "other-x4": "compresses afar"},
    ).write(results.out / "speed.json")
    told = section(report_of(results), "## Speed")
    assert "one core; answers of 8 tokens" in told
    assert "| `press-x4` | 1.00 | 1.00 | 0.50 | 0.50 | 0.50 | – | 2 |" in told
    assert "| `slow-x4` | 1.25 | 1.00 | 1.00 | 0.50 | 0.25 | – | never |" in told
    assert "- Not measured: `p`, why." in told
    assert "a part is software and not method:\n\n- `slow-x4`, `press-x4`: answers afar.\n- `other-x4`:" in told


def test_a_single_set_is_its_own_summary(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.ask("only", yes_questions(20))
    made.answer("only", system("press", "x4"), replies("yy.." * 5))
    told = report_of(made)
    assert "All together" not in told
    assert "(F1, only)" in told
    assert "Retained: not known" in told


def test_long_answers_have_their_own_columns(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.ask("talks", [question("1", "one two")], kind="summary")
    made.answer("talks", system("press", "x4"), replies("y"))
    told = report_of(made)
    assert "| system | at | ROUGE-L (95%) | F1 | retained | ratio | bytes a context token | asked | answered |" in told


def test_a_folder_that_nobody_has_answered_yet_has_a_report(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.ask("only", yes_questions(2))
    assert "Nowhere by an interval" in report_of(made)


def test_a_folder_without_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.json cannot be read"):
        read_metrics(tmp_path)


def test_verdicts_name_the_size_of_a_difference_without_its_sign() -> None:
    assert verdict({"mean": -0.03, "low": -0.05, "high": -0.01, "word": "worse"}) == "worse by 3.0 (1.0 to 5.0)"
    assert verdict({"mean": 0.004, "low": -0.012, "high": 0.02, "word": "level"}) == "level: +0.4 (-1.2 to +2.0)"


def test_bars_in_cells_do_not_end_them() -> None:
    assert table(["a|b"], [["c"]]) == "| a\\|b |\n| --- |\n| c |"
